echo "<p>$(add "$1" "$2")</p>"
