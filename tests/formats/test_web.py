"""The page's own model against ours: tokens, logits, continuations, damaged files.

The JavaScript runs in Node, and once more in a Worker of a page in Chromium; each is
skipped with a message where the program is missing.
"""

import json
import random
import shutil
import subprocess
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.testing import assert_close

import tinygpt
from tinygpt.config import GPTConfig
from tinygpt.errors import UserError
from tinygpt.files import shipped
from tinygpt.finetuning.chat import SPEAKERS, chat_prompt, cut_history
from tinygpt.finetuning.lora import add_lora
from tinygpt.finetuning.run import load_model
from tinygpt.formats import web
from tinygpt.formats.huggingface import load_gpt2
from tinygpt.formats.web import as_written, characters
from tinygpt.generation.generate import generate, window_start
from tinygpt.generation.sampling import next_token_probabilities
from tinygpt.model.gpt import GPT
from tinygpt.text.bpe import DIGITS_PATTERN
from tinygpt.text.tokenizer import Tokenizer, get_tokenizer
from tinygpt.training.text_data import TextData

STATIC = Path(__file__).resolve().parents[2] / "book" / "_static"
NAMES = ("tinygpt_wasm", "tinygpt_simd", "tinygpt", "tinygpt_web")
SCRIPTS = WASM, SIMD, JS, WEB = [STATIC / f"{name}.js" for name in NAMES]
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(
    NODE is None, reason="no Node here: apt-get install nodejs runs these tests"
)
END = "<|endoftext|>"
RANKS = {bytes([b]): b for b in range(256)}
BYTES = Tokenizer("bytes", RANKS, special_tokens={END: 256})
SPOKEN = dict(zip(SPEAKERS, (257, 258, 259), strict=True))
SPEAKING = Tokenizer("speaking", RANKS, special_tokens={END: 256} | SPOKEN)
NEW, DRAWN, SEED = 50, 12, 7

PROMPTS = [
    "The salesperson asks the", "Chapter 1: Building", "A buyer", " ", "\n\n", "I'll",
    "Why?  Because   it's 42.", "naïve café", "Größe für Straße", "日本語の文",
    "שלום, עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "Привет, мир!", "👩‍👩‍👧 emoji 👍🏽",
    "tab\tand\r\nline\x00null\x1fcontrol", "\ufeffmark, \u0085next\u2028line", "ǆ½²३",
    "<|endoftext|> is text", "e\u0301\u200d\u202ertl",
]  # fmt: skip


def small(**other: Any) -> GPTConfig:
    """Sizes in which no two axes agree."""
    sizes = {"vocab_size": 263, "context_length": 11, "d_model": 20, "n_heads": 5}
    return GPTConfig(**(sizes | {"n_layers": 3, "d_ff": 37} | other))


@torch.no_grad()
def random_model(config: GPTConfig, std: float = 0.3) -> GPT:
    """A model whose logits lie far apart; its weights are float16's."""
    model = GPT(config).eval()
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter).mul(std).half())
    return model


@torch.no_grad()
def export_web(model: GPT, *given: Any) -> Path:
    """Write the file; then let the model have the weights that it holds."""
    path = web.export_web(model, *given)
    for parameter in model.parameters():
        parameter.copy_(as_written(parameter))
    return path


def run_node(
    code: str, *words: str | Path, given: Any = None, simd: bool = True
) -> Any:
    """What `code` prints as JSON; it sees `TinyGPT`, `read(path)`, `words`, `given`."""
    assert NODE is not None
    frame = (
        "const fs = require('fs'), [, tinygpt, simd, ...words] = process.argv;"
        f"if ({json.dumps(simd)}) require(simd);"
        "const TinyGPT = require(tinygpt);"
        "const given = JSON.parse(fs.readFileSync(0, 'utf8'));"
        "const read = (path) => TinyGPT.readModel(fs.readFileSync(path));"
        f"process.stdout.write(JSON.stringify((() => {{ {code} }})()));"
    )
    done = subprocess.run(
        [NODE, "-e", frame, str(WEB), str(SIMD), *map(str, words)],
        input=json.dumps(given).encode("ascii"),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout)


# --- Two whole models -------------------------------------------------------------

ANSWER = """
function answer(TinyGPT, { model, tokenizer }, { prompts, NEW, DRAWN, SEED }) {
  const drawn = { topK: 50, topP: 0.9, seed: SEED };
  return prompts.map((prompt) => {
    const ids = tokenizer.encode(prompt);
    return {
      ids,
      text: tokenizer.decode(ids),
      logits: Array.from(model.nextLogits(ids)),
      greedy: [...TinyGPT.generate(model, ids, NEW, { temperature: 0 })],
      drawn: [0, 1].map(() => [...TinyGPT.generate(model, ids, DRAWN, drawn)]),
    };
  });
}
"""


