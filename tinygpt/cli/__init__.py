"""The command `tinygpt`.

`main` calls and prints, `arguments` says what can be typed, `console` speaks in the
terminal. No work is done here.
"""
