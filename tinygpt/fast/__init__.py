"""Faster twins that give the same numbers; each names its plain twin.

`linear_cross_entropy` computes the loss of the output head by chunks; `decode_torch`
and `decode_numpy` make one more token with few calls; `quantized` stores weights in two
bytes or one, and gives nearly the same; `plain` says when the others may be used. Left
out: the model itself. Nothing here is needed to understand the course.
"""
