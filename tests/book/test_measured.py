"""measured: every quoted number exists, every row of a result says what it means."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "book").glob("[!R]*.md"))  # no README


def load_extension() -> ModuleType:
    """book/measured.py, which is in no package."""
    path = ROOT / "book" / "measured.py"
    spec = importlib.util.spec_from_file_location("measured", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


measured = load_extension()
QUOTED = [
    pytest.param(quoted, id=f"{page.stem}:{quoted}")
    for page in PAGES
    for quoted in re.findall(r"\{measured\}`([^`]+)`", page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("quoted", QUOTED)
def test_every_quoted_number_was_measured(quoted: str) -> None:
    assert re.search(r"\w", measured.look_up(quoted))


@pytest.mark.parametrize(
    "quoted", ["no_such_file/seconds", "growth/no_such_key", "growth/cost|.1f"]
)
def test_what_was_not_measured_is_refused(quoted: str) -> None:
    with pytest.raises((KeyError, TypeError)):
        measured.look_up(quoted)


def test_a_number_is_found_and_formatted() -> None:
    path = ROOT / "benchmarks" / "results" / "growth.json"
    law = json.loads(path.read_text(encoding="utf-8"))["scaling"]["by_tokens"]
    assert measured.look_up("growth/scaling/by_tokens/b|.1f") == f"{law['b']:.1f}"


def test_a_number_in_a_table_may_have_an_escaped_bar() -> None:
    plain = "growth/scaling/by_tokens/b|.1f"
    assert measured.look_up(plain.replace("|", "\\|")) == measured.look_up(plain)


def test_code_and_powers_of_a_row_are_set_as_such() -> None:
    found = measured.formatted("`python` is 1.2x, time ~ size^-0.05.")
    assert [(n.tagname, n.astext()) for n in found] == [
        ("#text", ""),
        ("literal", "python"),
        ("#text", " is 1.2×, time ∝ size"),
        ("superscript", "−0.05"),
        ("#text", "."),
    ]


def test_every_row_says_goal_result_and_whether_it_is_reached() -> None:
    for row in measured.all_rows():
        assert set(row) == {"row", "goal", "result", "reached"}
        assert row["row"]
        assert row["result"]
        assert (row["reached"] is None) == (not row["goal"])


def test_the_table_of_all_rows_holds_each_once() -> None:
    names = [row["row"] for row in measured.all_rows()]
    assert names
    assert len(names) == len(set(names))
