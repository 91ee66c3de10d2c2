#!/bin/sh
# Summarise a file of orders, one line per customer.
set -eu
exec jq --raw-output --from-file /srv/report/summary.jq "$1"
