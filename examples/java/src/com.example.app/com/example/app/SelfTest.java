package com.example.app;

import com.example.words.WordCount;
import java.util.Map;

/** Checks with plain assertions, to be run with -ea. */
public final class SelfTest {
    private SelfTest() {
    }

    /** Fails on the first wrong result. */
    public static void main(String[] arguments) {
        assert WordCount.of("").counts().isEmpty();
        assert WordCount.of("A b, a!").counts().equals(Map.of("a", 2L, "b", 1L));
        assert WordCount.of("b a").summary().equals("a=1 b=1");
        boolean enabled = false;
        assert enabled = true;
        if (!enabled) {
            throw new IllegalStateException("assertions are off");
        }
        System.out.println("tests passed");
    }
}
