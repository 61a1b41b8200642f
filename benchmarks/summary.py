"""All benchmarks in one table: row, goal, result, reached or not.

python benchmarks/summary.py [--quick]      after `make bench`, or after QUICK=1
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import RESULTS, arguments, load, print_rows, row

ORDER = (
    "time_to_quality",
    "training_step",
    "generation",
    "tokenizer",
    "start_up",
    "growth",
    "bigger_text",
    "web_speed",
)
GOAL, LEAST = 250, 100  # times faster to the baseline's quality


def rows(quick: bool = False) -> list[dict[str, Any]]:
    """The rows of every benchmark that has been run."""
    found: list[dict[str, Any]] = []
    for name in ORDER:
        folder = RESULTS / "quick" if quick else RESULTS
        if not (folder / f"{name}.json").exists():
            continue
        result = load(name, quick)
        if "rows" in result:
            found += result["rows"]
        elif name == "time_to_quality":
            times = result["ratio"]
            times = times["median"] if isinstance(times, dict) else times
            goal = f"{GOAL}x, at least {LEAST}x"
            what = "time to the demo's quality"
            found.append(row(what, goal, f"{times:.0f}x", times >= GOAL))
    return found


def main() -> None:
    """Print the table."""
    print_rows(rows(arguments(__doc__).quick))


if __name__ == "__main__":
    main()
