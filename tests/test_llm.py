"""llm: train, finetune, load, and what an LLM can do."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import MODEL, TEXT, TRAIN, assert_same_tensors, write_text
from torch import nn

import tinygpt
from tinygpt.errors import UserError
from tinygpt.finetuning import chat
from tinygpt.finetuning.run import load_model
from tinygpt.generation.generate import generate
from tinygpt.llm import LLM
from tinygpt.text.tokenizer import Tokenizer

QUICK: dict[str, Any] = MODEL | TRAIN | {"steps": 3, "device": "cpu", "dropout": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a vocabulary."""
    folder = tmp_path_factory.mktemp("llm")
    write_text(folder)
    return folder


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    """A model trained for three steps."""
    return train(folder)


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, as the current one."""
    monkeypatch.chdir(folder)
    return folder


def train(folder: Path, **settings: Any) -> LLM:
    own = {"tokenizer": folder / "small.tiktoken", "progress": False}
    return tinygpt.train(folder / "text.txt", **(QUICK | own | settings))


# --- Writing -------------------------------------------------------------------------


def test_generate_is_the_pieces_of_stream(llm: LLM) -> None:
    options: dict[str, Any] = {"temperature": 0.9, "top_k": 30, "top_p": 0.95}
    pieces = list(llm.stream("the", 20, seed=4, **options))
    assert pieces[0] == "the"
    assert len(pieces) > 3
    ids = torch.tensor([llm.tokenizer.encode("the")])
    stop = llm.tokenizer.end_of_text
    tokens = generate(llm.model, ids, 20, seed=4, stop_token=stop, **options)
    written = llm.tokenizer.decode([int(t) for t in tokens if int(t) != stop])
    assert "".join(pieces) == llm.generate("the", 20, seed=4, **options)
    assert "".join(pieces) == "the" + written
    every = {"temperature": 0.9, "top_k": None}  # of near equals, rounding keeps others
    cached = llm.generate("the", 20, seed=4, **every)
    assert llm.generate("the", 20, seed=4, use_cache=False, **every) == cached
    on = llm.generate("the", 20, seed=4, stop_at_end=False, **options)
    tokens = generate(llm.model, ids, 20, seed=4, **options)
    assert on == "the" + llm.tokenizer.decode([int(t) for t in tokens])
    assert llm.generate("the", 0) == "the"
    assert llm.generate("the", 20, temperature=0.0) != llm.generate(
        "the", 20, temperature=5.0, top_k=None, seed=2
    )


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_smaller_weights_write_and_are_evaluated(weights: str, tmp_path: Path) -> None:
    plain, small = tinygpt.load("tiny"), LLM.load("tiny", weights=weights)
    assert repr(small) == repr(plain)
    text = tmp_path / "text.txt"
    text.write_text(200 * "The salesperson asks the customer what is wanted. ")
    lost = small.evaluate(text).bits_per_byte - plain.evaluate(text).bits_per_byte
    assert abs(lost) < 0.02
    assert small.generate("The", 5, seed=1).startswith("The")
    sentence = f"weights in {weights} can neither be saved nor trained"
    with pytest.raises(UserError, match=sentence):
        small.save(tmp_path / "saved")
    with pytest.raises(UserError, match=sentence):
        tinygpt.finetune(small, text)
    with pytest.raises(UserError, match="weights are float32, bfloat16, int8, not 'x'"):
        tinygpt.load("tiny", weights="x")


def test_the_end_mark_stops_and_is_not_written(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = llm.tokenizer.end_of_text

    def short(*_: Any, stop_token: int, **__: Any) -> Iterator[torch.Tensor]:
        assert stop_token == stop
        yield from torch.tensor([*llm.tokenizer.encode(" seller"), stop])

    monkeypatch.setattr("tinygpt.generation.continuation.generate", short)
    assert llm.generate("the") == "the seller"


def test_samples_are_the_texts_of_seeds_in_a_row(llm: LLM) -> None:
    every = {"temperature": 0.9, "top_k": None}  # of near equals, rounding keeps others
    texts = llm.samples("the", 3, 20, seed=4, **every)
    alone = [llm.generate("the", 20, seed=i, **every) for i in (4, 5, 6)]
    assert texts == alone
    assert len(set(texts)) == 3
    assert llm.samples("the", 2, 0) == ["the", "the"]
    assert len(llm.samples("the", 2, 3)) == 2  # without a seed
    for n in (0, 257):
        with pytest.raises(UserError, match=f"samples must be from 1 to 256, not {n}"):
            llm.samples("the", n)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": TEXT}, "context holds 8"),
        ({"temperature": -1.0}, "temperature must be at least 0, not -1"),
        ({"temperature": float("nan")}, "temperature must be at least 0, not nan"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, not 0"),
        ({"seed": -1}, "seed must be from 0 to"),
        ({"max_new_tokens": -1}, "max_new_tokens must be at least 0"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(
    llm: LLM, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        llm.stream(**({"prompt": "the"} | options))  # no piece is asked for


# --- Answering -----------------------------------------------------------------------


def test_reply_takes_a_string_or_messages() -> None:
    llm = tinygpt.load("pocket-gpt2")
    message = "Where is my parcel?"
    messages = [{"role": "user", "content": message}]
    said = llm.reply(message, 12, seed=3)
    pieces = chat.answer(llm.model, llm.tokenizer, messages, 12, seed=3)
    assert said == "".join(pieces).strip() != ""
    assert llm.reply(messages, 12, seed=3) == said
    longer = [*messages, {"role": "assistant", "content": said}, *messages]
    assert llm.reply(longer, 12, seed=3) != said
    with pytest.raises(UserError, match="unknown role 'judge'"):
        llm.reply([{"role": "judge", "content": "No"}])
    with pytest.raises(UserError, match="top_k must be"):
        llm.reply(message, top_k=-1)


# --- Training ------------------------------------------------------------------------


def test_train_takes_settings_of_model_and_training(folder: Path, llm: LLM) -> None:
    assert llm.config.d_model == MODEL["d_model"]
    assert llm.config.vocab_size == llm.tokenizer.vocab_size
    assert not llm.model.training
    again = train(folder, preset="tiny")
    assert_same_tensors(llm.model.state_dict(), again.model.state_dict())
    other = train(folder, seed=2, n_layers=2)
    assert other.config.n_layers == 2
    assert f"{llm.model.n_parameters():,} parameters" in repr(llm)


def test_a_tokenizer_stands_where_its_name_may(folder: Path, llm: LLM) -> None:
    own = Tokenizer.load(folder / "small.tiktoken")
    trained = train(folder, tokenizer=own)
    assert trained.tokenizer is own
    assert_same_tensors(llm.model.state_dict(), trained.model.state_dict())
    named = train(folder, tokenizer=str(folder / "small.tiktoken"))
    assert named.tokenizer.ranks == own.ranks


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"step": 5}, "there is no setting 'step' (did you mean 'steps'?)"),
        ({"dmodel": 8}, "did you mean 'd_model'?"),
        ({"qqqqqq": 8}, "there is no setting 'qqqqqq'"),
        ({"vocab_size": 99}, "the tokenizer decides the vocab_size"),
        ({"preset": "tinny"}, "there is no preset 'tinny' (did you mean 'tiny'?)"),
        ({"preset": "x"}, "there is no preset 'x': choose tiny, story, pocket"),
        ({"steps": -1}, "steps must be at least 1, not -1"),
        ({"name": "../x"}, "'../x' is not a name"),
        ({"name": ""}, "'' is not a name"),
        ({"tokenizer": "t5"}, "'t5'"),
        ({"text": "novel"}, "'novel'"),
    ],
)
def test_a_setting_that_cannot_be_used(
    here: Path, settings: dict[str, Any], sentence: str
) -> None:
    before = sorted(here.iterdir())
    given = QUICK | {"text": "text.txt", "tokenizer": "small.tiktoken"} | settings
    with pytest.raises(UserError) as caught:
        tinygpt.train(**given, progress=False)
    assert sentence in str(caught.value)
    assert sorted(here.iterdir()) == before


def test_a_run_without_a_name_lives_as_long_as_the_llm(folder: Path) -> None:
    llm = train(folder, steps=1)
    path = llm.folder
    assert path is not None
    assert (path / "run.json").is_file()
    assert folder not in path.parents
    del llm
    gc.collect()
    assert not path.parent.exists()


def test_a_run_that_fails_leaves_nothing_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UserError, match="the training loss is"):
        train(folder, lr=1e38, head_lr=1e38, logit_softcap=0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_named_run_stays_and_is_loaded_by_its_name(here: Path) -> None:
    llm = train(here, name="mine", steps=1)
    assert llm.folder == Path("runs/mine")
    for name in ("mine", "runs/mine", Path("runs/mine")):
        loaded = tinygpt.load(name)
        assert loaded.folder == Path("runs/mine")
        assert_same_tensors(llm.model.state_dict(), loaded.model.state_dict())
    with pytest.raises(UserError, match="mine exists"):
        train(here, name="mine", steps=1)


def test_progress_is_no_output_where_nobody_watches(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(folder, steps=1, progress=True)
    assert capsys.readouterr() == ("", "")


# --- Measuring, saving, loading ------------------------------------------------------


def test_evaluate_measures_the_last_tenth(here: Path, llm: LLM) -> None:
    measured = llm.evaluate("text.txt")
    assert llm.evaluate(here / "text.txt") == measured
    assert 0 < measured.bits_per_byte < 10
    assert 0.05 * len(TEXT) < measured.bytes < 0.15 * len(TEXT)
    Path("other.txt").write_text("zebra xylophone " * 60, encoding="utf-8")
    assert llm.evaluate("other.txt").bits_per_byte > measured.bits_per_byte
    with pytest.raises(UserError, match=r"'gone\.txt'"):
        llm.evaluate("gone.txt")


def test_a_saved_model_is_loaded_as_it_was(here: Path, llm: LLM) -> None:
    llm.save("saved")
    for loaded in (tinygpt.load("saved"), LLM.load("saved")):
        assert_same_tensors(llm.model.state_dict(), loaded.model.state_dict())
        assert loaded.config == llm.config
        assert loaded.tokenizer.ranks == llm.tokenizer.ranks
        assert loaded.generate("the", seed=1) == llm.generate("the", seed=1)
    llm.save("saved")  # its own folder may be written again


def test_saving_never_replaces_what_is_not_a_saved_model(here: Path, llm: LLM) -> None:
    run = train(here, name="kept", steps=1)
    before = {p.name: p.read_bytes() for p in Path("runs/kept").iterdir()}
    for folder in ("runs/kept", "text.txt", ""):
        with pytest.raises(UserError):
            llm.save(folder)
    assert {p.name: p.read_bytes() for p in Path("runs/kept").iterdir()} == before
    assert run.folder == Path("runs/kept")


def test_there_is_no_such_model(here: Path) -> None:
    for name in ("nowhere", "", "x" * 300, "text.txt"):
        with pytest.raises(UserError):
            tinygpt.load(name)


@pytest.mark.parametrize("name", ["story", "tiny", "pocket-gpt2", "pocket-chat"])
def test_the_models_that_ship(name: str) -> None:
    llm = tinygpt.load(name)
    assert llm.generate("The", 3, seed=1).startswith("The")
    assert llm.model.n_parameters() > 1_000_000


# --- Fine-tuning ---------------------------------------------------------------------

TUNING: dict[str, Any] = {
    "steps": 2,
    "warmup_steps": 0,
    "device": "cpu",
    "progress": False,
}


@pytest.mark.parametrize("lora", [False, True])
def test_fine_tuning_leaves_its_base_as_it_was(
    folder: Path, llm: LLM, lora: bool
) -> None:
    before = {name: t.clone() for name, t in llm.model.state_dict().items()}
    text = folder / "text.txt"
    tuned = tinygpt.finetune(llm, text, lora=lora, lr=0.02, **TUNING)
    assert_same_tensors(llm.model.state_dict(), before)
    assert tuned.tokenizer is llm.tokenizer
    assert tuned.config == llm.config
    assert tuned.evaluate(text) != llm.evaluate(text)
    layers = {type(m) for m in tuned.model.modules() if isinstance(m, nn.Linear)}
    assert layers == {nn.Linear}  # adapters became part of the weights
    assert tuned.folder is not None
    model, _ = load_model(tuned.folder)
    assert_same_tensors(model.state_dict(), tuned.model.state_dict())


@pytest.mark.parametrize("lora", [False, True])
def test_fine_tuning_takes_what_load_gives(folder: Path, llm: LLM, lora: bool) -> None:
    llm.save(folder / "saved")
    loaded, text = tinygpt.load(folder / "saved"), folder / "text.txt"
    tuned = tinygpt.finetune(loaded, text, lora=lora, lr=0.02, **TUNING)
    assert tuned.evaluate(text) != loaded.evaluate(text)
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_fine_tuning_takes_what_load_takes(here: Path) -> None:
    train(here, name="base", steps=1)
    tuned = tinygpt.finetune("base", "text.txt", name="tuned", **TUNING)
    assert tuned.folder == Path("runs/tuned")
    with pytest.raises(UserError, match="did you mean 'lora'"):
        tinygpt.finetune("base", "text.txt", lara=True)
    with pytest.raises(UserError, match="nowhere"):
        tinygpt.finetune("nowhere", "text.txt")
