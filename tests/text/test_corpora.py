"""texts: those that ship, downloads from a server that misbehaves, files, folders."""

import contextlib
import hashlib
import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from conftest import posix
from tqdm import tqdm

from tinygpt import files
from tinygpt.errors import UserError
from tinygpt.files import shipped
from tinygpt.text.corpora import (
    CORPORA,
    Corpus,
    UnreadableError,
    fetch,
    load_chats,
    load_text,
)
from tinygpt.text.documents import load_documents

BODY = b"Sell what they need. " * 1500  # 31,500 bytes: two chunks of the download
CHATS = (
    '{"messages": [{"role": "user", "content": "Pay\\nlater?"}, '
    '{"role": "assistant", "content": "Yes."}]}\n\n'
    '{"messages": [{"role": "user", "content": "Hi\u2028there"}]}\n'
)


# The server that misbehaves. Each way of misbehaving is a function of the handler.


class Handler(BaseHTTPRequestHandler):
    """Gives each request the next of `server.replies`, the last one for ever."""

    server: "Server"

    def do_GET(self) -> None:
        self.server.requests += 1
        replies = self.server.replies
        with contextlib.suppress(ConnectionError):
            (replies.pop(0) if len(replies) > 1 else replies[0])(self)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's stderr to the download's own words."""


Reply = Callable[[Handler], None]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[Reply] = []
        self.requests = 0
        self.flooded = False
        self.over = threading.Event()  # lets the stalled handlers go

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/text.txt"


def send(handler: Handler, body: bytes, length: int | None) -> None:
    handler.send_response(200)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(body)


def fine(handler: Handler) -> None:
    send(handler, BODY, len(BODY))


def status(code: int) -> Reply:
    return lambda handler: handler.send_error(code)


def wrong_bytes(handler: Handler) -> None:
    send(handler, BODY.replace(b"need", b"want"), len(BODY))


def drop_half_way(handler: Handler) -> None:
    send(handler, BODY[: len(BODY) // 2], len(BODY))


def drop_half_way_without_length(handler: Handler) -> None:
    send(handler, BODY[: len(BODY) // 2], None)


def flood(handler: Handler) -> None:
    send(handler, BODY, None)
    for _ in range(1000):  # 30 MB, or until the client hangs up
        handler.wfile.write(BODY)
    handler.server.flooded = True


def stall(handler: Handler) -> None:
    handler.server.over.wait(10)


def stall_half_way(handler: Handler) -> None:
    send(handler, BODY[: len(BODY) // 2], len(BODY))
    handler.wfile.flush()
    handler.server.over.wait(10)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, named by the environment variable; no proxy."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TINYGPT_CACHE", str(folder))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that pooch would have slept between attempts."""
    seconds: list[float] = []
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=seconds.append))
    return seconds


def corpus_at(url: str) -> Corpus:
    return Corpus(
        name="tiny-test",
        filename="tiny_test.txt",
        bytes=len(BODY),
        sha256=hashlib.sha256(BODY).hexdigest(),
        licence="CC0-1.0",
        what="a text of these tests",
        url=url,
    )


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def assert_says_what_to_do(sentence: str, url: str, cache: Path, reason: str) -> None:
    assert url in sentence
    assert str(cache / "tiny_test.txt") in sentence
    assert "use the text handbook, which needs no network" in sentence
    assert reason in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")


def test_fetch_downloads_verifies_and_shows_progress(server, cache, capsys) -> None:
    server.replies = [fine]
    path = fetch(corpus_at(server.url))
    assert path == cache / "tiny_test.txt"
    assert path.read_bytes() == BODY
    assert listing(cache) == ["tiny_test.txt"]
    progress = capsys.readouterr().err
    assert "tiny-test: 100%" in progress
    assert "31.5k/31.5k" in progress


def test_fetch_asks_the_server_once(server, cache) -> None:
    server.replies = [fine]
    assert fetch(corpus_at(server.url)) == fetch(corpus_at(server.url))
    assert server.requests == 1


WRONG_CONTENT = f"what came is not 31,500 bytes with sha256 {corpus_at('').sha256}"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (status(404), "the server answered 404"),
        (status(500), "the server answered 500"),
        (wrong_bytes, WRONG_CONTENT),
        (drop_half_way, "the connection broke off half-way"),
        (drop_half_way_without_length, WRONG_CONTENT),
        (flood, WRONG_CONTENT),
        (stall, "the server was silent for 0.2 s"),
        (stall_half_way, "the server was silent for 0.2 s"),
    ],
)
def test_failed_download_says_why_and_leaves_nothing(
    server, cache, waits, reply: Reply, reason: str
) -> None:
    server.replies = [reply]
    with pytest.raises(UserError) as failure:
        fetch(corpus_at(server.url), timeout=0.2, retries=1)
    assert_says_what_to_do(str(failure.value), server.url, cache, reason)
    assert listing(cache) == []
    assert server.requests == 2
    assert waits == [1]
    assert not server.flooded, "too long an answer is not read to its end"


