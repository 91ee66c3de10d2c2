"""`python -m arkwright`."""

from arkwright.cli.main import main

main()
