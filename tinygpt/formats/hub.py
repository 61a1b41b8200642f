"""Uploading a folder to the Hugging Face hub, by its own library.

HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE act as huggingface_hub says. What it leaves
out: fetching (see `model_files`) and everything that can be done on the site.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from tinygpt.errors import UserError, require


def require_repository(name: str) -> None:
    """Check a repository's name.

    Raises:
        UserError: it is not USER/NAME.
    """
    letters = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
    good = re.fullmatch(f"{letters}/{letters}", name) and not re.search(
        r"--|\.\.", name
    )
    require(
        bool(good) and len(name) <= 96,
        f"--push takes a repository USER/NAME of the Hugging Face hub, not {name!r}",
    )


def push(folder: Path, names: Iterable[str], repository: str) -> str:
    """Upload these files of a folder in one commit; the repository's address.

    A repository that is not there yet becomes a private one. Files of it that have
    other names stay.

    Raises:
        UserError: the name is none, huggingface_hub or a token is missing, or the hub
            cannot be reached or refuses.
    """
    require_repository(repository)
    try:
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.errors import (  # type: ignore[attr-defined]
            HTTPError,  # of requests or httpx, by version; so mypy does not know it
        )
    except ImportError as error:
        raise UserError(
            "--push needs one more package: pip install tinygpt[hub]"
        ) from error
    require(
        bool(get_token()),
        "there is no token of the Hugging Face hub here: make one that may write at "
        "https://huggingface.co/settings/tokens, then `hf auth login` or set HF_TOKEN",
    )
    api = HfApi(library_name="tinygpt")
    try:
        made = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(names),
            commit_message="tinygpt export",
        )
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"cannot upload to {repository} ({reason}): {folder} is complete, so the "
            "same command may be given again"
        ) from error
    return str(made)
