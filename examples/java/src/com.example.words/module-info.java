/** Counting of words. */
module com.example.words {
    exports com.example.words;
}
