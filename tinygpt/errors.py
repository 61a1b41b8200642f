"""The error for bad input, which every other module may raise.

A `UserError` carries a single sentence that says what was wrong and what to do.
The command line prints that sentence and exits with 2. Every other exception is a
fault of ours and keeps its traceback.
"""


class UserError(Exception):
    """Bad input, told in one sentence: what was wrong and what to do about it."""


def require(condition: bool, sentence: str) -> None:
    """Raise a UserError with `sentence` unless `condition` holds."""
    if not condition:
        raise UserError(sentence)
