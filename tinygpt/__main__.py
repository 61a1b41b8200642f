"""`python -m tinygpt` is the command `tinygpt`."""

from tinygpt.cli.main import main

main()
