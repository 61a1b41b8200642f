"""dataset: the shipped texts, downloads from a server that misbehaves, the batches."""

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from tinygpt.dataset import (
    CORPORA,
    Batches,
    Corpus,
    fetch,
    load_text,
    shipped,
    split_tokens,
    whole_split,
)
from tinygpt.errors import UserError

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
    assert "--dataset handbook, which needs no network" in sentence
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


@pytest.mark.parametrize("name", ["handbook", "support-chats"])
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


def test_corpora_agree_with_the_reference(shared_dir: Path) -> None:
    facts = json.loads((shared_dir / "facts/reference.json").read_text("utf-8"))
    seed, plays = facts["seed_demo"]["dataset"], facts["tiny_shakespeare"]
    for name, fact in {"sales-textbook": seed, "tiny-shakespeare": plays}.items():
        corpus = CORPORA[name]
        assert corpus.url == fact["url"]
        assert (corpus.bytes, corpus.sha256) == (fact["bytes"], fact["sha256"])


def test_missing_shipped_file_is_named() -> None:
    with pytest.raises(UserError, match=r"data/nothing\.txt is missing"):
        shipped("nothing.txt")


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
        ("other.jsonl", b'{"text": "Hello"}', "other.jsonl line 1 is not a chat"),
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
        ("handbok", "no corpus, file or folder named 'handbok'.*handbook, support-"),
        ("", "no corpus, file or folder named ''"),
        ("missing.txt", "no corpus, file or folder named 'missing.txt'"),
        ("none-*.txt", r"none-\*.txt holds no matching files"),
        ("x" * 5000, "Cannot read the text .*xxx.*: check its path"),
    ],
)
def test_bad_names(tmp_path: Path, monkeypatch, name: str, sentence: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence):
        load_text(name)


def test_shipped_corpus_is_not_fetched() -> None:
    with pytest.raises(AssertionError, match="handbook ships with the course"):
        fetch(CORPORA["handbook"])


# Split and batches.


@pytest.mark.parametrize("kind", [list, torch.tensor, np.array, np.uint16, np.uint32])
def test_split_cuts_after_nine_tenths(kind: Callable) -> None:
    train, val = split_tokens(kind(list(range(77))), context_length=5)
    assert train.dtype == val.dtype == torch.int64
    assert train.tolist() == list(range(69))
    assert val.tolist() == list(range(69, 77))


def test_split_holds_just_one_window_each() -> None:
    train, val = split_tokens(list(range(60)), context_length=5)
    assert (len(train), len(val)) == (54, 6)
    half, other = split_tokens(list(range(12)), context_length=5, train_fraction=0.5)
    assert (len(half), len(other)) == (6, 6)


def test_split_refuses_a_short_text_with_the_numbers() -> None:
    with pytest.raises(UserError) as failure:
        split_tokens(list(range(59)), context_length=6)
    assert str(failure.value) == (
        "The text is too short: of its 59 tokens 53 train and 6 validate, but each "
        "part needs context_length + 1 = 7; give a longer text or a shorter "
        "context_length (at most 5)."
    )
    with pytest.raises(UserError, match=r"of its 3 tokens 2 .* context_length\.$"):
        split_tokens([1, 2, 3], context_length=6)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 90.0])
def test_split_refuses_a_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(UserError, match=f"train_fraction is {fraction}"):
        split_tokens(list(range(60)), 5, fraction)


def starts_of(batches: Batches, n_epochs: int) -> list[int]:
    """Window starts of whole epochs, read one window at a time from ids 0, 1, 2..."""
    one = Batches(batches.tokens, batches.context_length, 1, batches.seed)
    return [int(one.at(step)[0][0, 0]) for step in range(n_epochs * one.n_windows)]