def test_nothing_listening(cache, waits) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/text.txt"
    with pytest.raises(UserError) as failure:
        fetch(corpus_at(url))
    reason = "no connection to the server, ConnectionError"
    assert_says_what_to_do(str(failure.value), url, cache, reason)
    assert listing(cache) == []
    assert waits == [1, 2]


@pytest.mark.parametrize("trouble", [status(500), wrong_bytes, drop_half_way, stall])
def test_retry_succeeds(server, cache, waits, trouble: Reply) -> None:
    server.replies = [trouble, trouble, fine]
    assert fetch(corpus_at(server.url), timeout=0.2).read_bytes() == BODY
    assert listing(cache) == ["tiny_test.txt"]
    assert server.requests == 3
    assert waits == [1, 2]


def test_interrupted_download_leaves_nothing(server, cache, monkeypatch) -> None:
    def interrupt(bar: tqdm, n: int) -> None:
        raise KeyboardInterrupt

    server.replies = [fine]
    monkeypatch.setattr(tqdm, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(corpus_at(server.url))
    assert listing(cache) == []


def test_file_put_by_hand_is_used_without_network(server, cache) -> None:
    cache.mkdir()
    (cache / "tiny_test.txt").write_bytes(BODY)
    assert fetch(corpus_at(server.url)).read_bytes() == BODY
    assert server.requests == 0


def test_wrong_file_in_place_is_replaced(server, cache) -> None:
    cache.mkdir()
    (cache / "tiny_test.txt").write_bytes(BODY[:-1])
    server.replies = [fine]
    assert fetch(corpus_at(server.url)).read_bytes() == BODY
    assert listing(cache) == ["tiny_test.txt"]


def test_wrong_file_in_place_is_never_used(server, cache) -> None:
    cache.mkdir()
    (cache / "tiny_test.txt").write_bytes(BODY[:-1])
    server.replies = [status(404)]
    with pytest.raises(UserError, match="the file that is there has another sha256"):
        fetch(corpus_at(server.url), retries=0)
    assert (cache / "tiny_test.txt").read_bytes() == BODY[:-1], "the reader's own file"


def test_cache_that_cannot_be_written(server, cache) -> None:
    cache.write_bytes(b"a file where the folder should be")
    with pytest.raises(UserError, match="TINYGPT_CACHE names another folder"):
        fetch(corpus_at(server.url))
    assert server.requests == 0


def test_load_text_downloads_a_corpus_by_name(server, cache, monkeypatch) -> None:
    monkeypatch.setitem(CORPORA, "tiny-test", corpus_at(server.url))
    server.replies = [fine]
    assert load_text("tiny-test") == BODY.decode()


# What ships, and what may be given instead.


@pytest.mark.parametrize("name", ["handbook", "support-chats", "shop-chats"])
def test_shipped_text_is_byte_for_byte_the_one_described(name: str) -> None:
    corpus = CORPORA[name]
    raw = shipped(corpus.filename).read_bytes()
    assert len(raw) == corpus.bytes
    assert hashlib.sha256(raw).hexdigest() == corpus.sha256


def test_data_readme_states_every_file() -> None:
    readme = shipped("README.md").read_text(encoding="utf-8")
    data = shipped("README.md").parent
    files = [p for p in data.rglob("*.*") if p.is_file() and p.name != "README.md"]
    assert len(files) >= 7
    for path in files:
        raw, name = path.read_bytes(), path.relative_to(data).as_posix()
        row = f"| `{name}` | {len(raw):,} | `{hashlib.sha256(raw).hexdigest()}` |"
        assert row in readme
    for corpus in CORPORA.values():
        assert (
            f"| `{corpus.filename}` | {corpus.bytes:,} | `{corpus.sha256}` |" in readme
        )
        assert corpus.url is None or corpus.url in readme


REFERENCE = {  # noted when the seed demo was measured, apart from the package
    "sales-textbook": (
        "https://huggingface.co/datasets/goendalf666/"
        "sales-textbook_for_convincing_and_selling/raw/main/sales_textbook.txt",
        460_319,
        "1994f20f5becd3f0b3d7a632e5a68513cc38cf6c9737a9f38243f1b652e962da",
    ),
    "tiny-shakespeare": (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
        "tinyshakespeare/input.txt",
        1_115_394,
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    "tinystories": (
        "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/"
        "TinyStories-valid.txt",
        19_447_282,
        "94e431816c4cce81ff71e4408ff8d3bda9a42e8d2663986697c3954288cb38b4",
    ),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_corpora_agree_with_the_reference(name: str) -> None:
    corpus = CORPORA[name]
    assert (corpus.url, corpus.bytes, corpus.sha256) == REFERENCE[name]


def test_missing_shipped_file_is_named() -> None:
    with pytest.raises(UserError, match=r"data/nothing\.txt is missing"):
        shipped("nothing.txt")


def test_a_wheel_finds_its_own_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "__file__", str(tmp_path / "tinygpt" / "files.py"))
    inside = tmp_path / "tinygpt" / "_data" / "x.txt"
    inside.parent.mkdir(parents=True)
    inside.touch()
    assert shipped("x.txt") == inside


def test_handbook_is_the_file_itself() -> None:
    assert load_text("handbook").encode() == shipped("sales_handbook.txt").read_bytes()


def test_support_chats_become_plain_text() -> None:
    text = load_text("support-chats")
    chats = text.split("\n\n")
    assert len(chats) == 537
    assert chats[0] == (
        "User: test\nAssistant: The chat works. What would you like to know?"
    )
    lines = text.replace("\n\n", "\n").splitlines()
    assert all(line.startswith(("User: ", "Assistant: ")) for line in lines)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "below").mkdir()
    for name, text in {
        "b.txt": "bé\r\n",
        "a.md": "\ufeffa",
        "below/c.jsonl": CHATS,
        "below/d.TXT": "d",
        "picture.png": "\0",
    }.items():
        (tmp_path / name).write_bytes(text.encode())
    return tmp_path


CHAT_TEXT = "User: Pay later?\nAssistant: Yes.\n\nUser: Hi there\n"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("b.txt", "bé\r\n"),
        ("a.md", "a"),
        ("below/c.jsonl", CHAT_TEXT),
        ("", f"a\nbé\r\n\n{CHAT_TEXT}\nd"),
        ("*.[mt]*", "a\nbé\r\n"),
        ("**/[cd].*", f"{CHAT_TEXT}\nd"),
    ],
)
def test_paths_folders_and_globs(folder: Path, path: str, text: str) -> None:
    assert load_text(f"{folder}/{path}") == text


