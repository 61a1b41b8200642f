"""Fine-tuning: the chat form, the loss mask, packing, and whole runs at small size.

A model of two thin blocks stands in for GPT-2; what is proven does not depend on size.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import assert_same_tensors

from tinygpt.config import IGNORE_INDEX, FinetuneConfig, GPTConfig, TrainConfig
from tinygpt.errors import UserError
from tinygpt.finetuning.chat import (
    ChatData,
    PackedBatches,
    answer,
    chat_prompt,
    cut_history,
    pack,
    render,
)
from tinygpt.finetuning.lora import merge
from tinygpt.finetuning.run import finetune, load_model, set_dropout
from tinygpt.formats.huggingface import export_gpt2
from tinygpt.model.gpt import GPT
from tinygpt.text.bpe_training import train_bpe
from tinygpt.text.corpora import load_chats
from tinygpt.training.checkpoint import RunFolder
from tinygpt.training.loss import NextTokenLoss
from tinygpt.training.run import pretrain

TOKENIZER = train_bpe("User: Where is it? Assistant: It is on its way. " * 3, 280)
END = TOKENIZER.end_of_text
CHAT = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Good day!"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you."},
]


def small_model(**changes: object) -> GPT:
    base = GPTConfig(
        vocab_size=280, context_length=64, d_model=12, n_heads=3, n_layers=2
    )
    return GPT(replace(base, **changes)).eval()  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A small model in GPT-2's format."""
    export_gpt2(small_model(), TOKENIZER, tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def chats(tmp_path: Path) -> str:
    """Twenty conversations, all of one kind, so that they can be learned at once."""
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"Where is order {n}?"},
                {"role": "assistant", "content": "It is on its way."},
            ]
        }
        for n in range(20)
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return str(path)


def test_a_conversation_reads_as_documented() -> None:
    ids, _ = render(CHAT, TOKENIZER)
    assert TOKENIZER.decode(ids) == (
        "User: Hi there\nAssistant: Good day!<|endoftext|>"
        "User: Bye\nAssistant: See you.<|endoftext|>"
    )


def test_only_the_assistants_tokens_count_token_by_token() -> None:
    ids, own = render(CHAT, TOKENIZER)
    expected = [
        ("User: Hi there\nAssistant:", False),
        (" Good day!<|endoftext|>", True),
        ("User: Bye\nAssistant:", False),
        (" See you.<|endoftext|>", True),
    ]
    text, i = "", 0
    for part, mine in expected:
        text = ""
        while text != part:
            assert own[i] is mine, (part, text)
            text += TOKENIZER.decode([ids[i]])
            i += 1
    assert i == len(ids)


def test_an_end_mark_typed_by_a_user_is_plain_text() -> None:
    ids, own = render([{"role": "user", "content": "<|endoftext|>"}], TOKENIZER)
    assert END not in ids
    assert not any(own)


def test_training_and_chatting_use_the_same_form() -> None:
    ids, own = render(CHAT, TOKENIZER)
    prompt = chat_prompt(CHAT[:3], TOKENIZER)
    assert ids[: len(prompt)] == prompt
    assert own[len(prompt)]
    assert not own[len(prompt) - 1]


def test_packed_logits_equal_those_of_each_conversation_alone() -> None:
    model = small_model()
    packed = pack([CHAT, CHAT[:2], CHAT[2:]], TOKENIZER, window=64)
    assert packed.documents.max() >= 1  # some window holds two conversations
    tables = packed.ids, packed.targets, packed.documents, packed.positions
    for ids, targets, documents, positions in zip(*tables, strict=True):
        batch = (t.unsqueeze(0) for t in (ids, documents, positions))
        one, docs, place = batch
        from tinygpt.model.masking import document_mask

        together = model(one, mask=document_mask(docs), positions=place)[0]
        for number in range(int(documents.max()) + 1):
            here = documents == number
            alone = model(ids[here].unsqueeze(0))[0]
            torch.testing.assert_close(together[here], alone, atol=1e-5, rtol=1e-5)
        assert (targets[documents == -1] == IGNORE_INDEX).all()


def test_a_conversation_cannot_be_seen_from_its_neighbour() -> None:
    model = small_model()
    packed = pack([CHAT[:2], CHAT[2:]], TOKENIZER, window=64)
    ids, targets, mask, positions = packed[:1]
    assert len(packed) == 1
    changed, first = ids.clone(), packed.documents[:1] == 0
    changed[first] = 7  # another first conversation
    keep, loss = targets.masked_fill(first, IGNORE_INDEX), NextTokenLoss(model)
    one = loss(ids, keep, mask, positions)
    other = loss(changed, keep, mask, positions)
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_chat_loss_is_the_mean_over_the_assistants_tokens() -> None:
    model = small_model()
    ids, own = render(CHAT[:2], TOKENIZER)
    logits = model(torch.tensor([ids[:-1]]))[0]
    by_hand = [
        -F.log_softmax(logits[i], dim=-1)[ids[i + 1]]
        for i in range(len(ids) - 1)
        if own[i + 1]
    ]
    packed = pack([CHAT[:2]], TOKENIZER, window=64)
    loss = NextTokenLoss(model)(*packed[:])
    torch.testing.assert_close(loss, torch.stack(by_hand).mean(), atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(8, 60))
