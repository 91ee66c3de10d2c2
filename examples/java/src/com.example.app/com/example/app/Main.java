package com.example.app;

import com.example.words.WordCount;

/** Prints how often each word is in its arguments. */
public final class Main {
    private Main() {
    }

    /** Counts the arguments' words. */
    public static void main(String[] arguments) {
        System.out.println(WordCount.of(String.join(" ", arguments)).summary());
        System.out.println("modules " + ModuleLayer.boot().modules().size() + ", Java "
            + Runtime.version().feature());
    }
}
