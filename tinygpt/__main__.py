"""`python -m tinygpt` is the command `tinygpt`.

Importing what the command line needs takes a moment, in which Ctrl-C has nothing to
save: it ends the process at once, without a traceback.
"""

import os
import signal
from types import FrameType


def _leave(number: int = 0, frame: FrameType | None = None) -> None:
    """End now, as a shell expects of a program stopped by Ctrl-C."""
    os._exit(130)


def main() -> None:
    """Run one command with the words given to the process."""
    signal.signal(signal.SIGINT, _leave)
    from tinygpt.cli.main import main as run

    try:
        run()
    except KeyboardInterrupt:  # another Ctrl-C on the way out
        _leave()
    finally:  # the interpreter's own way out prints a traceback for one more
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
