set -- 1 1
[ "$(line sum "$(add "$1" "$2")")" = "sum      2" ]