def job(prompts: list[str]) -> dict[str, Any]:
    return {"prompts": prompts, "NEW": NEW, "DRAWN": DRAWN, "SEED": SEED}


def make_pocket() -> tuple[GPT, Tokenizer]:
    return load_gpt2("pocket-gpt2")  # stored in float16


def make_tiny() -> tuple[GPT, Tokenizer]:
    return load_model(shipped("tiny/run.json").parent)  # in float16, too


@pytest.fixture(scope="module", params=[make_pocket, make_tiny])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[GPT, Tokenizer, Path]:
    model, tokenizer = request.param()
    return model, tokenizer, export_web(model, tokenizer, tmp_path_factory.mktemp("m"))


def greedy_choices(model: GPT, ids: list[int], new: list[int]) -> list[int]:
    """What `generate` would choose at temperature 0 in place of each of `new`.

    One pass per view in place of one per token: equal to `new` only if all are right.
    """
    text, chosen, context = ids + new, [], model.config.context_length
    sizes = range(len(ids), len(text))
    for start, group in groupby(sizes, lambda size: window_start(size, context)):
        ends = list(group)
        logits = model(torch.tensor([text[start : ends[-1]]]))[0]  # [T, V]
        chosen += logits[ends[0] - 1 - start :].argmax(dim=-1).tolist()
    return chosen


