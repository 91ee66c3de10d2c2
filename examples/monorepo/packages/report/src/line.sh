line() { printf "%-8s %s\n" "$1" "$2"; }