def test_packing_loses_and_doubles_nothing(sizes: list[int], window: int) -> None:
    said = [
        [{"role": "user", "content": "a " * n}, {"role": "assistant", "content": "b"}]
        for n in sizes
    ]
    packed = pack(said, TOKENIZER, window)
    rendered = [render(chat, TOKENIZER)[0] for chat in said]
    real = packed.documents >= 0
    assert int(real.sum()) == sum(min(len(ids) - 1, window) for ids in rendered)
    if all(len(ids) <= window + 1 for ids in rendered):
        inputs = sorted(t for ids in rendered for t in ids[:-1])
        assert sorted(packed.ids[real].tolist()) == inputs


def test_batches_take_each_window_once_an_epoch_and_ranks_share_them() -> None:
    packed = pack(load_chats("support-chats")[:60], TOKENIZER, window=400)
    n = len(packed)
    batches = PackedBatches(packed, batch_size=1, seed=3)
    seen = [tuple(batches.at(step)[0][0].tolist()) for step in range(n)]
    assert sorted(seen) == sorted(tuple(row.tolist()) for row in packed.ids)
    double = PackedBatches(packed, batch_size=2, seed=3)
    both = [batches.at(4, rank, world_size=2)[0] for rank in (0, 1)]
    assert torch.equal(torch.cat(both), double.at(4)[0])


def test_history_is_cut_by_whole_turns() -> None:
    history = [*CHAT, {"role": "user", "content": "One more thing"}]
    room = len(chat_prompt(history, TOKENIZER)) - 1
    assert cut_history(history, TOKENIZER, room) == history[2:]
    assert cut_history(history, TOKENIZER, room + 1) == history
    with pytest.raises(UserError, match="fewer words"):
        cut_history(history, TOKENIZER, room=3)


def test_a_conversation_too_long_for_a_window_keeps_some_of_its_answer() -> None:
    long = [
        {"role": "user", "content": "word " * 50},
        {"role": "assistant", "content": "Short."},
    ]
    packed = pack([long, CHAT], TOKENIZER, window=24)
    ids, own = render(long, TOKENIZER)
    answer_at = own.index(True)
    assert answer_at > 24
    assert ids[-25:-1] in packed.ids.tolist()  # the end of it, all of the answer
    assert len(packed) == 2
    for targets in packed.targets:
        assert (targets != IGNORE_INDEX).any()
    longer = [long[0], {"role": "assistant", "content": "word " * 50}]
    ids, own = render(longer, TOKENIZER)
    answer_at = own.index(True)
    (row,) = pack([longer], TOKENIZER, window=24).ids.tolist()
    assert row == ids[answer_at - 12 : answer_at + 12]  # half before, half after


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(2, 60))
def test_every_packed_conversation_has_a_target(sizes: list[int], window: int) -> None:
    said = [
        [
            {"role": "user", "content": "a " * n},
            {"role": "assistant", "content": "b " * (n % 7)},
        ]
        for n in sizes
    ]
    packed = pack(said, TOKENIZER, window)
    found = 0
    for row in range(len(packed)):
        for number in range(int(packed.documents[row].max()) + 1):
            here = packed.documents[row] == number
            assert (packed.targets[row][here] != IGNORE_INDEX).any()
            found += 1
    assert found == len(said)
    assert packed.left_out == 0


QUESTION = [{"role": "user", "content": "Hello?"}]


def test_conversations_without_an_answer_are_left_out_and_counted() -> None:
    packed = pack([[], QUESTION, CHAT, []], TOKENIZER, window=64)
    only = pack([CHAT], TOKENIZER, window=64)
    assert packed.left_out == 3
    assert only.left_out == 0
    for mine, theirs in zip(packed[:], only[:], strict=True):
        assert torch.equal(mine, theirs)
    assert len(pack([QUESTION, []], TOKENIZER, window=64)) == 0


def as_file(path: Path, *chats: list[dict[str, str]]) -> str:
    lines = [json.dumps({"messages": chat}) for chat in chats]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_a_part_without_an_answer_is_refused_before_training(tmp_path: Path) -> None:
    nothing = as_file(tmp_path / "none.jsonl", *[QUESTION] * 20)
    with pytest.raises(UserError, match=r"the training part of .* has an answer"):
        ChatData(nothing, TOKENIZER, 64)
    late = as_file(tmp_path / "late.jsonl", *[CHAT] * 18, QUESTION, QUESTION)
    with pytest.raises(UserError, match=r"the validation part of .* has an answer"):
        ChatData(late, TOKENIZER, 64)
    some = as_file(tmp_path / "some.jsonl", QUESTION, *[CHAT] * 19)
    assert "(1 chats without an answer left out)" in str(ChatData(some, TOKENIZER, 64))


