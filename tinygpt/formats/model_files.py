"""The files of a pretrained model: in a folder, or from the Hugging Face hub.

`folder_files` and `hub_files` return a function from a file's name to its path. What it
leaves out: what is in the files (see `huggingface`).
"""

from collections.abc import Callable
from pathlib import Path

from tinygpt.errors import UserError, require
from tinygpt.files import why

SHIPPED = ("story", "pocket-gpt2", "pocket-chat")  # in data/, in GPT-2's format
REPOSITORIES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}
PRETRAINED_NAMES = (*SHIPPED, *REPOSITORIES)

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
# What older repositories have in their place.
VOCABULARY, MERGES, PICKLED = "vocab.json", "merges.txt", "pytorch_model.bin"


class AbsentError(UserError):
    """A folder or repository has no file of that name."""


Fetch = Callable[[str], Path]


def folder_files(folder: Path) -> Fetch:
    """Files of a folder on this machine; the function raises UserError for others."""

    def fetch(name: str) -> Path:
        try:
            require(
                folder.is_dir(),
                f"There is no folder {folder}: give {', '.join(PRETRAINED_NAMES)} or a "
                "folder in GPT-2's format.",
            )
            found = (folder / name).is_file()
        except OSError as error:
            raise UserError(f"cannot read {folder} ({why(error)})") from error
        if not found:
            raise AbsentError(
                f"{folder} has no {name}: a GPT-2 folder holds {CONFIG}, {TOKENIZER} "
                f"(or {VOCABULARY} and {MERGES}) and {WEIGHTS} (or {PICKLED})."
            )
        return folder / name

    return fetch


def hub_files(repository: str) -> Fetch:
    """Files of a repository on the Hugging Face hub, through its library's cache.

    The function raises UserError if a file cannot be fetched.

    Raises:
        UserError: huggingface_hub is not installed.
    """
    by_hand = (
        f"put {CONFIG}, {TOKENIZER} and {WEIGHTS} from "
        f"https://huggingface.co/{repository} into a folder and give its path"
    )
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (  # type: ignore[attr-defined]
            EntryNotFoundError,
            HTTPError,  # of requests or httpx, by version; so mypy does not know it
            LocalEntryNotFoundError,
        )
    except ImportError as error:
        raise UserError(
            "huggingface_hub, which fetches GPT-2, is not installed: pip install "
            f"tinygpt[hub], or {by_hand}."
        ) from error

    def fetch(name: str) -> Path:
        try:
            return Path(hf_hub_download(repository, name))
        except (OSError, HTTPError, RuntimeError) as error:  # RuntimeError: hf_xet's
            local = isinstance(error, LocalEntryNotFoundError)  # nobody was asked
            absent = isinstance(error, EntryNotFoundError) and not local
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise (AbsentError if absent else UserError)(
                f"Cannot fetch {name} of {repository} ({reason}): check the network "
                f"and try again, or {by_hand}."
            ) from error

    return fetch