@torch.no_grad()
def assert_same_answers(
    model: GPT, tokenizer: Tokenizer, prompts: list[str], answers: list[dict[str, Any]]
) -> None:
    assert len(answers) == len(prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = tokenizer.encode(prompt)
        assert answer["ids"] == ids == tokenizer.to_tiktoken().encode_ordinary(prompt)
        assert answer["text"] == prompt
        logits = torch.tensor(answer["logits"])
        assert_close(logits, model(torch.tensor([ids]))[0, -1], atol=1e-4, rtol=0)
        assert answer["greedy"] == greedy_choices(model, ids, answer["greedy"]), prompt
        assert len(answer["greedy"]) == NEW
        drawn, again = answer["drawn"]
        assert drawn == again and len(drawn) == DRAWN


def test_a_weight_takes_one_byte(exported: tuple[GPT, Tokenizer, Path]) -> None:
    model, tokenizer, path = exported
    vocabulary = json.dumps(web._vocabulary(tokenizer), ensure_ascii=False)
    weights = path.stat().st_size - len(vocabulary.encode("utf-16-le"))
    assert weights <= 1.03 * model.n_parameters()
    assert [file.name for file in path.parent.iterdir()] == ["model.js"]


@pytest.mark.slow
@needs_node
@pytest.mark.parametrize("simd", [True, False])
def test_node_gives_our_answers(
    exported: tuple[GPT, Tokenizer, Path], simd: bool
) -> None:
    model, tokenizer, path = exported
    assert len(PROMPTS) == len(set(PROMPTS)) == 20
    code = f"{ANSWER} return answer(TinyGPT, read(words[0]), given);"
    some = PROMPTS[::4]  # the browser is asked all of them
    answers = run_node(code, path, given=job(some), simd=simd)
    assert_same_answers(model, tokenizer, some, answers)


# --- Every switch -----------------------------------------------------------------

SWITCHES: list[dict[str, Any]] = [
    {},
    {"positions": "rotary", "qk_norm": True, "norm": "rmsnorm"},
    {"positions": "sinusoidal", "norm_placement": "post", "d_ff": None},
    {"activation": "relu", "bias": False, "tie_head": False},
    {"activation": "relu2", "qkv_bias": False, "embedding_norm": True},
    {"activation": "swiglu", "logit_softcap": 2.5},
    {"tie_head": False, "head_bias": True, "d_model": 21, "n_heads": 3},
    {"d_model": 48, "n_heads": 3, "logit_softcap": 3.5},
    {"d_model": 24, "n_heads": 3, "positions": "rotary", "qk_norm": True},
]


@pytest.mark.slow
@needs_node
@pytest.mark.parametrize("simd", [True, False])
@torch.no_grad()
def test_every_switch_acts_as_in_python(tmp_path: Path, simd: bool) -> None:
    ids = [3, 262, 0, 17, 5, 88, 17, 1]
    models = [random_model(small(**switch)) for switch in SWITCHES]
    folders = [tmp_path / str(n) for n in range(len(models))]
    paths = [export_web(m, BYTES, f) for m, f in zip(models, folders, strict=True)]
    code = """return words.map((path) => {
      const { model } = read(path), cache = model.newCache();
      const pieces = [given.slice(0, 5), given.slice(5, 6), given.slice(6)];
      const cached = pieces.map((ids) => Array.from(model.forward(ids, cache)));
      return [Array.from(model.forward(given)), cached.flat()];
    });"""
    results = run_node(code, *paths, given=ids, simd=simd)
    for model, (whole, cached) in zip(models, results, strict=True):
        expected = model(torch.tensor([ids])).flatten()
        assert_close(torch.tensor(whole), expected, atol=1e-4, rtol=0)
        assert_close(torch.tensor(cached), expected, atol=1e-4, rtol=0)


@needs_node
def test_looking_inside(tmp_path: Path) -> None:
    model = random_model(small())
    path = export_web(model, BYTES, tmp_path)
    code = """const { model } = read(words[0]), sums = [], rows = [];
    const x = [];
    const last = model.vectors(given, undefined, {
      attention: (layer, head, t, weights) => {
        rows.push([layer, head, t, weights.length]);
        sums.push(weights.reduce((a, b) => a + b));
      },
      block: (layer, vectors) => x.push(Array.from(vectors)),
    });
    const see = (look) => Array.from(model.vectors(given, undefined, look));
    const heads = [0, 1, 2, 3, 4].map((head) => `1.${head}`);
    const without = [["1"], heads].map((names) => see({ without: new Set(names) }));
    const all = see({ isCausal: false });
    return { rows, sums, x, last: Array.from(last), all, without };"""
    ids = [3, 262, 17]
    seen = run_node(code, path, given=ids)
    assert len(seen["rows"]) == 3 * 5 * 3  # layers, heads, tokens
    assert all(length == t + 1 for _, _, t, length in seen["rows"])
    assert_close(torch.tensor(seen["sums"]), torch.ones(45))
    with torch.no_grad():
        x = model.embed(torch.tensor([ids]), torch.arange(3))
        for layer, block in enumerate(model.blocks):
            x = block(x, is_causal=True)
            assert_close(torch.tensor(seen["x"][layer]), x.flatten())
        assert_close(torch.tensor(seen["last"]), x.flatten())
        x = model.embed(torch.tensor([ids]), torch.arange(3))
        for block in model.blocks:
            x = block(x)
        assert_close(torch.tensor(seen["all"]), x.flatten())
        skipped, headless = seen["without"]
        x = model.embed(torch.tensor([ids]), torch.arange(3))
        x = model.blocks[0](x, is_causal=True)
        assert_close(
            torch.tensor(skipped), model.blocks[2](x, is_causal=True).flatten()
        )
        block = model.blocks[1]
        x = x + block.attention.output.bias  # what no head adds to
        x = x + block.feed_forward(block.norm2(x))
        assert_close(
            torch.tensor(headless), model.blocks[2](x, is_causal=True).flatten()
        )


# --- The fast twins -----------------------------------------------------------------

LINEARS = """const linearsOf = (model) => [model.head, ...model.blocks.flatMap(
    ({ attention: a, feedForward: f }) => [a.qkv, a.output, f.input, f.output])];
const plain = (thing, name, ...given) =>
  Object.getPrototypeOf(thing)[name].apply(thing, given);
"""


@needs_node
@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_fast_products_and_bends_equal_the_plain_ones(
    kind: Literal["float16", "int8"], tmp_path: Path
) -> None:
    """Odd sizes, float16's smallest and larger numbers, more rows than one."""
    model = random_model(small(d_ff=37, logit_softcap=3.0))
    with torch.no_grad():
        weight = model.blocks[0].attention.qkv.weight
        smallest = torch.randint(-2000, 2000, weight.shape) * 2.0**-24
        weight.copy_(torch.where(torch.rand_like(weight) < 0.5, smallest, weight))
        weight.flatten()[:3] = torch.tensor([-127.9375, 127.9375, -0.0])
        model.blocks[1].attention.qkv.weight[0, 0] = 128.0  # 16 bits do not hold it
    path = web.export_web(model, BYTES, tmp_path, kind)
    code = f"""{LINEARS} const {{ model }} = read(words[0]);
    const draw = (n) => Float32Array.from({{ length: n }}, (_, i) => Math.sin(i * i));
    const products = linearsOf(model).map((linear) => {{
      const x = draw(3 * linear.inputs);
      return [Object.hasOwn(linear, "product"),
        Array.from(linear.product(x)), Array.from(plain(linear, "product", x))];
    }});
    const bends = ["bend", "soften"].map((name) => {{
      const thing = name === "bend" ? model.blocks[0].feedForward : model;
      const both = [0, 1].map(() => Float32Array.from({{ length: 4001 }}, (_, i) =>
        (i - 2000) * (i % 7 ? 0.01 : 1e-4) * (i % 41 ? 1 : 1e9)));
      thing[name](both[0], 3);
      plain(thing, name, both[1], 3);
      return both.map((list) => Array.from(list));
    }});
    return {{ products, bends }};"""
    found = run_node(code, path)
    fast = [True] * 5 + [kind == "int8"] + [True] * 7  # a byte times a scale has 128
    assert [is_fast for is_fast, _, _ in found["products"]] == fast
    for _, quick, plain in found["products"]:
        assert_close(torch.tensor(quick), torch.tensor(plain), atol=2e-5, rtol=2e-6)
    for quick, plain in found["bends"]:
        assert_close(torch.tensor(quick), torch.tensor(plain), atol=1e-6, rtol=1e-6)


@needs_node
@pytest.mark.parametrize("inputs", [2048, 2200])
def test_sums_of_whole_numbers_stay_within_32_bits(inputs: int, tmp_path: Path) -> None:
    """The largest sums there are, from the last width that has them, and past it."""
    model = random_model(small(n_layers=1, d_ff=inputs))
    output = model.blocks[0].feed_forward.output
    with torch.no_grad():
        output.weight.fill_(125 / 256)  # 125 times a scale of four digits
    path = export_web(model, BYTES, tmp_path)
    code = f"""{LINEARS} const {{ model }} = read(words[0]);
    const {{ output }} = model.blocks[0].feedForward;
    return [1, -1].map((sign) => {{
      const x = new Float32Array(output.inputs).fill(sign * (1 - 2 ** -24));
      x[0] = sign;
      return [output.product(x)[0], plain(output, "product", x)[0]];
    }});"""
    (most, sum_), (least, _) = run_node(code, path)
    assert_close(sum_, inputs * 125 / 256, rtol=1e-6, atol=0)
    assert_close((most, least), (sum_, -sum_), rtol=1e-6, atol=0)


@needs_node
def test_fast_attention_equals_the_plain_one(tmp_path: Path) -> None:
    """Two caches of one model in turn, and a cache that forgets."""
    path = export_web(random_model(small(d_model=48, n_heads=3)), BYTES, tmp_path)
    code = """const { model } = read(words[0]);
    const plain = { attention: () => {} };  // the plain loop tells who looks inside
    const texts = [[3, 262, 17, 5, 9, 1, 0], [8, 8, 20, 4, 19, 7, 7]];
    return [undefined, plain].map((look) => {
      const caches = texts.map(() => model.newCache());
      const step = (n, from, to) =>
        Array.from(model.forward(texts[n].slice(from, to), caches[n], look));
      const all = [step(0, 0, 3), step(1, 0, 1), step(0, 3, 4), step(1, 1, 7)];
      caches[0].length = 2;
      return [...all, step(0, 2, 7)].flat();
    });"""
    fast, slow = run_node(code, path)
    assert_close(torch.tensor(fast), torch.tensor(slow), atol=2e-5, rtol=0)
    assert fast != slow  # else the fast one did not run


@needs_node
def test_a_page_that_forbids_webassembly_still_writes(tmp_path: Path) -> None:
    path = export_web(random_model(small(d_model=48, n_heads=3)), BYTES, tmp_path)
    code = f"""{LINEARS} const vm = require("vm");
    const file = fs.readFileSync(words[0]).toString("utf16le").slice(1);
    return [true, false].map((wasm) => {{
      const page = vm.createContext({{ TextEncoder, TextDecoder }},
        {{ codeGeneration: {{ wasm }} }});
      for (const part of [tinygptWasm, tinygptSimd, TinyGPT, tinygptWeb]) {{
        vm.runInContext(part.source, page);
      }}
      vm.runInContext(file, page);
      const model = vm.runInContext("TinyGPT.buildModel(tinygptModel).model", page);
      const fast = linearsOf(model).filter((linear) =>
        Object.hasOwn(linear, "product"));
      return [fast.length, Array.from(model.nextLogits([3, 262, 17]))];
    }});"""
    (fast, expected), (slow, logits) = run_node(code, path)
    assert (fast, slow) == (13, 0)
    assert_close(torch.tensor(logits), torch.tensor(expected), atol=2e-5, rtol=0)


# --- Numbers and text -------------------------------------------------------------


def test_every_finite_number_has_a_character_of_its_own() -> None:
    numbers = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16)
    halves = numbers.view(torch.float16)
    finite = halves[halves.isfinite()].float()
    text = characters(finite)
    assert len(finite) == len(text) == len(set(text)) == 63_488
    assert not any(0xD800 <= ord(character) <= 0xDFFF for character in text)
    assert characters(torch.tensor([0.0, 1.0, -1.0])) == "\u2000\u5800\u5801"


