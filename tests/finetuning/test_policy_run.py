"""policy_run: whole runs that learn from a reward, at small size."""

import os
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from tiny_chat import TOKENIZER, small_model, write_chats
from tiny_run import assert_same_tensors, exit_code

from tinygpt.config import FinetuneConfig
from tinygpt.errors import UserError
from tinygpt.finetuning.policy_run import RewardData, learn_from_rewards
from tinygpt.finetuning.rewards import Prompt
from tinygpt.finetuning.rollouts import PolicyLoss
from tinygpt.finetuning.run import finetune, load_model
from tinygpt.formats.huggingface import export_hf
from tinygpt.model.gpt import GPT
from tinygpt.reward_config import RewardConfig
from tinygpt.training.checkpoint import RunFolder


@pytest.fixture
def config(tmp_path: Path) -> RewardConfig:
    """Twenty conversations, a model in GPT-2's format, and the briefest settings."""
    torch.manual_seed(0)
    export_hf(small_model(), TOKENIZER, tmp_path / "base")
    return RewardConfig(
        model=str(tmp_path / "base"), data=write_chats(tmp_path), steps=6, samples=4,
        batch_size=2, max_new_tokens=8, lr=0.01, eval_interval=2, eval_windows=2,
        checkpoint_interval=2, last_windows=None,
    )  # fmt: skip


def many_e(prompt: Prompt, answer: str, ended: bool) -> float:
    """A reward that a model without sense can earn: the letter e."""
    return min(1.0, answer.count("e") / 8)


def learn(path: Path, config: RewardConfig, **options: Any) -> list[Any]:
    run = learn_from_rewards(path, config, reward=many_e, **options)
    return list(run.reports())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_reward_rises(config: RewardConfig, tmp_path: Path, seed: int) -> None:
    config = replace(
        config, seed=seed, steps=30, samples=8, kl_weight=0.0, eval_interval=10,
        eval_windows=8, max_new_tokens=6, lr=0.02,
    )  # fmt: skip
    rewards = [r.validation.reward for r in learn(tmp_path / "run", config)]
    assert rewards[-1] > rewards[0] + 0.1


@pytest.mark.slow
def test_a_large_weight_keeps_the_model_near(
    config: RewardConfig, tmp_path: Path
) -> None:
    far, near = (
        learn(tmp_path / f"{weight}", replace(config, kl_weight=weight))[-1].validation
        for weight in (0.0, 30.0)
    )
    assert near.kl < far.kl / 2


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_weights(
    config: RewardConfig, tmp_path: Path
) -> None:
    learn(tmp_path / "whole", config)
    for report in (
        broken := learn_from_rewards(
            tmp_path / "parts", config, reward=many_e
        ).reports()
    ):
        if report.step == 4:
            break  # as if the process ended here
    broken.close()  # type: ignore[attr-defined]
    own = RunFolder(tmp_path / "parts").configs()[1]
    assert isinstance(own, RewardConfig)
    learn(tmp_path / "parts", own, resume=True)
    folders = [RunFolder(tmp_path / name) for name in ("whole", "parts")]
    assert_same_tensors(*(folder.load_last()[0] for folder in folders))
    logs = [[r["reward"] for r in folder.read_log()] for folder in folders]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 4


def test_the_best_on_unseen_prompts_is_kept(
    config: RewardConfig, tmp_path: Path
) -> None:
    reports = learn(tmp_path / "run", config)
    best = max(reports, key=lambda report: 1 - report.selection_loss)
    _, _, metadata = RunFolder(tmp_path / "run").load_model()
    assert metadata["reward"] == best.validation.reward
    assert metadata["step"] == best.step


@pytest.mark.slow
def test_no_weights_are_best_by_luck(config: RewardConfig, tmp_path: Path) -> None:
    """Every evaluation of a default run asks the same: equal weights, equal reward."""
    own = RewardConfig()
    sizes = {"eval_windows": own.eval_windows, "last_windows": own.last_windows}
    still = replace(config, lr=0.0, data=write_chats(tmp_path, n=2000), **sizes)  # type: ignore[arg-type]
    rewards = [report.validation.reward for report in learn(tmp_path / "run", still)]
    assert len(rewards) == 4
    assert len(set(rewards)) == 1


def test_the_evaluation_is_that_of_the_model(
    config: RewardConfig, tmp_path: Path
) -> None:
    model, tokenizer = load_model(config.model)
    data = RewardData(model, tokenizer, many_e, config)
    assert str(data) == f"18 training and 2 validation prompts of {config.data}"
    same = data.evaluate(PolicyLoss(model, config))
    assert same == data.evaluate(model)
    assert same.kl == 0
    assert same.whole_split
    assert not data.evaluate(model, 1).whole_split
    assert same.selection_loss == 1 - same.reward
    assert same.nats_per_token == data.chats.evaluate(model).nats_per_token
    assert {"reward", "kl", "entropy", "bits_per_byte"} <= set(same.record())


