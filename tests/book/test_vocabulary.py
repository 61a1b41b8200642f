"""The vocabulary of the shipped models is what resources/vocabulary.py learns."""

import importlib.util
from pathlib import Path

import pytest
from conftest import ROOT

DATA = ROOT / "data"


@pytest.mark.slow
@pytest.mark.skipif(
    not (DATA / "stories.txt").exists(), reason="data/stories.txt is not in this clone"
)
def test_the_courses_vocabulary_is_what_training_gives(tmp_path: Path) -> None:
    source = ROOT / "resources" / "vocabulary.py"
    spec = importlib.util.spec_from_file_location("vocabulary", source)
    assert spec is not None
    assert spec.loader is not None
    vocabulary = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(vocabulary)
    vocabulary.course_vocabulary().save(tmp_path / "course-4k.tiktoken")
    for name in ("course-4k.tiktoken", "course-4k.json"):
        made, shipped = (tmp_path / name).read_bytes(), (DATA / name).read_bytes()
        assert made == shipped.replace(b"\r", b"")