@needs_node
def test_every_number_arrives(tmp_path: Path) -> None:
    numbers = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16)
    halves = numbers.view(torch.float16)
    finite = halves[halves.isfinite()].float()
    model = random_model(small(vocab_size=1984, d_model=32, n_heads=4))
    with torch.no_grad():
        model.token_embedding.weight.copy_(finite.view(1984, 32))
    path = web.export_web(model, BYTES, tmp_path, "float16")
    code = "return Array.from(read(words[0]).model.tokenEmbedding.weight);"
    assert torch.equal(torch.tensor(run_node(code, path)), finite)


@needs_node
@torch.no_grad()
def test_every_whole_number_arrives_with_its_scale(tmp_path: Path) -> None:
    """All 63,001 pairs, an odd number of weights, rows of zeros, tiny and large."""
    model = random_model(small(vocab_size=601, d_model=210, n_heads=5, n_layers=1))
    each = torch.arange(-125, 126)
    every = torch.cartesian_prod(each, each).flatten()
    table = every.float().div(64)[: 600 * 210].clone()
    scales = torch.logspace(-14, 14, 600, base=2)
    scaled = table.view(600, 210) * scales.unsqueeze(1)
    model.token_embedding.weight[:600] = scaled.clamp(-60_000, 60_000)
    model.token_embedding.weight[600] = 0
    original = model.token_embedding.weight.clone()
    path = export_web(model, BYTES, tmp_path)
    code = "return Array.from(read(words[0]).model.tokenEmbedding.weight);"
    read = torch.tensor(run_node(code, path)).view_as(original)
    assert torch.equal(read, as_written(original))
    assert torch.equal(read, read.half().float())  # the fast products hold it
    # Half a scale's step away at most, and the scale is an eighth too large at most.
    largest = original.abs().amax(dim=1, keepdim=True)
    assert ((read - original).abs() <= largest / 125 * 1.126 / 2 + 2.0**-25).all()
    numbers = torch.cartesian_prod(each, each).int()
    text = web.pairs(numbers)
    assert len(set(text)) == len(text) == 63_001
    assert not any(0xD800 <= ord(character) <= 0xDFFF for character in text)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pocket-gpt2", "pocket-chat", "story", "tiny"])