def test_home_folder_is_expanded(folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    assert load_text("~/a.md") == "a"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.txt", b"", "empty.txt is empty"),
        ("blank.txt", b" \n\t", "blank.txt is empty"),
        ("bom.txt", b"\xef\xbb\xbf", "bom.txt is empty"),
        ("nul.txt", b"abc\0def", "not UTF-8 text (byte 0x00 at offset 3)"),
        ("latin1.txt", b"caf\xe9 au lait", "not UTF-8 text (byte 0xe9 at offset 3)"),
        ("utf16.txt", "né".encode("utf-16"), "not UTF-8 text (byte 0xff at offset 0)"),
        ("cut.jsonl", b'\n{"messages": [', "cut.jsonl line 2 is not a chat like"),
        ("other.jsonl", b'{"texts": "Hello"}', "other.jsonl line 1 is not a chat"),
        ("list.jsonl", b"[1, 2]", "list.jsonl line 1 is not a chat"),
        (
            "number.jsonl",
            b'{"messages": [{"role": "user", "content": 3}]}',
            "number.jsonl line 1 is not a chat",
        ),
        (
            "surrogate.jsonl",
            b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
            "surrogate.jsonl line 1 is not a chat",
        ),
        (
            "deep.jsonl",
            b"[" * 100_000 + b"]" * 100_000,
            "deep.jsonl line 1 is not a chat",
        ),
        ("none/", b"", "holds no text files (.txt, .md, .jsonl)"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as failure:
        load_text(f"{tmp_path}/{name}")
    assert sentence in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("handbok", "no corpus, file or folder named 'handbok'.*handbook, stories"),
        ("", "no corpus, file or folder named ''"),
        ("missing.txt", "no corpus, file or folder named 'missing.txt'"),
        ("none-*.txt", r"none-\*.txt holds no matching files"),
        ("x" * 5000, "cannot read 'x+' .File name too long.: check"),
    ],
)
def test_bad_names(tmp_path: Path, monkeypatch, name: str, sentence: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence):
        load_text(name)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder, and for the test no right to read what is forbidden in it."""
    if not hasattr(os, "geteuid"):
        pytest.skip("rights of POSIX")
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if is_root:
                os.seteuid(0)
            for path in [folder, *folder.rglob("*")]:
                if not path.is_symlink():
                    path.chmod(0o777)


@pytest.mark.parametrize("name", ["secret.txt", "locked", "locked/a.txt", "locked/*"])
def test_what_must_not_be_read_is_not_called_missing(
    unprivileged: Path, name: str
) -> None:
    (unprivileged / "secret.txt").write_text("text", encoding="utf-8")
    (unprivileged / "locked").mkdir()
    (unprivileged / "locked" / "a.txt").write_text("text", encoding="utf-8")
    (unprivileged / "secret.txt").chmod(0)
    (unprivileged / "locked").chmod(0)
    with pytest.raises(UserError, match=r"cannot read .*Permission denied"):
        load_text(f"{unprivileged}/{name}")


def test_a_folder_with_a_locked_one_below_is_not_read_in_part(
    unprivileged: Path,
) -> None:
    (unprivileged / "a.txt").write_text("text", encoding="utf-8")
    (unprivileged / "locked").mkdir(mode=0)
    with pytest.raises(UserError, match=r"cannot read .*locked.*Permission denied"):
        load_text(str(unprivileged))


@posix
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("itself.txt", r"cannot read .*itself\.txt.*symbolic link"),
        ("nowhere.txt", r"cannot read .*nowhere\.txt.*No such file"),
        ("pipe.txt", r"pipe\.txt is neither a file nor a folder"),
        ("a.txt/below", "no corpus, file or folder named"),
        ("a\0.txt", "no corpus, file or folder named"),
        ("**a", "is not a pattern for files"),
        ("x" * 256, "cannot read .*File name too long"),
        ("*" + "x" * 5000, "cannot read .*File name too long"),
    ],
)
def test_links_pipes_and_strange_names(
    tmp_path: Path, name: str, sentence: str
) -> None:
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    (tmp_path / "itself.txt").symlink_to("itself.txt")
    (tmp_path / "nowhere.txt").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match=sentence):
        load_text(f"{tmp_path}/{name}")


def test_a_folder_names_all_its_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"latin1.txt is not UTF-8 text \(byte 0xe9 at"):
        load_text(str(tmp_path))  # a single one in its own words
    (tmp_path / "nul.md").write_bytes(b"\0")
    (tmp_path / "chats.jsonl").write_bytes(b'{"text": "\xff"}')
    for load in (load_text, load_documents):
        with pytest.raises(UserError) as caught:
            load(str(tmp_path))
        assert str(caught.value) == (
            "3 of 4 files cannot be read: "
            f"{tmp_path / 'chats.jsonl'} (not UTF-8 text, byte 0xff at offset 10), "
            f"{tmp_path / 'latin1.txt'} (not UTF-8 text, byte 0xe9 at offset 3), "
            f"{tmp_path / 'nul.md'} (not UTF-8 text, byte 0x00 at offset 0): "
            "save them as UTF-8, or take them out."
        )
    for name in ("one.jsonl", "two.jsonl"):
        (tmp_path / name).write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"^3 of 3 files cannot be read: .*two\.jsonl"):
        load_chats(f"{tmp_path}/*.jsonl")


def test_what_is_unreadable_can_be_pickled(tmp_path: Path) -> None:
    """So that a process that only encodes can send it home."""
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(UnreadableError) as caught:
        load_text(str(tmp_path / "a.txt"))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.reason) == (str(caught.value), caught.value.reason)


def test_folders_that_contain_themselves_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.txt").write_text("text", encoding="utf-8")
    (tmp_path / ".hidden.txt").write_text("hidden", encoding="utf-8")
    for i in range(3):  # glob.glob follows them: 3 ** 40 folders
        (tmp_path / "below" / f"again{i}").symlink_to(tmp_path)
    assert load_text(str(tmp_path / "below")) == "text"
    assert load_text(f"{tmp_path}/**/*.txt") == "text"
    assert load_text(f"{tmp_path}/**/.*.txt") == "hidden"
    assert load_text(f"{tmp_path}/below/**") == "text"


def test_shipped_corpus_is_not_fetched() -> None:
    with pytest.raises(AssertionError, match="handbook ships with the course"):
        fetch(CORPORA["handbook"])
