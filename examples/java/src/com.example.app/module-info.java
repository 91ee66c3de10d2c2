/** A program that counts words. */
module com.example.app {
    requires com.example.words;
}
