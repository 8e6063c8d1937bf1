"""`python -m maquette` is the command `maquette`."""

from maquette.cli.main import main

main()
