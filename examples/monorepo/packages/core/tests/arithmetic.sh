[ "$(add 2 3)" = 5 ]
[ "$(multiply 2 3)" = 6 ]