@torch.no_grad()
def test_eight_bits_cost_less_than_half_a_percent(name: str) -> None:
    llm = tinygpt.load(shipped("tiny/run.json").parent.parent / name)
    text = "stories" if name == "story" else "handbook"
    data = TextData(text, llm.tokenizer, llm.model.config.context_length)
    before = data.evaluate(llm.model, 200).bits_per_byte
    for parameter in llm.model.parameters():
        parameter.copy_(as_written(parameter))
    assert data.evaluate(llm.model, 200).bits_per_byte < 1.005 * before


@pytest.mark.slow
@needs_node
@pytest.mark.parametrize("name", ["handbook-4k", "course-4k"])
def test_texts_of_all_kinds_become_the_same_tokens(name: str, tmp_path: Path) -> None:
    tokenizer = get_tokenizer(name)
    path = export_web(random_model(small(vocab_size=4096)), tokenizer, tmp_path)
    dice = random.Random(5)
    assigned = [chr(c) for c in range(0x11_0000) if unicodedata.category(chr(c)) < "Cn"]
    assigned += [chr(c) for c in range(0xE000) if unicodedata.category(chr(c))[0] > "C"]
    spaces = [c for c in map(chr, range(0x3100)) if c.isspace()]
    texts = [
        "".join(dice.choices(pool, k=40))
        for pool in (assigned, [*spaces, "a", "1", "."], ["'", "s", "d", "l", " ", "T"])
        for _ in range(60)
    ]
    texts += ["", "\ud800", "a\udfff b", "a" * 100_000, "word " * 20_000, "\u202e" * 9]
    texts += ["a" + "ab" * 50 + "b", "\x00" * 999, f"x{END}{END} y"]
    texts += ["order 72747, #72747", "\n 5  06½²٣", "<|user|>1<|end|><|assistant|> 2"]
    code = """const { tokenizer } = read(words[0]);
    return given.map((text) => [false, true].map((special) => {
      const ids = tokenizer.encode(text, special);
      return { ids, text: tokenizer.decode(ids) };
    }));"""
    for text, answers in zip(texts, run_node(code, path, given=texts), strict=True):
        for special, answer in zip((False, True), answers, strict=True):
            ids = tokenizer.encode(text, allow_special=special)
            assert answer["ids"] == ids, text[:80]
            decoded = tokenizer.decode(ids)
            assert answer["text"].encode() == decoded.encode(), text[:80]


@needs_node
def test_a_number_is_split_into_digits_though_an_entry_holds_two(
    tmp_path: Path,
) -> None:
    tokenizer = Tokenizer("digits", RANKS | {b"12": 256}, DIGITS_PATTERN, {END: 257})
    path = export_web(random_model(small()), tokenizer, tmp_path)
    text = "order 1212, #12 ١٢½"
    code = "return read(words[0]).tokenizer.encode(given);"
    assert run_node(code, path, given=text) == tokenizer.encode(text)
    assert 256 not in tokenizer.encode(text)


@needs_node
def test_bytes_that_are_no_text_are_marked_as_in_python(tmp_path: Path) -> None:
    path = export_web(random_model(small()), BYTES, tmp_path)
    dice = random.Random(9)
    pool = [0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x91, 0x8D, 0xED, 0xA0, 0xEF, 0xBB, 0xBF, 65]
    rows = [dice.choices(pool, k=dice.randrange(9)) for _ in range(200)]
    rows += [[0xEF, 0xBB, 0xBF, 65], [0xE2], [256], []]
    code = """const { tokenizer } = read(words[0]);
    return given.map((ids) => tokenizer.decode(ids));"""
    assert run_node(code, path, given=rows) == [BYTES.decode(row) for row in rows]
    beyond = "return read(words[0]).tokenizer.decode([258, 999]);"
    assert run_node(beyond, path) == "\ufffd\ufffd"  # rows that no token has