@settings(max_examples=50, deadline=None)
@given(
    n_tokens=st.integers(2, 90),
    context_length=st.integers(1, 20),
    seed=st.integers(0, 5),
)
def test_an_epoch_draws_every_window_once(
    n_tokens: int, context_length: int, seed: int
) -> None:
    context_length = min(context_length, n_tokens - 1)
    batches = Batches(torch.arange(n_tokens), context_length, 1, seed)
    n = batches.n_windows
    assert n == max(1, n_tokens // context_length - 1)
    starts = starts_of(batches, n_epochs=4)
    for epoch in range(4):
        drawn = sorted(starts[epoch * n : (epoch + 1) * n])
        assert 0 <= drawn[0] < context_length
        assert drawn[-1] + context_length < n_tokens
        assert np.diff(drawn).tolist() == [context_length] * (n - 1)


def test_epochs_differ_in_order_and_offset() -> None:
    batches = Batches(torch.arange(1000), context_length=7, batch_size=1, seed=3)
    n = batches.n_windows
    starts = starts_of(batches, n_epochs=6)
    epochs = [starts[e * n : (e + 1) * n] for e in range(6)]
    assert len({min(epoch) for epoch in epochs}) > 1, "another offset"
    orders = {tuple((s - min(epoch)) // 7 for s in epoch) for epoch in epochs}
    assert len(orders) == 6, "another permutation"
    assert tuple(range(n)) not in orders


def test_targets_are_the_next_ids() -> None:
    tokens = torch.randint(0, 50, (211,))
    x, y = Batches(tokens, context_length=7, batch_size=3, seed=0).at(5)
    assert x.shape == y.shape == (3, 7)
    assert x.dtype == y.dtype == torch.int64
    assert x.is_contiguous()
    assert y.is_contiguous()
    text = tokens.tolist()
    for row, target in zip(x.tolist(), y.tolist(), strict=True):
        assert row[1:] == target[:-1]
        assert any(text[i : i + 8] == [*row, target[-1]] for i in range(204))


def test_batch_depends_on_seed_and_step_alone() -> None:
    tokens = torch.arange(331)
    steps = list(range(40))
    batches = Batches(tokens, context_length=5, batch_size=3, seed=11)
    forward = {step: batches.at(step) for step in steps}
    for step in reversed(steps):  # backwards, and from a fresh object
        fresh = Batches(tokens, context_length=5, batch_size=3, seed=11)
        for again in (batches.at(step), fresh.at(step)):
            assert torch.equal(forward[step][0], again[0])
            assert torch.equal(forward[step][1], again[1])
    other = Batches(tokens, context_length=5, batch_size=3, seed=12)
    assert not torch.equal(forward[0][0], other.at(0)[0])


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_see_the_batch_of_one(world_size: int) -> None:
    tokens = torch.arange(331)
    ranks = Batches(tokens, context_length=5, batch_size=4, seed=2)
    single = Batches(tokens, context_length=5, batch_size=4 * world_size, seed=2)
    for step in range(30):  # several epochs, also batches that straddle two
        x, y = single.at(step)
        parts = [ranks.at(step, rank, world_size) for rank in range(world_size)]
        assert torch.equal(x, torch.cat([part[0] for part in parts]))
        assert torch.equal(y, torch.cat([part[1] for part in parts]))
        assert ranks.epoch_of(step, world_size) == single.epoch_of(step)


def test_batch_larger_than_the_epoch() -> None:
    """17 ids in windows of 4: 3 windows an epoch, so a batch of 8 spans three."""
    batches = Batches(torch.arange(17), context_length=4, batch_size=8, seed=1)
    assert batches.n_windows == 3
    starts = torch.cat([batches.at(step)[0][:, 0] for step in range(3)])
    assert starts.tolist() == starts_of(batches, n_epochs=8)
    assert [batches.epoch_of(step) for step in range(4)] == [0, 2, 5, 8]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_memory_mapped_ids_give_the_same_batches(tmp_path: Path, dtype: str) -> None:
    ids = torch.randint(0, 60_000, (123,))
    ids.numpy().astype(dtype).tofile(tmp_path / "ids.bin")
    mapped = np.memmap(tmp_path / "ids.bin", dtype=dtype, mode="r")
    x, y = Batches(mapped, context_length=7, batch_size=3, seed=5).at(4)
    expected = Batches(ids, context_length=7, batch_size=3, seed=5).at(4)
    assert torch.equal(x, expected[0])
    assert torch.equal(y, expected[1])
    for got, want in zip(
        whole_split(mapped, 7, 3), whole_split(ids, 7, 3), strict=True
    ):
        assert torch.equal(got[0], want[0])
        assert torch.equal(got[1], want[1])
    assert torch.equal(split_tokens(mapped, 5)[0], split_tokens(ids, 5)[0])


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"context_length": 30}, "30 tokens are too few .* = 31"),
        ({"context_length": 0}, "not 0, 3 and 1"),
        ({"batch_size": 0}, "not 5, 0 and 1"),
        ({"seed": -1}, "not 5, 3 and -1"),
    ],
)
def test_batches_refuse_bad_sizes(sizes: dict[str, int], sentence: str) -> None:
    given_sizes = {"context_length": 5, "batch_size": 3, "seed": 1} | sizes
    with pytest.raises(UserError, match=sentence):
        Batches(torch.arange(30), **given_sizes)


def test_whole_split_worked_example() -> None:
    batches = [(x.tolist(), y.tolist()) for x, y in whole_split(torch.arange(12), 4, 3)]
    assert batches == [
        ([[0, 1, 2, 3], [4, 5, 6, 7]], [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ([[8, 9, 10]], [[9, 10, 11]]),
    ]


@settings(max_examples=50, deadline=None)
@given(
    n_tokens=st.integers(2, 90),
    context_length=st.integers(1, 20),
    batch_size=st.integers(1, 7),
)
def test_whole_split_targets_every_id_but_the_first_once(
    n_tokens: int, context_length: int, batch_size: int
) -> None:
    tokens = torch.randint(0, 1000, (n_tokens,))
    batches = list(whole_split(tokens, context_length, batch_size))
    inputs = torch.cat([x.flatten() for x, _ in batches])
    targets = torch.cat([y.flatten() for _, y in batches])
    assert torch.equal(inputs, tokens[:-1])
    assert torch.equal(targets, tokens[1:])
    assert all(len(x) <= batch_size for x, _ in batches)
    assert {x.shape[1] for x, _ in batches[:-1]} <= {context_length}
    assert batches[-1][0].shape[1] <= context_length
