"""`python -m tinygpt` is the command `tinygpt`."""

from tinygpt.cli import main

main()