# --- Generation -------------------------------------------------------------------


@needs_node
def test_the_next_token_is_chosen_as_in_python() -> None:
    logits = [2.0, -1.0, 2.0, 0.5, 3.0, 3.0, -4.0]
    settings = [
        {"temperature": t, "top_k": k, "top_p": p}
        for t in (0.0, 0.7, 1.0, 3.0)
        for k in (None, 1, 3, 99)
        for p in (None, 0.05, 0.6, 0.95, 1.0)
    ]
    code = """const logits = Float32Array.from(given.logits);
    return given.settings.map(({ temperature, top_k: topK, top_p: topP }) =>
      Array.from(TinyGPT.nextTokenProbabilities(logits, { temperature, topK, topP })));
    """
    found = run_node(code, given={"logits": logits, "settings": settings})
    for setting, probabilities in zip(settings, found, strict=True):
        expected = next_token_probabilities(torch.tensor([logits]), **setting)[0]
        assert_close(torch.tensor(probabilities).float(), expected)


@needs_node
def test_chance_is_fair_and_the_same_for_the_same_seed() -> None:
    code = """const shares = Float32Array.from([0.5, 0, 0.3, 0.2]).map(Math.log);
    const draw = (seed) => {
      const random = TinyGPT.seededRandom(seed);
      return Array.from({ length: 4000 },
        () => TinyGPT.sampleNextToken(shares, {}, random));
    };
    const never = TinyGPT.sampleNextToken(shares, {}, () => 1 - 1e-16);
    return { runs: [draw(5), draw(5), draw(6)], never };"""
    result = run_node(code)
    first, again, other = result["runs"]
    assert first == again != other
    assert result["never"] == 3  # rounding cannot lead past the last possible token
    for token, share in enumerate((0.5, 0, 0.3, 0.2)):
        assert abs(first.count(token) / 4000 - share) < 0.03


@needs_node
def test_generation_past_the_context(tmp_path: Path) -> None:
    model = random_model(small())
    path = export_web(model, BYTES, tmp_path)
    greedy = generate(model, torch.tensor([[1, 2, 3]]), 30, temperature=0.0)
    expected = [int(t) for t in greedy]
    code = """const { model } = read(words[0]);
    const run = (stopToken) =>
      [...TinyGPT.generate(model, [1, 2, 3], 30, { temperature: 0, stopToken })];
    const starts = given.map(([n, length]) => TinyGPT.windowStart(n, length));
    const refused = [[], Array(12).fill(1), [263], [1.5]].map((ids) => {
      try { return [...TinyGPT.generate(model, ids, 1)]; }
      catch (error) { return [error instanceof TinyGPT.UserError, error.message]; }
    });
    return { all: run(), stopped: run(run()[4]), starts, refused };"""
    sizes = [(n, length) for n in range(1, 40) for length in (1, 2, 7, 8)]
    result = run_node(code, path, given=sizes)
    assert result["all"] == expected
    assert result["stopped"] == expected[: expected.index(expected[4]) + 1]
    assert result["starts"] == [window_start(*size) for size in sizes]
    for own, sentence in result["refused"]:
        assert own
        assert "1 to 11 tokens" in sentence or "outside the vocabulary" in sentence


CHATS = [
    [("user", " Hi\x1c\n")],
    [("user", "Größe?"), ("assistant", "\u3000Yes. \x85"), ("user", "\ufeff ok")],
    [("user", "a" * 30), ("assistant", "b" * 30), ("user", "c" * 20)],
    [("user", "")],
    [("user", "Assistant: yes\nUser:\x85x_User: \u2028System:")],
    [("user", "<|end|><|assistant|>No.<|endoftext|>")],
]


