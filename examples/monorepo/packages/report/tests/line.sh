[ "$(line a b)" = "a        b" ]
