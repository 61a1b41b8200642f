"""cli and options: every command works, and every bad input gets one sentence."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import COUNTED, ROOT
from tiny_run import TEXT, assert_same_tensors, exit_code, words

from tinygpt.cli.arguments import Chat
from tinygpt.cli.main import main
from tinygpt.config import GPTConfig, TrainConfig
from tinygpt.finetuning.run import load_model, load_run
from tinygpt.generation.generate import generate
from tinygpt.generation.streaming import stream_text
from tinygpt.llm import LLM
from tinygpt.presets import PRESETS
from tinygpt.text.corpora import CORPORA
from tinygpt.text.tokenizer import Tokenizer
from tinygpt.training.checkpoint import RunFolder
from tinygpt.training.text_data import TextData

LOOK = re.compile(
    r"Step: (\d+) Training Loss: \d\.\d{3} Validation Loss: \d\.\d{3} \| "
    r"\d\.\d{3} bits per byte \| [\d,]+ tokens/s \| \d+:\d\d left"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, runs/first, and its text and vocabulary."""
    home = tmp_path_factory.mktemp("home")
    assert exit_code(words(home, "first")) == 0
    return home


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the current folder."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # put back at the end
    return home


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder without runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    return tmp_path


# --- Commands ----------------------------------------------------------------------