def test_the_end_mark_counts_in_the_loss_but_not_as_text(tmp_path: Path) -> None:
    """Bits per byte by hand: the nats of the words, over the bytes of the words."""
    data = ChatData(as_file(tmp_path / "two.jsonl", CHAT, CHAT), TOKENIZER, 64)
    model = small_model()
    result = data.evaluate(model)
    ids, own = render(CHAT, TOKENIZER)
    log_p = model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
    nats = [-log_p[i, ids[i + 1]].item() for i in range(len(ids) - 1)]
    mine = [i for i in range(len(ids) - 1) if own[i + 1]]
    words = [i for i in mine if ids[i + 1] != END]
    assert len(mine) == len(words) + 2
    assert result.tokens == len(mine)
    per_token = sum(nats[i] for i in mine) / len(mine)
    assert result.nats_per_token == pytest.approx(per_token, abs=1e-5)
    assert result.bytes == len(b" Good day! See you.")
    bits = sum(nats[i] for i in words) / math.log(2) / result.bytes
    assert result.bits_per_byte == pytest.approx(bits, abs=1e-5)


def test_a_sample_of_the_conversations_is_spread_and_says_so(chats: str) -> None:
    data, model = ChatData(chats, TOKENIZER, 24), small_model()
    assert len(data.val) == 2
    sample = data.evaluate(model, windows=1)
    assert not sample.whole_split
    assert sample.tokens < data.evaluate(model).tokens
    assert data.evaluate(model, windows=2) == data.evaluate(model)
    assert data.evaluate(model).whole_split


# --- Runs --------------------------------------------------------------------------


def run_small(config: FinetuneConfig, path: Path, resume: bool = False) -> float:
    reports = list(finetune(path, config, resume=resume).reports())
    return reports[-1].validation.nats_per_token


@pytest.mark.parametrize("lora", [False, True])
def test_a_tuned_model_answers_and_stops(
    folder: str, chats: str, tmp_path: Path, lora: bool
) -> None:
    config = FinetuneConfig(
        model=folder, data=chats, epochs=40.0, batch_size=2, window=64, lr=0.02,
        dropout=0.0, lora=lora, lora_rank=6, patience=None,
    )  # fmt: skip
    before, _ = load_model(folder)
    after_loss = run_small(config, tmp_path / "run")
    model, tokenizer = load_model(tmp_path / "run")
    data = ChatData(chats, tokenizer, 64)
    loss, first = (data.evaluate(m).nats_per_token for m in (model, before))
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


@pytest.mark.parametrize("lora", [False, True])
def test_a_resumed_run_ends_with_the_same_weights(
    folder: str, chats: str, tmp_path: Path, lora: bool
) -> None:
    config = FinetuneConfig(
        model=folder, data=chats, epochs=6.0, batch_size=1, window=64, eval_interval=3,
        patience=None, lora=lora, checkpoint_interval=3,
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
    with pytest.raises(UserError, match=r"is a fine-tuning run: continue it with"):
        pretrain(path, GPTConfig(), TrainConfig(), resume=True)
    (path / "last.safetensors").unlink()
    before = {p: p.read_bytes() for p in path.iterdir()}
    with pytest.raises(UserError, match=r"it has no last\.safetensors"):
        finetune(path, config, resume=True)
    assert {p: p.read_bytes() for p in path.iterdir()} == before


@pytest.mark.parametrize("name", ["tiny", "pocket-gpt2", "pocket-chat"])
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


def test_recomputing_blocks_gives_the_same_gradients() -> None:
    grads = []
    for recompute in (False, True):
        torch.manual_seed(5)
        model = small_model().train()
        model.recompute = recompute
        F.cross_entropy(model(torch.tensor([[3, 1, 2]]))[0], torch.tensor([1, 2, 0]))
        model(torch.tensor([[3, 1, 2]])).square().mean().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


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


@pytest.mark.parametrize(
    ("messages", "words"),
    [([{"role": "robot", "content": "Hi"}], "unknown role 'robot'")],
)
def test_bad_messages(messages: list[dict[str, str]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        render(messages, TOKENIZER)


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
    for change in ({"epochs": 0.0}, {"lora_rank": 0}, {"dropout": 1.0}, {"lr": -1.0}):
        with pytest.raises(UserError, match=next(iter(change))):
            FinetuneConfig(**change)  # type: ignore[arg-type]
