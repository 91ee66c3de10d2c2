[.orders | group_by(.customer)[] | {customer: .[0].customer, total: map(.cents) | add, orders: length}]
| sort_by(-.total)[]
| "\(.customer): \(.orders) orders, \(.total / 100) EUR"
