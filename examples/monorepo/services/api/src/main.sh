line sum "$(add "$1" "$2")"
line product "$(multiply "$1" "$2")"
