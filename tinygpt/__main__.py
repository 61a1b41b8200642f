"""`python -m tinygpt` is the command `tinygpt`.

Where nothing is to be saved, while modules are imported or on the way out, Ctrl-C ends
the process at once. Commands that can be stopped more gently say so themselves.
"""

import os
import signal

TYPE_CHECKING = False  # typing's own name, without its import
if TYPE_CHECKING:
    from types import FrameType


def _leave(number: int = 0, frame: "FrameType | None" = None) -> None:
    """End now, as a shell expects of a program stopped by Ctrl-C."""
    os._exit(130)


def main() -> None:
    """Run one command with the words given to the process."""
    signal.signal(signal.SIGINT, _leave)
    from tinygpt.cli.main import main as run

    try:
        run()
    finally:  # whoever changed the handler has put `_leave` back
        signal.signal(signal.SIGINT, _leave)


if __name__ == "__main__":
    main()
