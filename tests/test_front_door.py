"""The package itself: light to import, complete, and used as the README says."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from tiny_run import MODEL, TRAIN, write_text

import tinygpt

# The README's lines, word for word but for settings that make them quick.
LINES = """
import tinygpt
llm = tinygpt.train("my.txt", minutes=2)
print(llm.generate("Once", max_new_tokens=100))
for piece in llm.stream("Once"): print(piece, end="")
llm.save("my-model"); llm = tinygpt.load("my-model")
chat = tinygpt.finetune("pocket-gpt2", "support-chats", lora=True)
print(chat.reply("Where is my parcel?"))
print(llm.evaluate("other.txt").bits_per_byte)
llm.model, llm.tokenizer, llm.config
"""
QUICK = {
    "minutes=2": "tokenizer='small.tiktoken', **quick",
    "lora=True": "lora=True, epochs=0.02, window=32, eval_windows=2, device='cpu'",
}


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, without the tests' hooks."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_importing_loads_nothing() -> None:
    ended = python(
        "import sys; before = set(sys.modules); import tinygpt\n"
        "print(sorted(set(sys.modules) - before))"
    )
    assert ended.stdout == "['tinygpt']\n", ended.stderr


def test_what_needs_no_torch_loads_none() -> None:
    names = "GPTConfig, TrainConfig, FinetuneConfig, PRESETS, UserError"
    ended = python(
        f"import sys; from tinygpt import {names}, Tokenizer, train_bpe\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert ended.returncode == 0, ended.stderr


def test_every_name_is_listed_and_there() -> None:
    assert dir(tinygpt) == sorted(tinygpt.__all__)
    assert set(tinygpt.__all__) == set(tinygpt._MODULES)
    for name in tinygpt.__all__:
        module = f"tinygpt.{tinygpt._MODULES[name]}"
        assert getattr(tinygpt, name) is getattr(sys.modules[module], name)
    with pytest.raises(AttributeError, match="no attribute 'gpt5'"):
        tinygpt.gpt5  # noqa: B018


def test_type_checkers_see_every_name() -> None:
    """The imports that only they read are those that happen at run time."""
    source = Path(tinygpt.__file__).read_text(encoding="utf-8")
    for name, module in tinygpt._MODULES.items():
        start = f"    from tinygpt.{module} import "
        lines = [line for line in source.splitlines() if line.startswith(start)]
        assert name in lines[0].removeprefix(start).split(", ")


@pytest.mark.slow
def test_the_lines_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text, _ = write_text(tmp_path)
    text.rename("my.txt")
    Path("other.txt").write_text("the seller asks why " * 100, encoding="utf-8")
    code = LINES
    for slow, quick in QUICK.items():
        assert slow in code
        code = code.replace(slow, quick)
    names = {"quick": MODEL | TRAIN | {"steps": 3, "device": "cpu"}}
    exec(compile(code, "README", "exec"), names)
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("Once")
    assert 0 < float(out[-1]) < 20
    llm, chat = names["llm"], names["chat"]
    assert (llm.config.d_model, chat.config.d_model) == (MODEL["d_model"], 192)
    assert isinstance(llm.model, tinygpt.GPT)
    assert isinstance(llm.tokenizer, tinygpt.Tokenizer)
    made = {path.name for path in tmp_path.iterdir()}
    assert made - {"small.json"} == {
        "my.txt",
        "other.txt",
        "small.tiktoken",
        "my-model",
    }
