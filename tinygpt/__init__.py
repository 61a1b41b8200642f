"""TinyGPT: a small, real GPT, from the text file to the trained model.

Each module is one step of the course; import what you need from it, for example
`from tinygpt.model.gpt import GPT`. Importing the package itself does no work.
`tinygpt.check_answer(name, answer)` checks an answer to one of the course's exercises.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load `check_answer` when it is first asked for."""
    if name == "check_answer":
        from tinygpt.course.exercises import check_answer

        return check_answer
    raise AttributeError(f"module 'tinygpt' has no attribute {name!r}")