@pytest.mark.slow
def test_a_model_without_a_file_is_kept_as_the_one_before(
    config: RewardConfig, tmp_path: Path
) -> None:
    model, path = small_model(), tmp_path / "run"
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    learn(path, replace(config, model="nowhere"), base=(model, TOKENIZER))
    assert_same_tensors(dict(model.named_parameters()), before)
    kept, _ = load_model(path / "base")
    assert isinstance(kept, GPT)
    assert_same_tensors(kept.state_dict(), model.state_dict())
    own = RunFolder(path).configs()[1]
    assert isinstance(own, RewardConfig)
    learn(path, replace(own, steps=8), resume=True)


def test_bad_runs(config: RewardConfig, tmp_path: Path) -> None:
    path = tmp_path / "run"
    text = tmp_path / "text.txt"
    text.write_text("The cat sat on the mat. " * 200, encoding="utf-8")
    for change, sentence in (
        ({"checks": ("kind",)}, "there is no check 'kind'"),
        ({"data": str(text)}, "is not a file of chats"),
        ({"max_new_tokens": 64}, "leaves no room for a prompt"),
        ({"max_new_tokens": 63}, "no prompt of .* leaves room for 63"),
        ({"model": str(tmp_path / "nowhere")}, "nowhere"),
    ):
        with pytest.raises(UserError, match=sentence):
            learn_from_rewards(path, replace(config, **change))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="there is no run in"):
        learn_from_rewards(path, config, resume=True)
    assert not path.exists()
    learn(path, config)
    with pytest.raises(UserError, match="exists: continue it with --resume"):
        learn(path, config)
    with pytest.raises(UserError, match="leave samples as it was"):
        learn(path, replace(config, samples=5), resume=True)
    with pytest.raises(UserError, match="run of `tinygpt reward`: continue it with"):
        finetune(path, FinetuneConfig(), resume=True)


@pytest.mark.slow
def test_from_the_command_line(
    config: RewardConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "reward", config.data, "--model", "base", "--name", "r", "--checks", "ends",
        "--steps", "2", "--eval-interval", "1", "--eval-windows", "2",
        "--max-new-tokens", "8", "--batch-size", "1", "--samples", "2",
    ]  # fmt: skip
    assert exit_code(words) == 0
    said = capsys.readouterr().out
    assert "18 training and 2 validation prompts" in said
    assert "Reward: " in said
    assert "before:" in said
    assert exit_code([*words[:1], "--resume", "--steps", "3"]) == 0
    log = RunFolder("runs/r").read_log()
    assert [line["step"] for line in log] == [0, 1, 2, 3]
    assert exit_code(["runs"]) == 0
    assert exit_code(["train", "--resume", "--name", "r"]) == 2
    assert "run of `tinygpt reward`" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_keeps_what_is_there_and_the_run_goes_on(
    config: RewardConfig, tmp_path: Path
) -> None:
    """Hit after its second evaluation, it ends as a run of as many steps whole."""
    words = [
        "reward", config.data, "--model", config.model, "--checks", "ends",
        "--eval-interval", "2", "--eval-windows", "2", "--last-windows", "2",
        "--max-new-tokens", "8", "--batch-size", "1", "--samples", "4", "--lr", "0.01",
        "--device", "cpu", "--dtype", "float32", "--out", str(tmp_path),
    ]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "tinygpt", *words, "--name", "hit", "--steps", "4000"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for said in process.stdout:
            if said.startswith("Step: 2 "):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read().splitlines()
        code, complaint = process.wait(200), process.stderr.read()
    assert complaint == ""
    assert code == 130
    hit, whole = RunFolder(tmp_path / "hit"), RunFolder(tmp_path / "whole")
    stopped = hit.load_last()[1]["step"]
    assert 2 <= stopped < 3990
    assert rest[-1].startswith(f"Stopped after step {stopped}. Continue with: tinygpt ")
    load_model(hit.path)  # the best so far can be used at once
    again = shlex.split(rest[-1].partition(": tinygpt ")[2])
    steps = str(stopped + 4)
    assert exit_code([*again, "--steps", steps]) == 0
    assert exit_code([*words, "--name", "whole", "--steps", steps]) == 0
    assert_same_tensors(hit.load_last()[0], whole.load_last()[0])
    logs = [
        {line["step"]: line["reward"] for line in folder.read_log()}
        for folder in (hit, whole)
    ]
    assert logs[0].items() >= logs[1].items()
