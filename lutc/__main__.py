"""`python -m lutc`."""

from lutc.cli import main

main(prog_name="lutc")
