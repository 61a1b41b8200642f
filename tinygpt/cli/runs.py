"""The commands that make and list runs: train, finetune, reward, runs.

What it leaves out: the other commands (see `main`), and all work.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinygpt.cli import console
from tinygpt.cli.arguments import Finetune, Generate, Reward, Runs, Train
from tinygpt.cli.console import say, tell
from tinygpt.cli.parsing import free_name
from tinygpt.config import FinetuneConfig, TrainConfig
from tinygpt.errors import require
from tinygpt.reward_config import RewardConfig
from tinygpt.runtime.device import calm_threads
from tinygpt.runtime.display import show_file
from tinygpt.runtime.distributed import World
from tinygpt.settings import convert, run_path


def run_train(args: Train) -> None:
    """Train, printing every evaluation; then print a sample."""
    calm_threads()
    from tinygpt.llm import LLM, load
    from tinygpt.training.plan import advice
    from tinygpt.training.run import pretrain
    from tinygpt.training.tensor_file import read_header
    from tinygpt.training.text_data import TextData

    world = World.from_environment()
    config: TrainConfig = convert(TrainConfig, args.train)
    path = _path(args, args.preset)
    world.start(world.pick_device(config.device).type)
    try:
        old = _old_config(args, path)
        run = pretrain(
            path,
            args.model,
            config,
            resume=args.resume,
            given=args.given,
            world=world,
        )
        llm = LLM(run.model, run.tokenizer, path)
        prompt = args.prompt
        if prompt is None:
            assert isinstance(run.data, TextData)  # it is no Run of fine-tuning
            prompt = "The salesperson" if config.data == "handbook" else ""
            prompt = run.data.opening(prompt)
        if prompt:
            llm.stream(prompt, 0)  # refused before training, not after
        _follow(run, args, world, old)
    finally:
        world.stop()
    if not world.is_main or args.is_silent:
        return
    llm = load(path)  # in training its weights may have been sharded
    windows = run.trainer.config.last_windows
    kept, (_, best) = (
        run.data.evaluate(llm.model, windows),
        read_header(run.folder.best),
    )
    part = "the whole" if kept.whole_split else f"{kept.tokens:,} tokens of the"
    tell(
        f"Kept step {best['step']}: {kept.bits_per_byte:.4f} bits per byte, "
        f"perplexity {kept.perplexity:.1f} on {part} validation split, "
        f"in {run.trainer.seconds:.0f} s"
    )
    if prompt:
        say("\nA sample:\n")
        console.print_text(llm, Generate(prompt=prompt, seed=config.seed))
    epochs = run.trainer.step * run.trainer.tokens_per_step / run.data.n_tokens
    say()
    tell(advice(run.data.n_tokens, epochs))
    tell(f"Saved in {path}. More: tinygpt generate --model {path}, tinygpt open {path}")


def run_finetune(args: Finetune) -> None:
    """Fine-tune, printing every evaluation; then answer the same questions twice."""
    calm_threads()
    from tinygpt.finetuning.run import find_run, finetune
    from tinygpt.text.corpora import holds_chats

    world = World.from_environment()
    path = _path(args, "finetune")
    options = convert(FinetuneConfig, args.train)
    config = replace(options, model=str(find_run(options.model, args.out)))
    world.start(world.pick_device(config.device).type)
    try:
        old = _old_config(args, path)
        run = finetune(path, config, resume=args.resume, world=world)
        _follow(run, args, world, old)
    finally:
        world.stop()
    if not world.is_main or args.is_silent:
        return
    size = (path / "best.safetensors").stat().st_size
    what = "adapters" if config.lora else "weights"
    tell(f"Saved in {path}: {size / 1e6:.2f} MB of {what}.")
    if holds_chats(config.data):
        _answers(config, path)
    say()
    tell(f"Talk to it: tinygpt chat --model {path}, or tinygpt open {path}")


def run_reward(args: Reward) -> None:
    """Learn from a reward, printing every evaluation; then answer prompts twice."""
    calm_threads()
    from tinygpt.finetuning.policy_run import learn_from_rewards
    from tinygpt.finetuning.run import find_run

    world = World.from_environment()
    path = _path(args, "reward")
    options = convert(RewardConfig, args.train)
    config = replace(options, model=str(find_run(options.model, args.out)))
    world.start(world.pick_device(config.device).type)
    try:
        old = _old_config(args, path)
        run = learn_from_rewards(path, config, resume=args.resume, world=world)
        _follow(run, args, world, old)
    finally:
        world.stop()
    if not world.is_main or args.is_silent:
        return
    _answers(config, path)
    say()
    tell(
        f"Saved in {path}. Talk to it: tinygpt chat --model {path}, or tinygpt open "
        f"{path}"
    )


def _answers(config: FinetuneConfig | RewardConfig, path: Path) -> None:
    """Let the model before the run and the one after it answer the same prompts."""
    from tinygpt.finetuning.run import prompts
    from tinygpt.llm import load

    before, after = load(config.model), load(path)
    for prompt in prompts(config.data):
        say(f"\nUser:   {prompt}")
        for when, llm in (("before", before), ("after", after)):
            say(f"{when + ':':<7} {console.one_answer(llm, prompt, config.seed)}")


def _path(args: Train | Finetune | Reward, start: str) -> Path:
    name = free_name(args.out, start) if args.name is None else args.name
    return run_path(args.out, name)


def _old_config(args: Train | Finetune | Reward, path: Path) -> TrainConfig | None:
    """The settings so far of the run to continue, if there is one."""
    from tinygpt.training.checkpoint import RunFolder

    folder = RunFolder(path)
    return folder.configs()[1] if args.resume and folder.exists else None


def _follow(
    run: Any, args: Train | Finetune | Reward, world: World, old: TrainConfig | None
) -> None:
    """Print each evaluation, and how to continue if Ctrl-C was pressed."""
    from tqdm import tqdm

    from tinygpt.training.figure import FIGURE, draw_losses
    from tinygpt.training.schedule import rate_change

    talks = world.is_main and not args.is_silent
    first = [run.summary(), run.plan]
    if old is not None:
        trainer = run.trainer
        if isinstance(old, FinetuneConfig):
            old = old.with_steps(trainer.batches.n_windows, world.size)
        first.append(rate_change(trainer.step, trainer.seconds, old, trainer.config))
    for line in first:
        if talks and line:
            tell(line)
    reports = run.reports(talks and ("lines" if args.plain else True))
    if args.tensorboard and world.is_main:
        from tinygpt.training.run import draw_in

        reports = draw_in(run.path, reports)
    for report in reports:
        with tqdm.external_write_mode(file=sys.stdout):
            if talks:
                tell(report)
            elif args.json and world.is_main:
                say(json.dumps(report.record()))
    if world.is_main:
        failed = draw_losses(run)
        if failed:
            console.complain(failed)
        elif args.plot and not show_file(run.path / FIGURE) and talks:
            tell(f"The losses: {run.path / FIGURE}")
    if run.interrupted:
        stopped = (
            f"Stopped after step {run.trainer.step}. Continue with: tinygpt "
            f"{type(args).__name__.lower()} --resume --name {run.path.name} "
            f"--out {args.out}"
        )
        if talks:
            say(stopped)
        sys.exit(130)


def run_runs(args: Runs) -> None:
    """List runs, the latest last."""
    calm_threads()
    from tinygpt.training.checkpoint import list_runs

    rows = [["name", "text", "parameters", "steps", "bits per byte", "date"]]
    for run in list_runs(args.out):
        bits = "" if run.bits_per_byte is None else f"{run.bits_per_byte:.4f}"
        numbers = [f"{run.parameters:,}", f"{run.steps}", bits, run.date]
        known = [f"({run.problem})"] if run.problem else [run.data, *numbers]
        rows.append([run.path.name, *known])
    require(len(rows) > 1, f"there is no run in {args.out}/ yet")
    for line in console.table(rows):
        say(line)
