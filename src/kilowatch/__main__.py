"""`python -m kilowatch`."""

from kilowatch.cli import main

main()
