"""The commands that hand a model over to others: export and open.

What it leaves out: the other commands (see `main`), and all work.
"""

import shutil
from pathlib import Path
from typing import Any

from tinygpt.cli import console
from tinygpt.cli.arguments import Export, Open
from tinygpt.cli.console import say, tell
from tinygpt.runtime.display import show_file


def run_export(args: Export, llm: Any) -> None:
    """Write a model for other programs, with its card; upload it if asked."""
    import torch

    from tinygpt.formats.hub import push, require_repository
    from tinygpt.formats.huggingface import export_hf
    from tinygpt.formats.model_card import CARD, write_card
    from tinygpt.formats.page import PICTURE
    from tinygpt.formats.web import export_web

    if args.push is not None:
        require_repository(args.push)  # before anything is written
    with console.stoppable():
        if args.format == "web":
            files = [export_web(llm.model, llm.tokenizer, args.out).name]
        else:
            dtype = getattr(torch, args.dtype)
            files = export_hf(llm.model, llm.tokenizer, args.out, dtype=dtype)
        picture = llm.folder and llm.folder / PICTURE
        if picture and picture.exists():
            shutil.copyfile(picture, args.out / PICTURE)
            files.append(PICTURE)
        if not write_card(args.out, _card(args, llm, PICTURE in files)):
            tell(f"{args.out / CARD} was edited by somebody, so it stays as it is.")
        files.append(CARD)
    size = sum((args.out / name).stat().st_size for name in files)
    say(f"{args.out}: {llm.model.n_parameters():,} parameters, {size / 1e6:.1f} MB")
    if args.push is not None:
        with console.stoppable():
            say(push(args.out, files, args.push))


def _card(args: Export, llm: Any, has_picture: bool) -> str:
    """The card that a model came with, or a new one."""
    from tinygpt.files import exists, read_file
    from tinygpt.formats.huggingface import hf_type
    from tinygpt.formats.model_card import CARD, model_card
    from tinygpt.formats.page import PICTURE
    from tinygpt.training.history import history

    own = _source(args.model, llm)
    if own is not None and exists(own / CARD):
        return read_file(own / CARD).decode("utf-8", "replace")
    return model_card(
        _name(args.model, llm),
        llm.config,
        llm.model.n_parameters(),
        history(llm.folder) if llm.folder else [],
        model_type="web" if args.format == "web" else hf_type(llm.config),
        picture=PICTURE if has_picture else None,
    )


def run_open(args: Open, llm: Any) -> None:
    """Write the page of a model, and open it in the browser."""
    from tinygpt.formats.page import PICTURE, write_page

    name, folder = _name(args.model, llm), args.out
    if folder is None:
        folder = llm.folder / "page" if _is_own(llm) else Path("pages", name)
    with console.stoppable():
        page = write_page(
            llm.model,
            llm.tokenizer,
            folder,
            name=name,
            picture=llm.folder and llm.folder / PICTURE,
            **_about(llm),
        )
    if args.browser and show_file(page):
        tell(f"{page} is open in the browser.")
    else:
        tell(f"{page}: open it in a browser.")


def _about(llm: Any) -> dict[str, Any]:
    """What a page tells of a model: its size, its runs, a first text, questions."""
    from tinygpt.errors import UserError
    from tinygpt.finetuning.run import prompts
    from tinygpt.text.corpora import CORPORA, holds_chats
    from tinygpt.training.checkpoint import RunFolder
    from tinygpt.training.history import history

    stages = history(llm.folder) if llm.folder else []
    sentences = [f"{llm.model.n_parameters():,} parameters, made with TinyGPT."]
    sentences += [f"It was {stage}." for stage in stages]
    sentences += [stage.result for stage in stages[-1:] if stage.result]
    told: dict[str, Any] = {"about": " ".join(sentences)}
    if llm.folder is None:
        return told
    record = RunFolder(llm.folder).settings().get("record", {})
    _, config = RunFolder(llm.folder).configs()
    told["opening"] = str(record.get("opening", ""))
    if holds_chats(config.data):
        told["is_chat"] = True
        if config.data not in CORPORA:
            try:
                told["questions"] = prompts(config.data)
            except UserError:  # they are no longer there
                told["questions"] = []
    return told


def _name(model: str | None, llm: Any) -> str:
    """What to call a model: as its folder is called."""
    path = Path(llm.folder or model or "model")
    return path.resolve().name or "model"


def _source(model: str | None, llm: Any) -> Path | None:
    """The folder that a model was read from, if that is known."""
    from tinygpt.files import shipped
    from tinygpt.formats.model_files import CONFIG, REPOSITORIES, SHIPPED

    if llm.folder is not None:
        return llm.folder
    if model in SHIPPED:
        return shipped(f"{model}/{CONFIG}").parent
    return None if model is None or model in REPOSITORIES else Path(model)


def _is_own(llm: Any) -> bool:
    """Whether a model's folder is a run of the user, not one that ships."""
    from tinygpt.files import shipped

    ships = shipped("README.md").parent
    return llm.folder is not None and ships not in llm.folder.resolve().parents