@pytest.mark.slow
def test_train_prints_looks_and_a_sample(
    empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(words(empty, "x", prompt="the", out="runs", dropout=0.0))
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert re.fullmatch(
        r"runs/x: [\d,]+ parameters, [\d,]+ training and [\d,]+ validation tokens of "
        r".*text\.txt, 40 steps, cpu, float32",
        lines[0],
    )
    steps = [LOOK.fullmatch(line) for line in lines[1:6]]
    assert [step and step[1] for step in steps] == ["0", "10", "20", "30", "40"]
    assert re.match(r"Kept step \d+: \d\.\d{4} bits per byte, perplexity ", lines[6])
    assert lines[7:10] == ["", "A sample:", ""]
    assert lines[10].startswith("the")
    assert lines[-1] == (
        "Saved in runs/x. More: tinygpt generate --model runs/x, tinygpt open runs/x"
    )
    assert "x" not in err  # a bar at most


def test_only_a_prompt_that_somebody_typed_can_be_too_long(
    empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = words(empty, "x", out="runs")
    at = argv.index("--prompt")
    main(argv[:at] + argv[at + 2 :])
    sample = capsys.readouterr().out.partition("A sample:\n\n")[2]
    path, vocabulary = empty / "text.txt", empty / "small.tiktoken"
    data = TextData(str(path), Tokenizer.load(vocabulary), 8)
    assert sample.startswith(data.opening())
    assert exit_code(words(empty, "y", prompt="whatever you say", out="runs")) == 2
    assert "context holds 8" in capsys.readouterr().err
    assert not Path("runs/y").exists()


def test_train_without_a_name_numbers_its_runs(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = words(here, "", steps=1, out="numbered")
    at = argv.index("--name")
    for _ in range(3):
        main(argv[:at] + argv[at + 2 :])
    names = {path.name for path in Path("numbered").iterdir()}
    assert names == {"tiny", "tiny-2", "tiny-3"}
    capsys.readouterr()


def test_train_stopped_by_ctrl_c_says_how_to_go_on(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*words: object) -> None:
        sys.stdout.write(f"{words[0]}\n")
        if "Step: 10 " in str(words[0]):
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("tinygpt.cli.runs.tell", interrupted)
        assert exit_code(words(here, "stopped", out="runs")) == 130
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == (
        "Stopped after step 11. Continue with: tinygpt train --resume --name stopped "
        "--out runs"
    )
    assert RunFolder("runs/stopped").load_last()[1]["step"] == 11
    assert not Path("runs/stopped/model-ckpt.pt").exists()
    main([*said.partition("tinygpt ")[2].split(), "--prompt", ""])
    mine, whole = (
        torch.load(f"runs/{name}/model-ckpt.pt") for name in ("stopped", "first")
    )
    assert_same_tensors(mine, whole)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_train_draws_for_tensorboard(
    empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*words(empty, "drawn", steps=1, out="runs"), "--tensorboard"])
    assert list(Path("runs/drawn").glob("events.out.tfevents.*"))
    assert "Step: 1 " in capsys.readouterr().out


def test_a_loss_that_is_not_finite_leaves_the_last_state(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate of 1e38 does it; what was saved before stays good."""
    argv = words(here, "wild", head_lr=1e38, logit_softcap=0.0, out="runs")
    assert exit_code(argv) == 2
    complaint = capsys.readouterr().err
    assert re.fullmatch(
        r"tinygpt: the (training|validation) loss is \w+ at step \d+: try a lower "
        r"learning rate, .*; the last checkpoint is still good\n",
        complaint,
    )
    model, _, facts = load_run("runs/wild")
    assert facts["step"] == 0
    assert all(p.isfinite().all() for p in model.parameters())
    tensors, facts = RunFolder("runs/wild").load_last()
    assert all(t.isfinite().all() for t in tensors.values())
    assert exit_code([*argv, "--resume", "--head-lr", "0.01"]) == 0


def test_generate_streams(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece is printed before the next token is computed."""
    seen = []

    def watched(*given: Any) -> Any:
        for piece in stream_text(*given):
            yield piece
            seen.append((piece, capsys.readouterr().out))

    monkeypatch.setattr("tinygpt.generation.continuation.stream_text", watched)
    main(["generate", "--prompt", "the", "--max-new-tokens", "9", "--seed", "4"])
    assert seen[0][1] == "the" + seen[0][0]
    assert all(shown.endswith(piece) for piece, shown in seen)
    assert len(seen) > 3
    assert capsys.readouterr().out == "\n"


def test_generate_says_what_the_model_says(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["generate", "--model", "runs/first", "--prompt", "the", "--seed", "4"]
    argv += ["--max-new-tokens", "20", "--temperature", "0.9", "--top-k", "30"]
    main([*argv, "--top-p", "0.95"])
    first = capsys.readouterr().out
    main([*argv, "--top-p", "0.95", "--no-cache"])
    assert capsys.readouterr().out == first
    model, tokenizer, _ = load_run("runs/first")
    ids = torch.tensor([tokenizer.encode("the")])
    tokens = generate(model, ids, 20, temperature=0.9, top_k=30, top_p=0.95, seed=4)
    assert first == f"the{tokenizer.decode([int(t) for t in tokens])}\n"
    main(["generate", "--model", "runs/first", "--prompt", "the", "--max-new-tokens=0"])
    assert capsys.readouterr().out == "the\n"


def test_generate_stops_at_the_end_of_the_text_and_does_not_print_it(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tokenizer, _ = load_run("runs/first")

    def short(*_: Any, stop_token: int, **__: Any) -> Iterator[torch.Tensor]:
        assert stop_token == tokenizer.end_of_text
        yield from torch.tensor([*tokenizer.encode(" seller"), stop_token])

    monkeypatch.setattr("tinygpt.generation.continuation.generate", short)
    main(["generate", "--prompt", "the"])
    assert capsys.readouterr().out == "the seller\n"


@pytest.mark.parametrize("samples", [1, 2])
def test_generate_goes_on_after_the_end_if_asked(
    samples: int,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, tokenizer, _ = load_run("runs/first")
    ids = [*tokenizer.encode(" a"), tokenizer.end_of_text, *tokenizer.encode("why")]

    def on(*_: Any, stop_token: int | None, **__: Any) -> Iterator[torch.Tensor]:
        assert stop_token is None
        yield from torch.tensor(ids)[:, None].expand(-1, samples)

    monkeypatch.setattr("tinygpt.generation.continuation.generate", on)
    argv = ["generate", "--prompt", "the", "--samples", str(samples)]
    main([*argv, "--no-stop-at-end"])
    texts = ["the a<|endoftext|>why"] * samples
    assert capsys.readouterr().out == f"\n{20 * '-'}\n".join(texts) + "\n"


def test_the_terminal_answers_as_reply_does() -> None:
    theirs = signature(LLM.reply).parameters
    assert Chat().temperature == theirs["temperature"].default
    assert Chat().top_k == theirs["top_k"].default


def test_eval_measures_and_compares(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["eval", "--model", "runs/first"])
    out = capsys.readouterr().out
    log = RunFolder("runs/first").read_log()
    step = int(re.search(r"runs/first, weights of step (\d+)", out)[1])
    assert step in [line["step"] for line in log]
    bits = float(re.search(r"bits per byte +(\d\.\d+)", out)[1])
    if step == 40:  # then the log's last line is of the same weights
        assert bits == pytest.approx(log[-1]["bits_per_byte"], abs=1e-4)
    for kind in ("uniform", "unigram", "bigram", "gzip", "xz"):
        assert re.search(rf"  {kind} +\d+\.\d{{4}}", out)
    assert re.search(r"word for word in the training\ntext: \d+ words\n  '", out)

    Path("other.txt").write_text("calls the seller " * 60, encoding="utf-8")
    main(["eval", "other.txt"])
    assert "validation part of other.txt:" in capsys.readouterr().out


def test_tokenize_shows_ids_and_pieces(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["tokenize", "--tokenizer", "small.tiktoken"]
    main([*argv, "the é"])
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert re.fullmatch(r" +\d+  't\w*'", lines[0])
    assert lines[-2].endswith(r"'\\xa9'")  # half of a character
    assert lines[-1] == f"{len(lines) - 1} tokens for 6 bytes"
    monkeypatch.setattr("sys.stdin", io.StringIO("the é"))
    main(argv)
    assert capsys.readouterr().out == shown


def test_tokenize_trains_a_vocabulary(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["tokenize", "--train-on", "text.txt", "--vocab-size", "270"]
    main([*argv, "--save", "new.tiktoken"])
    out = capsys.readouterr().out
    assert re.fullmatch(r"new\.tiktoken: 270 entries, \d\.\d\d bytes per token\n", out)
    main(["tokenize", "the", "--tokenizer", "new.tiktoken"])
    assert capsys.readouterr().out.endswith("tokens for 3 bytes\n")


def test_data_lists_and_finds(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(CORPORA)
    main(["data", "--fetch", "handbook"])
    assert Path(capsys.readouterr().out.strip()).name == "sales_handbook.txt"


@pytest.mark.slow
def test_a_token_file_is_prepared_and_trained_on_like_its_text(
    empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It goes on bit for bit; a text is cut between characters, its tokens between
    tokens, so that they are measured on nearly the same.
    """
    text = words(empty, "text", steps=20, out="runs")
    main(text)
    prepared = ["data", "prepare", "text.txt", "--tokenizer", "small.tiktoken"]
    main([*prepared, "--out", "text.tokens", "--workers", "1"])
    out = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(
        r"text\.tokens: [\d,]+ tokens of bpe-283 as uint16, \d\.\d\d bytes per token",
        out,
    )
    for name in ("tokens", "again"):
        main(words(empty, name, steps=20, out="runs", data="text.tokens"))
    main(["train", "--resume", "--name", "tokens", "--steps", "21", "--prompt", ""])
    assert "From step 20 on the learning rate is " in capsys.readouterr().out
    again = words(empty, "again", steps=20, out="runs", data="text.tokens")
    main([*again, "--resume", "--steps", "21"])
    mine, theirs = (RunFolder(f"runs/{n}").load_last()[0] for n in ("tokens", "again"))
    assert_same_tensors(mine, theirs)
    capsys.readouterr()
    found = []
    for argv in (["eval"], ["eval", "text.txt"]):
        main([*argv, "--model", "runs/tokens"])
        found += re.findall(r"bits per byte +([\d.]+)", capsys.readouterr().out)
    of_tokens, of_text = map(float, found)
    assert of_tokens == pytest.approx(of_text, rel=0.1)
    for argv, sentence in (
        (["train", "text.tokens"], "text.tokens holds tokens of bpe-283"),
        (["train", "gone.tokens"], "there is no file gone.tokens"),
        (["eval", "text.txt.tokens"], "there is no file text.txt.tokens"),
        ([*prepared, "--out", "text.tokens"], "text.tokens is there already"),
        ([*prepared, "--out", "text.bin"], "a token file is called NAME.tokens"),
        ([*prepared, "--out", "a.tokens", "--workers", "0"], "--workers 0 is out of"),
    ):
        assert exit_code(argv) == 2
        complaint = capsys.readouterr().err
        assert sentence in complaint
        assert complaint.count("\n") == 1


def test_info_counts_the_presets(
    empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["info"])
    out = capsys.readouterr().out
    assert f"torch {torch.__version__}" in out
    assert re.search(r"gpt2 +124,439,808 parameters +context 1024", out)
    assert all(f"  {name} " in out for name in PRESETS)


@pytest.mark.slow
def test_finetune_and_export_from_the_command_line(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = words(
        here, "wide", steps=1, context_length=128, preset="pocket", warmup_steps=0
    )
    Path("text.txt").write_text(3 * TEXT, encoding="utf-8")
    main(argv)
    chats = [
        [
            {"role": "user", "content": "the buyer asks"},
            {"role": "assistant", "content": f"call back {i}"},
        ]
        for i in range(12)
    ]
    lines = [json.dumps({"messages": chat}) + "\n" for chat in chats]
    Path("chats.jsonl").write_text("".join(lines), encoding="utf-8")
    capsys.readouterr()
    argv = ["finetune", "chats.jsonl", "--model", "runs/wide"]
    argv += ["--device", "cpu", "--dtype", "float32", "--batch-size", "2"]
    main([*argv, "--epochs", "2", "--eval-interval", "2"])
    out = capsys.readouterr().out
    assert re.match(r"runs/finetune: .* windows of chats\.jsonl, \d+ steps", out)
    assert "Step: 0 Training Loss: " in out
    assert "MB of weights." in out
    assert out.count("before:") == out.count("after:") == 1
    assert "\nUser:   the buyer asks\n" in out  # of these chats, not of the shop's
    for bad, sentence in (
        ([*argv, "--name", "finetune"], "runs/finetune exists"),
        (["train", "--resume", "--name", "finetune"], "`tinygpt finetune --resume "),
        (["eval", "--model", "runs/finetune"], "measure it on"),
    ):
        assert exit_code(bad) == 2
        assert sentence in capsys.readouterr().err
    main(["eval", "text.txt", "--model", "runs/finetune"])
    assert "validation part of text.txt:" in capsys.readouterr().out

    main(["export", "--model", "runs/wide", "--out", "page", "--format", "web"])
    assert {p.name for p in Path("page").iterdir()} == {"model.js", "README.md"}
    capsys.readouterr()
    main(["export", "--model", "runs/wide", "--out", "exported"])
    assert {p.name for p in Path("exported").iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
    }
    assert re.match(r"exported: [\d,]+ parameters, \d\.\d MB", capsys.readouterr().out)


@pytest.mark.slow
def test_a_run_of_adapters_is_used_like_any_other(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("runs/first", "base")
    argv = ["finetune", "text.txt", "--model", "base", "--epochs", "1"]
    argv += ["--device", "cpu", "--dtype", "float32", "--lr", "0.02"]
    main([*argv, "--lora", "--name", "adapters"])
    assert "MB of adapters." in capsys.readouterr().out
    said, sampling = {}, ["--temperature", "0.9", "--seed", "4", "--top-k", "None"]
    for run in ("runs/first", "runs/adapters"):
        main(["generate", "--model", run, "--prompt", "the", *sampling])
        said[run] = capsys.readouterr().out
    model, tokenizer = load_model("runs/adapters")
    ids = torch.tensor([tokenizer.encode("the")])
    tokens = generate(model, ids, 100, temperature=0.9, seed=4)
    assert said["runs/adapters"] == f"the{tokenizer.decode([int(t) for t in tokens])}\n"
    assert said["runs/adapters"] != said["runs/first"]

    main(["eval", "--model", "runs/adapters"])
    out = capsys.readouterr().out
    assert "validation part of text.txt:" in out
    best = min(RunFolder("runs/adapters").read_log(), key=lambda r: r["bits_per_byte"])
    assert f"  bits per byte   {best['bits_per_byte']:8.4f}" in out
    main(["export", "--model", "runs/adapters", "--out", "adapted", "--format", "web"])
    main([*argv, "--model", "runs/adapters", "--lora", "--name", "twice"])

    shutil.rmtree("base")
    capsys.readouterr()
    assert exit_code(["generate", "--model", "runs/adapters"]) == 2
    err = capsys.readouterr().err
    assert re.search(
        r"runs/adapters holds only adapters, and their base .* cannot", err
    )
    shutil.rmtree("runs/adapters")
    shutil.rmtree("runs/twice")


# --- Bad input (see test_bad_inputs.py) --------------------------------------------


@pytest.mark.parametrize(
    ("file", "argv"),
    [
        ("best.safetensors", ["generate"]),
        ("best.safetensors", ["eval"]),
        ("run.json", ["generate"]),
        ("tokenizer.tiktoken", ["generate"]),
        ("last.safetensors", ["train", "--resume", "--prompt", ""]),
        ("run.json", ["train", "--resume"]),
    ],
)
def test_a_truncated_file_in_a_run(
    file: str, argv: list[str], empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(words(empty, "cut", steps=1, out="runs"))
    capsys.readouterr()
    path = Path("runs/cut", file)
    path.write_bytes(path.read_bytes()[:-200])
    assert exit_code(argv) == 2
    err = capsys.readouterr().err
    assert file in err
    assert err.count("\n") == 1


def test_a_tokenizer_that_must_be_fetched_without_a_network(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("tiktoken.get_encoding", refuse)
    assert exit_code(["train", "--tokenizer", "cl100k_base"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("tinygpt: Cannot fetch the tokenizer 'cl100k_base' (Network")
    assert "use --tokenizer handbook-4k, which needs no network" in err


def test_standard_input_that_is_no_text(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", raw)
    assert exit_code(["tokenize"]) == 2
    assert capsys.readouterr().err.startswith("tinygpt: standard input is not UTF-8")


def test_standard_input_without_an_end(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless(io.StringIO):
        """As /dev/zero: as much as is asked for."""

        def read(self, size: int | None = -1) -> str:
            assert size is not None
            assert size > 0, "all of it is asked for"
            return "\0" * size

    monkeypatch.setattr("sys.stdin", Endless())
    assert exit_code(["tokenize"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("tinygpt: standard input has more than 67,108,864 characters")


# --- Ends of another kind ----------------------------------------------------------


def test_a_fault_of_ours_keeps_its_traceback(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*_: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr("tinygpt.llm.load_model", faulty)
    with pytest.raises(ZeroDivisionError, match="a fault"):
        main(["generate"])


def test_an_error_of_the_system_names_the_path_in_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a folder without permission, which a test run by root cannot make."""

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "secret/text.txt")

    monkeypatch.setattr("tinygpt.llm.load_model", refused)
    assert exit_code(["generate"]) == 2
    assert capsys.readouterr().err == (
        "tinygpt: cannot use secret/text.txt: Permission denied\n"
    )


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)
def test_folders_without_permission(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = here / "secret"
    shutil.copytree("runs", secret)
    secret.chmod(0)
    try:
        for argv in (
            ["train", "secret/text.txt"],
            ["train", "text.txt", "--out", "secret", "--name", "x"],
            ["train", "--config", "secret/first/run.json"],
            ["generate", "--model", "secret/first"],
            ["eval", "secret", "--model", "runs/first"],
            ["export", "--model", "runs/first", "--out", "secret/x", "--format", "web"],
            ["runs", "--out", "secret"],
        ):
            assert exit_code(argv) == 2
            err = capsys.readouterr().err
            assert err.startswith("tinygpt: ")
            assert err.count("\n") == 1
    finally:
        secret.chmod(0o700)


def test_ctrl_c_before_training_is_quiet(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tinygpt.llm.load_model", interrupted)
    assert exit_code(["generate"]) == 130
    assert capsys.readouterr() == ("", "")


def test_words_come_from_the_command_line_if_none_are_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tinygpt", "train", "--help"])
    assert exit_code(None) == 0  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert err == ""
    documented = re.sub(r"[│\s]+", " ", out)
    for kind in (TrainConfig, GPTConfig):
        for field in fields(kind):
            if field.name == "data":  # the first word
                continue
            assert f"--{field.name.replace('_', '-')}" in documented
    steps = PRESETS["tiny"].train.steps
    assert f"Optimizer steps. (default: {steps})" in documented


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=200,
        check=False,
    )


def test_help_answers_without_loading_torch() -> None:
    code = """
import sys
from tinygpt.cli.main import main
from tinygpt.cli.parsing import parse
for words in (["--help"], ["train", "--help"], ["generate", "--help"]):
    try:
        main(words)
    except SystemExit as end:
        assert not end.code
heavy = {"torch", "numpy", "tiktoken", "safetensors"} & set(sys.modules)
sys.exit(f"loaded {heavy}" if heavy else 0)
"""
    ended = run(code)
    assert ended.returncode == 0, ended.stderr
    assert "Train a small GPT" in ended.stdout


def test_a_reader_that_goes_away_ends_the_output_quietly() -> None:
    """As `tinygpt tokenize ... | head -1` does."""
    text = "a b " * 2000
    with subprocess.Popen(
        [sys.executable, "-m", "tinygpt", "tokenize", text],
        env={**os.environ, **COUNTED, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(200) == 1
