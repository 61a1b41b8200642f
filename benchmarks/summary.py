"""All benchmarks in one table: row, goal, result, reached or not.

python benchmarks/summary.py [--quick]      after `make bench`, or after QUICK=1
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import RESULTS, arguments, load, print_rows

ORDER = (
    "time_to_quality",
    "training_step",
    "generation",
    "tokenizer",
    "start_up",
    "growth",
    "dial",
    "bigger_text",
    "web_speed",
    "web_training",
)


def rows(quick: bool = False) -> list[dict[str, Any]]:
    """The rows of every benchmark that has been run."""
    found: list[dict[str, Any]] = []
    for name in ORDER:
        folder = RESULTS / "quick" if quick else RESULTS
        if not (folder / f"{name}.json").exists():
            continue
        result = load(name, quick)
        found += result["rows"]
    return found


def main() -> None:
    """Print the table."""
    print_rows(rows(arguments(__doc__).quick))


if __name__ == "__main__":
    main()