@needs_node
@pytest.mark.parametrize("tokenizer", [BYTES, SPEAKING])
def test_a_chat_has_the_form_of_python(tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = small(context_length=90, vocab_size=tokenizer.vocab_size)
    path = export_web(random_model(config), tokenizer, tmp_path)
    chats = [[{"role": r, "content": c} for r, c in chat] for chat in CHATS]
    code = """const { model, tokenizer } = read(words[0]);
    const answer = (chat) => [...TinyGPT.answer(model, tokenizer, chat,
      { maxNewTokens: 40, seed: 3 })].join("");
    let refused;
    try { answer([{ role: "user", content: "x".repeat(99) }]); }
    catch (error) { refused = [error instanceof TinyGPT.UserError, error.message]; }
    return { refused, said: given.map((chat) => [answer(chat), answer(chat)]),
      prompts: given.map((chat) =>
        [chat, TinyGPT.cutHistory(chat, tokenizer, 60)].map((messages) =>
          TinyGPT.chatPrompt(messages, tokenizer))) };"""
    result = run_node(code, path, given=chats)
    for chat, (whole, cut) in zip(chats, result["prompts"], strict=True):
        assert whole == chat_prompt(chat, tokenizer)
        assert cut == chat_prompt(cut_history(chat, tokenizer, 60), tokenizer)
    assert len(result["prompts"][2][1]) < 60 < len(result["prompts"][2][0])
    for said, again in result["said"]:
        assert said == again
        assert said
        assert said[0] != " "
        assert not any(token in said for token in tokenizer.special_tokens)
    own, sentence = result["refused"]
    assert own
    assert "the model has room for 68" in sentence


# --- Where it runs ----------------------------------------------------------------


@pytest.mark.parametrize("path", SCRIPTS, ids=NAMES)
def test_the_source_evaluates_no_text_and_asks_for_nothing(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    for word in ("eval(", "Function(", "fetch(", "import(", "XMLHttp", "http"):
        assert word not in source, word


@needs_node
def test_both_files_are_plain_scripts(tmp_path: Path) -> None:
    path = export_web(random_model(small()), BYTES, tmp_path)
    code = """const vm = require("vm");
    const page = vm.createContext({ TextEncoder, TextDecoder });
    vm.runInContext(TinyGPT.source, page);  // what a Worker is made of
    vm.runInContext(tinygptWeb.source, page);
    vm.runInContext(fs.readFileSync(words[0]).toString("utf16le").slice(1), page);
    return vm.runInContext(
      "TinyGPT.buildModel(tinygptModel).tokenizer.encode('hi')", page);"""
    assert run_node(code, path) == [104, 105]


PAGE = """<!doctype html><meta charset="utf-8"><title>A model in the page</title>
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; worker-src blob:;
    script-src file: blob: 'nonce-x' 'wasm-unsafe-eval'">
<script src="tinygpt_wasm.js"></script><script src="tinygpt_simd.js"></script>
<script src="tinygpt.js"></script><script src="tinygpt_web.js"></script>
<script src="model.js"></script>
<script nonce="x">
%s
window.ask = (given) => new Promise((done, failed) => {
  const engine = [tinygptWasm, tinygptSimd, TinyGPT, tinygptWeb];
  const code = [...engine.map(({ source }) => `${source};`), answer,
    `onmessage = ({ data: { file, given } }) =>
      postMessage(answer(TinyGPT, TinyGPT.buildModel(file), given));`];
  const worker = new Worker(URL.createObjectURL(new Blob(code)));
  worker.onmessage = (event) => done(event.data);
  worker.onerror = (event) => failed(new Error(event.message));
  worker.postMessage({ file: tinygptModel, given });
});
</script>"""


def ask_page(
    browser: Any, folder: Path, model: Path, content: str, given: dict[str, Any]
) -> tuple[Any, list[str]]:
    """What a Worker of a page answers, and what the page complains about."""
    for script in (*SCRIPTS, model):
        shutil.copy(script, folder)
    page_path = folder / "page.html"
    page_path.write_text(content % ANSWER, encoding="utf-8")
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(page_path.as_uri())
    answers = page.evaluate("(given) => ask(given)", given)
    page.close()
    return answers, complaints


@pytest.mark.slow
def test_a_worker_of_a_page_from_a_file(
    exported: tuple[GPT, Tokenizer, Path], tmp_path: Path, browser: Any
) -> None:
    model, tokenizer, path = exported
    answers, complaints = ask_page(browser, tmp_path, path, PAGE, job(PROMPTS))
    assert complaints == []
    assert_same_answers(model, tokenizer, PROMPTS, answers)


@torch.no_grad()
def test_a_page_whose_policy_forbids_webassembly(tmp_path: Path, browser: Any) -> None:
    model = random_model(small())
    path = export_web(model, BYTES, tmp_path / "model")
    strict = PAGE.replace(" 'wasm-unsafe-eval'", "")
    (answer,), _ = ask_page(browser, tmp_path, path, strict, job(["abc"]))
    expected = model(torch.tensor([[97, 98, 99]]))[0, -1]
    assert_close(torch.tensor(answer["logits"]), expected, atol=1e-4, rtol=0)


# --- Bad input --------------------------------------------------------------------


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """Turn a change of the file's content into one of its bytes."""

    def changed(file: bytes) -> bytes:
        text = file.decode("utf-16-le").removeprefix(f"\ufeff{web.START}")
        content = json.loads(text.removesuffix(";\n"))
        change(content)
        return f"\ufeff{web.START}{json.dumps(content)};\n".encode("utf-16-le")

    return changed


def put(part: str, **new: Any) -> Callable[[bytes], bytes]:
    return edit(lambda content: content[part].update(new))


def replace_character(at: int, new: str) -> Callable[[bytes], bytes]:
    """Behind the 263 scales of the first matrix stand its pairs."""

    def change(content: dict[str, Any]) -> None:
        weights = content["weights"]
        content["weights"] = weights[:at] + new + weights[at + 1 :]

    return edit(change)


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda file: b"", "no model file"),
    "foreign": (lambda file: b"\x89PNG\r\n\x1a\n" * 99, "no model file"),
    "a picture's odd bytes": (lambda file: file[1:], "no model file"),
    "cut off": (lambda file: file[:-1000], "cut off"),
    "cut in the vocabulary": (lambda file: file[:900], "cut off"),
    "a hole": (lambda file: file[:900] + file[-900:], "damaged"),
    "numbers missing": (
        edit(lambda c: c.update(weights=c["weights"][:-5])),
        "numbers in place of",
    ),
    "another format": (edit(lambda c: c.update(format="onnx")), "no model file"),
    "nothing": (edit(lambda c: c.clear()), "no model file"),
    "no tokenizer": (edit(lambda c: c.update(tokenizer=None)), "missing"),
    "strange tensors": (edit(lambda c: c.update(tensors=[7])), "missing"),
    "no pattern": (put("tokenizer", pattern=None), "missing"),
    "a strange pattern": (put("tokenizer", pattern="(a"), "pattern that is none"),
    "strange tokens": (put("tokenizer", vocabulary=[1]), "missing"),
    "a byte missing": (put("tokenizer", vocabulary=["a"]), "no entry for the byte"),
    "too many tokens": (put("tokenizer", vocabulary=["a"] * 300), "more ids"),
    "a tower": (put("config", n_layers=10**6), "too long for a page"),
    "one block more": (put("config", n_layers=4), "in place of"),
    "no size": (put("config", d_model="many"), "d_model = many"),
    "half a head": (put("config", n_heads=3), "3 heads for 20"),
    "a long context": (put("config", context_length=10**7), "too long for a page"),
    "a new switch": (put("config", positions="alibi"), "positions = alibi"),
    "no number": (
        edit(lambda c: c.update(weights="\ud800" + c["weights"][1:])),
        "is no number",
    ),
    "no pair": (replace_character(300, "\uffff"), "is no number"),
    "a surrogate": (replace_character(300, "\ud900"), "is no number"),
}


