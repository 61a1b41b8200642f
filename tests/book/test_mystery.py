"""Mystery runs: each fault has a sign that no other run has, and what is said is so.

All is read from the stored data; one short experiment shows which program made it.
"""

import importlib.util
import itertools
import math
import re

import pytest
from conftest import ROOT, load_tool

from tinygpt.course.exercises import body, instead

pytest.importorskip("sphinx", reason="the packages that build the site")
shown = load_tool("mystery")
found = importlib.util.spec_from_file_location("m", ROOT / "resources" / "mystery.py")
made = importlib.util.module_from_spec(found)
found.loader.exec_module(made)

RUNS = shown.load()
ENDS = {name: shown.ends(run) for name, run in RUNS.items()}
HEALTHY = ENDS["healthy"]
FAULTS = list(made.FAULTS)
each = pytest.mark.parametrize("fault", FAULTS)


@each
def test_its_sign_is_true_for_its_own_run_and_for_no_other(fault) -> None:
    sign = shown.SIGNS[fault]
    assert [name for name, run in RUNS.items() if sign(run, ENDS[name])] == [fault]


def test_there_are_twelve_faults_and_each_is_one_run_of_the_page() -> None:
    assert len(FAULTS) == 12
    assert list(shown.NAMES) == list(shown.SIGNS) == list(shown.TELLING) == FAULTS
    assert set(RUNS) == {"healthy", *FAULTS}
    text = (ROOT / "book" / "mystery_runs.md").read_text(encoding="utf-8")
    parts = re.split(r"^## Run \d+$", text, flags=re.MULTILINE)[1:]
    asked = [
        re.findall(r"^:::\{mystery\} (\w+)$", part, re.MULTILINE) for part in parts
    ]
    lines = [
        re.findall(r"\{mystery-line\} (\w+)$", part, re.MULTILINE) for part in parts
    ]
    assert asked == lines
    assert sorted(itertools.chain(*asked)) == sorted(FAULTS)
    assert asked != [[fault] for fault in FAULTS]  # which would tell
    for part, (fault,) in zip(parts, asked, strict=True):
        said = part.partition("<summary>Diagnosis</summary>")[2]
        assert said.strip().startswith(f"**{shown.NAMES[fault]}")


@each
def test_the_changed_line_is_the_one_that_the_program_would_change(fault) -> None:
    pairs = zip(
        body(made.experiment),
        instead(made.experiment, made.FAULTS[fault]).lines,
        strict=True,
    )
    changed = [[a.strip(), b.strip()] for a, b in pairs if a != b]
    assert changed == [RUNS[fault]["lines"]]


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / "data" / "stories.txt").exists(), reason="stories.txt is not here"
)
def test_the_stored_runs_begin_as_the_program_begins(monkeypatch) -> None:
    """Before the first step nothing has had time to differ between machines."""
    monkeypatch.setattr(made, "STEPS", 15)
    for run, name in (
        (made.experiment, "healthy"),
        (instead(made.experiment, made.FAULTS["embedding"]), "embedding"),
    ):
        assert run()["curve"][0] == pytest.approx(RUNS[name]["curve"][0], rel=1e-3)


def test_all_runs_are_of_one_length_and_have_all_measurements() -> None:
    for name, run in RUNS.items():
        assert [row[0] for row in run["curve"]] == [*range(0, 301, made.EVERY)], name
        assert len(run["samples"]) == 3
        assert len(run["heads"]) == made.H
        assert all(math.isfinite(loss) for row in run["curve"] for loss in row)
        assert set(run) - {"lines"} == set(RUNS["healthy"])


@each
def test_a_wrong_diagnosis_is_refuted_by_numbers_of_this_run(fault) -> None:
    said = shown.replies(fault, RUNS[fault])
    assert set(said) == set(FAULTS) - {fault}
    for reply in said.values():
        assert reply.startswith("Not this: ")
        assert re.search(r"\d", reply.partition("Here")[2])


def test_the_curves_show_what_the_explanations_say() -> None:
    val = {
        name: {step: loss for step, _, loss in run["curve"]}
        for name, run in RUNS.items()
    }
    drawn = {name: " ".join(run["samples"]) for name, run in RUNS.items()}
    for name in ("mask", "shift"):
        assert ENDS[name]["train"] < 0.05
        assert ENDS[name]["val"] < 0.05
    assert val["shift"][60] < 0.1
    assert all(sample.endswith("ldldld") for sample in RUNS["shift"]["samples"])
    assert drawn["loss"].split("<|endoftext|>") == [
        "The old",
        " The old",
        " The old",
        "",
    ]
    assert 1.5 < ENDS["loss"]["val"] / HEALTHY["first"] < 2.1
    assert max(val["rate"], key=val["rate"].get) == 90  # the peak of the schedule
    assert 45 < ENDS["rate"]["highest"] < 50
    assert val["rate"][300] >= val["rate"][30]
    # A splendid loss, and worse for all that.
    assert ENDS["tokenizer"]["val"] < HEALTHY["val"]
    assert ENDS["tokenizer"]["bits per byte"] > HEALTHY["bits per byte"]
    assert RUNS["healthy"]["bytes per token"] > 2
    # The model of the leak is the healthy one.
    assert drawn["leak"] == drawn["healthy"]
    assert RUNS["leak"]["new text"] == RUNS["healthy"]["new text"]
    assert ENDS["leak"]["val"] < HEALTHY["val"]
    assert 0 < ENDS["dropout"]["val"] - HEALTHY["val"] < 0.2
    assert 0 < ENDS["positions"]["val"] - HEALTHY["val"] < 0.05
    assert -0.05 < ENDS["head"]["val"] - HEALTHY["val"] < 0
    assert ENDS["embedding"]["val"] > HEALTHY["val"] + 0.05
    assert ENDS["overfit"]["train"] < HEALTHY["train"]
    assert min(val["overfit"], key=val["overfit"].get) < 150
    assert 0 < ENDS["decay"]["val"] - HEALTHY["val"] < 1
