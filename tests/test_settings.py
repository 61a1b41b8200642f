"""settings: names become settings of configs, from keywords and from files."""

import json
from pathlib import Path
from typing import Any

import pytest

from tinygpt.config import FinetuneConfig, GPTConfig, TrainConfig
from tinygpt.errors import UserError
from tinygpt.settings import (
    check_sampling,
    closest,
    convert,
    override,
    read_settings,
    run_path,
)

SAMPLING: dict[str, Any] = {
    "max_new_tokens": 0,
    "temperature": 0.0,
    "top_k": 1,
    "top_p": 1.0,
    "seed": 0,
}


def test_each_setting_goes_to_the_config_that_has_it() -> None:
    model, train = GPTConfig(), TrainConfig()
    settings = {"d_model": 64, "steps": 7, "data": "my.txt"}
    new_model, new_train = override(settings, model, train)
    assert (new_model.d_model, new_train.steps, new_train.data) == (64, 7, "my.txt")
    assert override({}, model, train) == (model, train)
    assert (model.d_model, train.steps) == (128, 300)  # as they were


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("step", " (did you mean 'steps'?)"),
        ("qqqq", ""),
        ("weight_decya", " (did you mean 'weight_decay'?)"),
        ("tokenizer", ""),  # fine-tuning has none of its own
    ],
)
def test_an_unknown_setting_is_refused_with_the_closest(name: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        override({name: 1}, FinetuneConfig())
    assert str(caught.value).startswith(f"there is no setting '{name}'{hint}")
    assert closest("x", ["steps"]) == ""


def test_a_config_becomes_one_with_the_same_fields() -> None:
    tuned = FinetuneConfig(epochs=2.0, data="my.txt", steps=7)
    assert convert(FinetuneConfig, tuned) == tuned
    assert type(convert(TrainConfig, FinetuneConfig(steps=7))) is TrainConfig


@pytest.mark.parametrize(
    ("content", "sections", "settings"),
    [
        ({"steps": 7, "lora": True}, ("finetune",), {"steps": 7, "lora": True}),
        ({"model": "gpt2", "steps": 7}, ("finetune",), {"model": "gpt2", "steps": 7}),
        (
            {
                "format": "x",
                "model": {"d_model": 8, "vocab_size": 9},
                "train": {"lr": 1},
            },
            ("model", "train"),
            {"d_model": 8, "lr": 1},
        ),
        (
            {"model": {"d_model": 8}, "finetune": {"lr": 1}},
            ("finetune",),
            {"lr": 1},
        ),
    ],
)
def test_settings_in_a_file(
    content: dict[str, Any],
    sections: tuple[str, ...],
    settings: dict[str, Any],
    tmp_path: Path,
) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert read_settings(path, *sections) == settings


def test_settings_of_another_kind_of_run(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    for section, wanted in ("finetune", ("model", "train")), ("train", ("finetune",)):
        path.write_text(json.dumps({"model": {}, section: {}}), encoding="utf-8")
        with pytest.raises(UserError, match="another kind of run"):
            read_settings(path, *wanted)


def test_the_folder_of_a_run() -> None:
    assert run_path(Path("runs"), "mine") == Path("runs/mine")
    for name in ("", ".", "..", "a/b", "/", "a\0b", "x" * 256):
        with pytest.raises(UserError, match="name"):
            run_path(Path("runs"), name)


def test_the_bounds_of_sampling() -> None:
    check_sampling(**SAMPLING)
    check_sampling(**SAMPLING | {"top_k": None, "top_p": None, "seed": None})
    check_sampling(**SAMPLING | {"seed": 2**63 - 1, "top_p": 1e-300})
    for name, value in (
        ("max_new_tokens", -1),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("seed", -1),
        ("seed", 2**63),
    ):
        with pytest.raises(UserError, match=f"^{name} must be"):
            check_sampling(**SAMPLING | {name: value})