@needs_node
def test_a_damaged_file_gets_a_sentence(tmp_path: Path) -> None:
    whole = export_web(random_model(small()), BYTES, tmp_path).read_bytes()
    paths = []
    for name, (damage, _) in DAMAGES.items():
        paths.append(tmp_path / f"{name}.js")
        paths[-1].write_bytes(damage(whole))
    code = """const attempt = (act) => {
      try { act(); return [false, "it was read"]; }
      catch (error) { return [error instanceof TinyGPT.UserError, error.message]; }
    };
    const large = new Uint8Array(TinyGPT.LARGEST + 1);
    return [...words.map((path) => attempt(() => read(path))),
      attempt(() => TinyGPT.readModel(large)),
      attempt(() => TinyGPT.buildModel(undefined))];"""
    found = run_node(code, *paths)
    wanted = [sentence for _, sentence in DAMAGES.values()]
    wanted += ["134 MB, more than", "no model file"]
    names = [*DAMAGES, "over-large", "no script"]
    for name, sentence, (own, said) in zip(names, wanted, found, strict=True):
        assert own, f"{name}: {said}"
        assert sentence in said, name


def refuse(model: GPT, tokenizer: Tokenizer, folder: Path, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        web.export_web(model, tokenizer, folder)


def test_a_model_that_the_page_cannot_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = tmp_path / "new", random_model(small())
    refuse(
        model, replace(BYTES, pattern=r"\S+|\s+"), folder, "splits words as handbook-4k"
    )
    few = random_model(small(vocab_size=200))
    refuse(few, BYTES, folder, "257 ids, the model only 200")
    adapted = random_model(small())
    add_lora(adapted)
    refuse(adapted, BYTES, folder, "adapters")
    for wrong in (7e4, torch.nan):
        broken = random_model(small())
        with torch.no_grad():
            broken.blocks[1].attention.qkv.weight[3, 4] = wrong
        refuse(broken, BYTES, folder, "does not fit into float16")
    monkeypatch.setattr(web, "LARGEST", web.VOCABULARY + 2 * model.n_parameters() - 1)
    refuse(model, BYTES, folder, "choose a smaller one")
    assert not folder.exists()


def test_the_old_file_stays_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(small())
    path = web.export_web(model, BYTES, tmp_path)
    before = path.read_bytes()

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    with torch.no_grad():
        model.norm.weight += 1
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        refuse(model, BYTES, tmp_path, "make room")
    assert path.read_bytes() == before
    assert web.export_web(model, BYTES, tmp_path).read_bytes() != before
    (tmp_path / "file").write_text("x", encoding="utf-8")
    refuse(model, BYTES, tmp_path / "file", "choose another folder")
