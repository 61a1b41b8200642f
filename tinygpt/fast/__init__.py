"""Twins that give the same numbers sooner; each names its plain twin.

`linear_cross_entropy` is the loss of the output head by chunks; `decode_torch` and
`decode_numpy` make one more token with few calls. Nothing here is needed to understand
the course.
"""
