"""Fine-tuning: whole runs at small size, in full and with adapters.

A model of two thin blocks stands in for GPT-2; what is proven does not depend on size.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_chat import CHAT, TOKENIZER, small_model, write_chats
from tiny_run import assert_same_tensors

from tinygpt.config import FinetuneConfig, GPTConfig, TrainConfig
from tinygpt.errors import UserError
from tinygpt.finetuning.chat import answer, has_speakers
from tinygpt.finetuning.chat_data import ChatData
from tinygpt.finetuning.lora import merge
from tinygpt.finetuning.run import finetune, load_model, set_dropout
from tinygpt.formats.huggingface import export_hf
from tinygpt.training.checkpoint import RunFolder
from tinygpt.training.run import pretrain


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A small model in GPT-2's format."""
    export_hf(small_model(), TOKENIZER, tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def chats(tmp_path: Path) -> str:
    """Twenty conversations, all of one kind, so that they can be learned at once."""
    return write_chats(tmp_path)


# --- Runs --------------------------------------------------------------------------


def run_small(config: FinetuneConfig, path: Path, resume: bool = False) -> float:
    reports = list(finetune(path, config, resume=resume).reports())
    return reports[-1].validation.nats_per_token


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_a_tuned_model_answers_and_stops(
    folder: str, chats: str, tmp_path: Path, lora: bool
) -> None:
    config = FinetuneConfig(
        model=folder, data=chats, epochs=40.0, batch_size=2, window=64, lr=0.02,
        dropout=0.0, lora=lora, lora_rank=6, patience=None,
    )  # fmt: skip
    before = load_model(folder)
    after_loss = run_small(config, tmp_path / "run")
    model, tokenizer = load_model(tmp_path / "run")
    loss, first = (
        ChatData(chats, t, 64).evaluate(m).nats_per_token
        for m, t in ((model, tokenizer), before)
    )
    assert loss <= after_loss + 1e-4  # the best is kept
    assert loss < first - (0.1 if lora else 1)
    if not lora:  # adapters alone cannot teach a random model to speak
        asked = [{"role": "user", "content": "Where is order 77?"}]
        text = "".join(answer(model, tokenizer, asked, temperature=0.0))
        assert text == "It is on its way."


def test_lora_saves_adapters_only(folder: str, chats: str, tmp_path: Path) -> None:
    sizes = {}
    for lora in (False, True):
        path = tmp_path / f"run-{lora}"
        config = FinetuneConfig(
            model=folder, data=chats, epochs=1.0, window=64, lora=lora, lora_rank=2
        )
        run_small(config, path)
        sizes[lora] = (path / "best.safetensors").stat().st_size
    assert sizes[True] < sizes[False] / 10
    assert not (tmp_path / "run-True" / "model-ckpt.pt").exists()


def test_adapters_of_adapters_are_loaded_and_a_lost_base_is_named(
    folder: str, chats: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    short: dict[str, Any] = {"data": chats, "epochs": 1.0, "window": 64, "lora": True}
    monkeypatch.chdir(tmp_path)
    run_small(FinetuneConfig(model="base", **short), first)
    run = finetune(second, FinetuneConfig(model="first", **short))
    list(run.reports())
    monkeypatch.chdir("/")  # the names of the bases still hold
    merge(run.model)
    model, tokenizer = load_model(second)
    ids = torch.tensor([tokenizer.encode("Where is it?")])
    torch.testing.assert_close(model(ids), run.model.eval()(ids), atol=1e-5, rtol=1e-5)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"second holds only adapters, and their base"):
        load_model(second)


def test_a_model_that_is_no_file_is_kept_beside_its_adapters(
    chats: str, tmp_path: Path
) -> None:
    model = small_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = FinetuneConfig(
        model="nowhere", data=chats, epochs=2.0, window=64, lora=True, lr=0.02
    )
    path = tmp_path / "run"
    run = finetune(path, config, base=(model, TOKENIZER))
    reports = run.reports()
    next(reports)
    reports.close()  # type: ignore[attr-defined]
    assert_same_tensors(dict(model.named_parameters()), before)  # it stays as it is
    own = RunFolder(path).configs()[1]
    assert isinstance(own, FinetuneConfig)
    again = finetune(path, own, resume=True)
    list(again.reports())
    merge(again.model)
    loaded, tokenizer = load_model(path)
    assert tokenizer.ranks == TOKENIZER.ranks
    ids = torch.tensor([tokenizer.encode("Where is it?")])
    torch.testing.assert_close(
        loaded(ids), again.model.eval()(ids), atol=1e-5, rtol=1e-5
    )


def test_a_model_may_be_given_without_a_file(chats: str, tmp_path: Path) -> None:
    config = FinetuneConfig(data=chats, epochs=1.0, window=64, model="nowhere")
    run = finetune(tmp_path / "run", config, base=(small_model(), TOKENIZER))
    list(run.reports())
    loaded, _ = load_model(tmp_path / "run")
    assert_same_tensors(loaded.state_dict(), run.model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lora", "renumber"), [(False, False), (True, False), (False, True)]
)
def test_a_resumed_run_ends_with_the_same_weights(
    folder: str, chats: str, tmp_path: Path, lora: bool, renumber: bool
) -> None:
    if renumber:
        chats = write_chats(tmp_path, first=70_000)
    config = FinetuneConfig(
        model=folder, data=chats, epochs=6.0, batch_size=1, window=64, eval_interval=3,
        patience=None, lora=lora, checkpoint_interval=3, renumber=renumber,
    )  # fmt: skip
    run_small(config, tmp_path / "whole")
    for report in (broken := finetune(tmp_path / "parts", config).reports()):
        if report.step == 6:
            break  # as if the process ended here
    broken.close()  # type: ignore[attr-defined]
    assert RunFolder(tmp_path / "parts").load_last()[1]["step"] == 6
    own = RunFolder(tmp_path / "parts").configs()[1]
    assert isinstance(own, FinetuneConfig)
    run_small(own, tmp_path / "parts", resume=True)
    whole, _ = RunFolder(tmp_path / "whole").load_last()
    parts, _ = RunFolder(tmp_path / "parts").load_last()
    assert_same_tensors(whole, parts)


def test_the_layers_with_adapters_are_kept_with_the_run(
    folder: str, chats: str, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    config = FinetuneConfig(
        model=folder, data=chats, epochs=2.0, window=64, lora=True, lr=0.02,
        lora_targets=("q", "v", "feed_forward.output"),
    )  # fmt: skip
    run = finetune(path, config)
    list(run.reports())
    own = RunFolder(path).configs()[1]
    assert isinstance(own, FinetuneConfig)
    assert own.lora_targets == config.lora_targets
    list(finetune(path, own, resume=True).reports())
    with pytest.raises(UserError, match="leave lora_targets as it was"):
        finetune(path, replace(own, lora_targets=("qkv",)), resume=True)
    merge(run.model)
    model, tokenizer = load_model(path)
    ids = torch.tensor([tokenizer.encode("Where is it?")])
    torch.testing.assert_close(model(ids), run.model.eval()(ids), atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="no linear layer 'kq'"):
        finetune(tmp_path / "no", replace(config, lora_targets=("kq",)))
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("template", ["auto", "tokens", "text"])
def test_the_template_decides_whether_the_vocabulary_grows(
    folder: str, chats: str, tmp_path: Path, template: Any
) -> None:
    path = tmp_path / "run"
    config = FinetuneConfig(
        model=folder, data=chats, epochs=1.0, window=64, template=template
    )
    run_small(config, path)
    model, tokenizer = load_model(path)
    assert has_speakers(tokenizer) == (template != "text")
    assert model.config.vocab_size == tokenizer.vocab_size
    assert tokenizer.ranks == TOKENIZER.ranks
    assert model.head.weight is model.token_embedding.weight
    export_hf(model, tokenizer, tmp_path / "out")
    again, same = load_model(tmp_path / "out")
    assert same.special_tokens == tokenizer.special_tokens
    assert_same_tensors(again.state_dict(), model.state_dict())
    other = "text" if template != "text" else "tokens"
    own = RunFolder(path).configs()[1]
    with pytest.raises(UserError, match="leave template as it was"):
        finetune(path, replace(own, template=other), resume=True)  # type: ignore[arg-type]


def test_adapters_learn_no_new_tokens(folder: str, chats: str, tmp_path: Path) -> None:
    config = FinetuneConfig(model=folder, data=chats, window=64, lora=True)
    assert not has_speakers(finetune(tmp_path / "run", config).tokenizer)
    with pytest.raises(UserError, match="give --template text, or leave out --lora"):
        finetune(tmp_path / "run", replace(config, template="tokens"))


def test_what_cannot_be_resumed_is_left_alone(
    folder: str, chats: str, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    config = FinetuneConfig(model=folder, data=chats, epochs=1.0, window=64)
    with pytest.raises(UserError, match="there is no run in"):
        finetune(path, config, resume=True)
    assert not path.exists()
    run_small(config, path)
    with pytest.raises(UserError, match="exists: continue it with --resume"):
        finetune(path, config)
    with pytest.raises(UserError, match="leave lora, lora_rank as it was"):
        finetune(path, replace(config, lora=True, lora_rank=3), resume=True)
    with pytest.raises(UserError, match="run of `tinygpt finetune`: continue"):
        pretrain(path, GPTConfig(), TrainConfig(), resume=True)
    (path / "last.safetensors").unlink()
    before = {p: p.read_bytes() for p in path.iterdir()}
    with pytest.raises(UserError, match=r"it has no last\.safetensors"):
        finetune(path, config, resume=True)
    assert {p: p.read_bytes() for p in path.iterdir()} == before


@pytest.mark.parametrize("name", ["story", "tiny", "pocket-gpt2", "pocket-chat"])
def test_models_that_ship_have_names(name: str) -> None:
    model, tokenizer = load_model(name)
    assert not model.training
    assert tokenizer.vocab_size <= model.config.vocab_size


def test_plain_text_trains_too(folder: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The cat sat on the mat. " * 200, encoding="utf-8")
    config = FinetuneConfig(
        model=folder, data=str(text), epochs=3.0, window=32, lr=0.01, dropout=0.0
    )
    reports = list(finetune(tmp_path / "run", config).reports())
    first, last = (r.validation.nats_per_token for r in (reports[0], reports[-1]))
    assert last < first - 1


@pytest.mark.parametrize("recompute", [True, False])
def test_recompute_reaches_the_model(
    folder: str, chats: str, tmp_path: Path, recompute: bool
) -> None:
    config = FinetuneConfig(model=folder, data=chats, window=32, recompute=recompute)
    assert finetune(tmp_path / "run", config).model.recompute is recompute


def test_dropout_is_set_everywhere() -> None:
    model = small_model(dropout=0.5)
    set_dropout(model, 0.0)
    model.train()
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(model(ids), model(ids))


def test_scratch_has_the_same_shape_and_other_weights(
    folder: str, chats: str, tmp_path: Path
) -> None:
    config = FinetuneConfig(model=folder, data=chats, seed=7)
    tuned = finetune(tmp_path / "run", config)
    fresh = finetune(tmp_path / "run", replace(config, scratch=True))
    assert tuned.model.config == fresh.model.config
    one = tuned.model.token_embedding.weight
    assert not torch.equal(one, fresh.model.token_embedding.weight)


def test_bad_runs(folder: str, chats: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="longer than the model's context"):
        finetune(tmp_path / "run", FinetuneConfig(model=folder, data=chats, window=65))
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps({"messages": CHAT}), encoding="utf-8")
    with pytest.raises(UserError, match="at least 2"):
        finetune(tmp_path / "run", FinetuneConfig(model=folder, data=str(one)))
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": 3}', encoding="utf-8")
    with pytest.raises(UserError, match="line 1 is not a chat"):
        finetune(tmp_path / "run", FinetuneConfig(model=folder, data=str(bad)))
    with pytest.raises(UserError):
        finetune(
            tmp_path / "run",
            FinetuneConfig(model=str(tmp_path / "nowhere"), data=chats),
        )
    text = tmp_path / "text.txt"
    text.write_text("The cat sat on the mat. " * 200, encoding="utf-8")
    config = FinetuneConfig(model=folder, data=str(text), renumber=True)
    with pytest.raises(UserError, match="is text, not chats"):
        finetune(tmp_path / "run", config)
    for change in ({"epochs": 0.0}, {"lora_rank": 0}, {"dropout": 1.0}, {"lr": -1.0}):
        with pytest.raises(UserError, match=next(iter(change))):
            FinetuneConfig(**change)  # type: ignore[arg-type]
