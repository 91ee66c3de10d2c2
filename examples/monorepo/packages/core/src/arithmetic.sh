add() { echo $(($1 + $2)); }
multiply() { echo $(($1 * $2)); }
