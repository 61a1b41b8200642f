"""Downloads: fetched once into the user's cache, and verified.

pooch downloads, retries, verifies and renames; here are the limit on the length and the
sentences. What it leaves out: which files there are (see `corpora`).
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tinygpt.errors import UserError

_CHUNK = 1 << 14  # bytes


class _DownloadBar(tqdm):  # type: ignore[type-arg]  # not generic when it runs
    """Shows a download, and stops one that is longer than the file should be."""

    def __init__(self, total: int, desc: str) -> None:
        super().__init__(total=total, desc=desc, unit="B", unit_scale=True)
        self.limit = total + _CHUNK

    def __bool__(self) -> bool:
        return True  # tqdm's is False where the server does not tell the length

    def update(self, n: int | float | None = 1) -> bool | None:
        """Count `n` bytes; raises ValueError, as for a wrong sha256, past the limit."""
        if self.n > self.limit:
            raise ValueError("the file is too long")
        return super().update(n)


def download(
    url: str,
    filename: str,
    *,
    size: int,
    sha256: str,
    name: str,
    timeout: float = 20.0,
    retries: int = 2,
) -> Path:
    """Path of a file in the user's cache, downloaded if need be; shows a progress bar.

    The cache is `pooch.os_cache("tinygpt")`, or the folder that the environment
    variable TINYGPT_CACHE names. A file that is already there, put by hand or by an
    earlier run, is used if its sha256 is right and replaced otherwise. pooch writes to
    a temporary file, verifies it and renames it, so that no partial file remains; it
    waits 1 s before the first retry, 2 s before the second. `size` is in bytes;
    `timeout` is the longest silence of the server in seconds.

    Raises:
        UserError: the download failed; the sentence says why and what to do.
    """
    # Imported here: few need them, and pooch's tqdm.auto warns in notebooks.
    import pooch

    def fetch(url: str, part: str, cache: Any) -> None:
        with _DownloadBar(total=size, desc=name) as bar, ExitStack() as stack:

            def close_later(response: Any, **_: object) -> None:
                stack.callback(response.close)  # pooch leaves it open after an error

            pooch.HTTPDownloader(
                progressbar=bar,  # pooch's own has neither a name nor a limit
                chunk_size=_CHUNK,
                timeout=timeout,
                hooks={"response": close_later},
            )(url, part, cache)

    cache = pooch.create(
        path=pooch.os_cache("tinygpt"),
        base_url="",
        registry={filename: sha256},
        urls={filename: url},
        env="TINYGPT_CACHE",
        retry_if_failed=retries,
    )
    path = cache.abspath / filename
    try:
        return Path(cache.fetch(filename, downloader=fetch))
    except (OSError, ValueError) as error:
        reason = _reason(error, size, sha256, timeout)
        if path.exists():
            reason += "; the file that is there has another sha256"
        raise UserError(
            f"{name} could not be downloaded from {url} ({reason}): try again, put the "
            f"file by hand at {path}, or use the text handbook, which needs no network."
        ) from error


def _reason(error: OSError | ValueError, size: int, sha256: str, timeout: float) -> str:
    """Why a download failed, in words for the reader."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code}"
    # A stall in the middle of the body comes as a ConnectionError, not as a Timeout.
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"the server was silent for {timeout:g} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off half-way"
    if isinstance(error, requests.RequestException):
        return f"no connection to the server, {type(error).__name__}"
    if isinstance(error, ValueError):  # a wrong checksum, or too many bytes
        return f"what came is not {size:,} bytes with sha256 {sha256}"
    return f"{error}; TINYGPT_CACHE names another folder"
