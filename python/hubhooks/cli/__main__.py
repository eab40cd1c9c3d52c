"""`python -m hubhooks.cli` is the command `hubhooks`."""

from hubhooks.cli.main import main

main()
