"""The command `tinygpt`: options in, calls of the package, lines out.

Read `main` first (the commands and how they end), then `runs` (train, finetune, the
list of runs) and `publish` (export, open), `arguments` and `paths` (what can be typed),
`parsing` (how it is read) and `console` (streams, Ctrl-C, conversations).
What it leaves out: all work.
"""
