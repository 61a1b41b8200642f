"""What the page trains with, against Python: gradients, losses, vocabulary, files.

The JavaScript runs in Node, once in plain loops and once in WebAssembly; all of it is
skipped with a message where Node is missing.
"""

import json
import random
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import load_tool
from torch import Tensor, nn
from torch.testing import assert_close

import tinygpt
from tinygpt.config import GPTConfig, TrainConfig
from tinygpt.files import shipped
from tinygpt.finetuning.run import load_model
from tinygpt.formats import web
from tinygpt.model.gpt import GPT
from tinygpt.presets import PRESETS
from tinygpt.text.bpe import END_OF_TEXT
from tinygpt.text.bpe_training import auto_vocab_size, learn_vocabulary
from tinygpt.text.dataset import whole_split
from tinygpt.text.documents import SEPARATOR, encode_documents, split_documents
from tinygpt.training.evaluation import Evaluation, baselines, evaluate
from tinygpt.training.loss import NextTokenLoss
from tinygpt.training.plan import plan
from tinygpt.training.schedule import lr_factor, position
from tinygpt.training.trainer import Trainer

STATIC = Path(__file__).resolve().parents[2] / "book" / "_static"
FILES = [
    "tinygpt_wasm.js", "tinygpt.js", "tinygpt_look.js", "tinygpt_backward.js",
    "tinygpt_train_simd.js", "tinygpt_train.js", "tinygpt_web.js", "tinygpt_files.js",
]  # fmt: skip
NODE = shutil.which("node")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        NODE is None, reason="no Node here: apt-get install nodejs runs these tests"
    ),
]
both = pytest.mark.parametrize("simd", [False, True], ids=["plain", "simd"])


def run_node(
    code: str, *words: str | Path, given: Any = None, scripts: Path = STATIC
) -> Any:
    """What `code` returns, through JSON; it sees `T`, `TinyGPT`, `words`, `given`."""
    assert NODE is not None
    frame = (
        "const fs = require('fs'), [, folder, ...words] = process.argv;"
        f"for (const file of {json.dumps(FILES)}) require(folder + '/' + file);"
        "const { TinyGPT, TinyGPTTrain: T, tinygptTrainSimd } = globalThis;"
        "const given = JSON.parse(fs.readFileSync(0, 'utf8'));"
        "const sentence = (act) => { try { act(); return 'no error'; } catch (error) {"
        "  if (!(error instanceof TinyGPT.UserError)) throw error;"
        "  return error.message; } };"
        f"process.stdout.write(JSON.stringify((() => {{ {code} }})()));"
    )
    done = subprocess.run(
        [NODE, "-e", frame, str(scripts), *map(str, words)],
        input=json.dumps(given).encode("ascii"),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout)


# --- Every layer's way back, by finite differences ----------------------------------

DIFFERENCES = """
const random = TinyGPT.seededRandom(3), L = T.layers;
const draw = (n) => Float64Array.from({ length: n }, () => 2 * random() - 1);
const zeros = (n) => new Float64Array(n);
const B = 2, S = 5, C = 6, H = 3, D = C / H, N = B * S, V = 7, O = 4;
const within = { step: 3 * C, width: 2 * C };
const shape = { T: S, C, H };
const ids = Int32Array.from({ length: N }, (_, i) => (3 * i) % V);
const targets = ids.map((id, i) => (i === 4 ? -1 : (id + 2) % V));
const angles = draw(S * D / 2).map((x) => 3 * x);
const [cos, sin] = [angles.map(Math.cos), angles.map(Math.sin)];
// Each: what goes in; what comes out of it; the gradients, given those of the latter.
const cases = {
  embed: [{ table: V * C },
    ({ table }) => { const x = zeros(N * C); L.embed(ids, table, x, C); return x; },
    (_, dy) => { const table = zeros(V * C); L.embedBackward(ids, dy, table, C);
      return { table }; }],
  addPositions: [{ x: N * C, table: S * C },
    ({ x, table }) => { const y = x.slice(); L.addPositions(y, table, S, C);
      return y; },
    (_, dy) => { const table = zeros(S * C); L.addPositionsBackward(dy, table, S, C);
      return { x: dy, table }; }],
  layerNorm: [{ x: N * C, weight: C, bias: C },
    ({ x, weight, bias }) => { const y = zeros(N * C);
      L.layerNorm(x, weight, bias, y, zeros(2 * N), C); return y; },
    ({ x, weight, bias }, dy) => {
      const d = { x: zeros(N * C), weight: zeros(C), bias: zeros(C) };
      const stats = zeros(2 * N);
      L.layerNorm(x, weight, bias, zeros(N * C), stats, C);
      L.layerNormBackward(dy, x, weight, stats, d.x, d.weight, d.bias, C); return d; }],
  rmsNorm: [{ x: N * C },
    ({ x }) => { const y = zeros(N * C); L.rmsNorm(x, y, zeros(N), C); return y; },
    ({ x }, dy) => { const y = zeros(N * C), stats = zeros(N), dx = dy.slice();
      L.rmsNorm(x, y, stats, C); L.rmsNormBackward(dy, y, stats, dx, C);
      return { x: dx }; }],
  "rmsNorm of heads": [{ x: 3 * N * C },
    ({ x }) => { const y = x.slice(); L.rmsNorm(y, y, zeros(2 * N * H), D, within);
      return y; },
    ({ x }, dy) => { const y = x.slice(), stats = zeros(2 * N * H), dx = dy.slice();
      L.rmsNorm(y, y, stats, D, within);
      L.rmsNormBackward(dx, y, stats, dx, D, within); return { x: dx }; }],
  rotate: [{ x: 3 * N * C },
    ({ x }) => { const y = x.slice(); L.rotate(y, cos, sin, S, D, within); return y; },
    (_, dy) => { const x = dy.slice();
      L.rotate(x, cos, sin, S, D, { ...within, sign: -1 }); return { x }; }],
  ...Object.fromEntries(["gelu", "relu", "relu2"].map((kind) => [kind, [{ x: N * C },
    ({ x }) => { const y = zeros(N * C); L.activate(kind, x, y); return y; },
    ({ x }, dy) => { const dx = dy.slice(); L.activateBackward(kind, dx, x, dx);
      return { x: dx }; }]])),
  linear: [{ x: N * C, weight: O * C, bias: O },
    ({ x, weight, bias }) => { const y = zeros(N * O);
      L.linear(x, weight, bias, y, C, O); return y; },
    ({ x, weight }, dy) => {
      const d = { x: zeros(N * C), weight: zeros(O * C), bias: zeros(O) };
      L.linearBackward(dy, x, weight, d.x, d.weight, d.bias, C, O); return d; }],
  ...Object.fromEntries([true, false].map((isCausal) => [`attention ${isCausal}`, [
    { qkv: 3 * N * C },
    ({ qkv }) => { const y = zeros(N * C);
      L.attention(qkv, y, zeros(B * H * S * S), { ...shape, isCausal }); return y; },
    ({ qkv }, dy) => { const shares = zeros(B * H * S * S), d = zeros(3 * N * C);
      L.attention(qkv, zeros(N * C), shares, { ...shape, isCausal });
      L.attentionBackward(dy, qkv, shares, d, zeros(S * S), shape);
      return { qkv: d }; }]])),
  ...Object.fromEntries([0, 1.5].map((cap) => [`crossEntropy ${cap}`, [
    { logits: N * V },
    ({ logits }) => { const losses = zeros(N);
      L.crossEntropy(logits.slice(), targets, losses, V, 1, cap);
      return Float64Array.of(losses.reduce((a, b) => a + b)); },
    ({ logits }, [dy]) => { const d = logits.slice();
      L.crossEntropy(d, targets, zeros(N), V, dy, cap); return { logits: d }; }]])),
};
const worst = {};
for (const [name, [sizes, forward, backward]] of Object.entries(cases)) {
  const inputs = Object.fromEntries(
    Object.entries(sizes).map(([k, n]) => [k, draw(n)]));
  const dy = draw(forward(inputs).length), found = backward(inputs, dy), h = 1e-5;
  const along = () => forward(inputs).reduce((sum, y, i) => sum + y * dy[i], 0);
  worst[name] = 0;
  for (const [k, table] of Object.entries(inputs)) {
    for (let i = 0; i < table.length; i++) {
      const was = table[i];
      table[i] = was + h;
      const above = along();
      table[i] = was - h;
      const slope = (above - along()) / (2 * h);
      table[i] = was;
      worst[name] = Math.max(worst[name], Math.abs(slope - found[k][i]));
    }
  }
}
return worst;
"""


def test_every_backward_function_is_the_slope_of_its_layer() -> None:
    worst = run_node(DIFFERENCES)
    assert len(worst) == 14
    assert max(worst.values()) < 1e-7, worst


TWINS = """
const random = TinyGPT.seededRandom(3);
const fast = tinygptTrainSimd.kernels(2 ** 23, T.layers, T.compose);
const worst = {};
/** Both twins on the same tables: the largest difference, by the size of the result. */
function compare(name, sizes, act, scale = 2) {
  const slow = sizes.map((n) => Float32Array.from({ length: n },
    () => scale * (2 * random() - 1)));
  const quick = slow.map((table) => { const own = fast.allocate(table.length);
    own.set(table); return own; });
  const results = [[T.layers, slow], [fast.layers, quick]].map(([layers, tables]) =>
    act(layers, tables));
  const tables = [...slow, Float64Array.of(results[0] ?? 0)];
  const others = [...quick, Float64Array.of(results[1] ?? 0)];
  for (let n = 0; n < tables.length; n++) {
    const most = tables[n].reduce((a, b) => Math.max(a, Math.abs(b)), 1e-6);
    tables[n].forEach((value, i) => {
      const off = Math.abs(value - others[n][i]) / most;
      worst[name] = Math.max(worst[name] ?? 0, Number.isNaN(off) ? Infinity : off);
    });
  }
}
const sides = [[1, 1, 1], [4, 8, 4], [5, 7, 3], [13, 17, 9], [130, 530, 270],
  [9, 8, 600]];
for (const [M, N, K] of sides) {
  for (const a of [[K, 1], [1, M]]) {
    for (const b of [[N, 1], [1, K]]) {
      compare("product", [M * K, K * N, M * N], (L, [x, y, z]) =>
        L.product(M, N, K, x, ...a, y, ...b, z, N));
    }
  }
}
for (const n of [1, 4, 7, 400, 1023]) {
  compare("blend", [n, n], (L, [a, b]) => L.blend(a, b, 0.3, -1.7));
  compare("dot", [n, n], (L, [a, b]) => L.dot(a, b));
  for (const kind of ["gelu", "relu", "relu2"]) {
    compare(kind, [n, n], (L, [x, y]) => L.activate(kind, x, y), 8);
    compare(`${kind} back`, [n, n], (L, [dy, x]) =>
      L.activateBackward(kind, dy, x, dy), 6);
  }
  compare("adamw", [n, n, n, n], (L, [w, g, m, v]) => { v.forEach((x, i) => {
    v[i] = Math.abs(x); });
    L.adamw(w, g, m, v, { lr: 0.1, decay: 0.2, beta1: 0.8, beta2: 0.9, t: 3 }); });
}
for (const side of [8, 11, 12, 64]) {
  for (const isCausal of [true, false]) {
    compare("softmaxRows", [side * side], (L, [p]) =>
      L.softmaxRows(p, side, 0.4, isCausal), 20);
  }
  compare("softmaxRows back", [side * side, side * side], (L, [d, p]) =>
    L.softmaxRowsBackward(d, p, side, 0.4));
}
for (const V of [37, 40, 512]) {
  for (const cap of [0, 15]) {
    const targets = Int32Array.of(0, V - 1, -1, 5);
    compare("crossEntropy", [4 * V, 4], (L, [logits, losses]) =>
      L.crossEntropy(logits, targets, losses, V, 0.25, cap), 30);
  }
}
for (const [R, S] of [[12, 40], [40, 12], [24, 24]]) {
  const room = R * S + 2 * Math.min(R, S) ** 2;
  compare("orthogonalize", [R * S, room], (L, [x, spare]) => {
    L.orthogonalize(x, R, S, spare, 5);
    spare.fill(0); });
}
return worst;
"""


def test_webassembly_gives_what_the_plain_loops_give() -> None:
    worst = run_node(TWINS)
    assert len(worst) == 14
    assert max(worst.values()) < 2e-5, worst


# --- A whole model's gradients and first losses -------------------------------------

SIZES: dict[str, Any] = {"vocab_size": 37, "context_length": 11, "d_model": 24}
SIZES |= {"n_heads": 3, "n_layers": 2}
TINY, STORY = PRESETS["tiny"], PRESETS["story"]
SHAPES = {
    "story": replace(STORY.model, **SIZES),
    "tiny": replace(TINY.model, **SIZES | {"vocab_size": 40, "context_length": 12}),
    "mixed": replace(STORY.model, **SIZES, activation="relu", bias=False, d_ff=41),
    "capped": replace(STORY.model, **SIZES, logit_softcap=2.0, embedding_norm=True),
    "untied": replace(TINY.model, **SIZES, qkv_bias=True, bias=True, norm="layernorm"),
}
B, STEPS = 3, 20
BREAKS: dict[str, dict[str, Any]] = {
    "intact": {},
    "rate": {"rate": 30},
    "mask": {"noMask": True},
    "positions": {"noPositions": True},
    "shift": {"unshifted": True},
}


@torch.no_grad()
def random_model(config: GPTConfig, std: float = 0.2) -> GPT:
    torch.manual_seed(5)
    model = GPT(config)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * std)
    return model


def numbers(model: nn.Module) -> dict[str, list[float]]:
    return {name: p.flatten().tolist() for name, p in model.named_parameters()}


def draw_batches(config: GPTConfig, n: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    shape = (n, B, config.context_length + 1)
    ids = torch.randint(config.vocab_size, shape, generator=generator)
    return [(i[:, :-1].contiguous(), i[:, 1:].contiguous()) for i in ids]


def break_model(model: GPT, broken: dict[str, Any]) -> None:
    if broken.get("noPositions"):
        model.positions, model.rotary = None, None


class SeesAll(nn.Module):
    """A loss without the causal mask."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.loss = NextTokenLoss(model)

    def forward(self, ids: Tensor, targets: Tensor, **given: Any) -> Tensor:
        mask = torch.ones(ids.size(1), ids.size(1), dtype=torch.bool)
        loss: Tensor = self.loss(ids, targets, mask=mask, **given)
        return loss


GRADIENTS = """
const { config, weights, ids, targets, B, broken, simd } = given;
const kernels = simd && tinygptTrainSimd.kernels(2 ** 24, T.layers, T.compose);
const { allocate, layers } = kernels || { allocate: (n) => new Float32Array(n),
  layers: T.layers };
const network = new T.Network(config, B, allocate, layers, broken);
network.prepare();
for (const w of network.weights.values()) w.weight.set(weights[w.name]);
const N = ids.length;
const loss = network.forward(ids, Int32Array.from(targets), 1 / N) / N;
network.backward(ids);
const all = [...network.weights.values()];
return { loss, gradients: Object.fromEntries(all.map((w) =>
  [w.name, Array.from(w.gradient)])) };
"""


@both
@pytest.mark.parametrize("kind", SHAPES)
def test_gradients_are_those_of_autograd(kind: str, simd: bool) -> None:
    config = SHAPES[kind]
    model, [(ids, targets)] = random_model(config), draw_batches(config, 1)
    weights = numbers(model)
    for name in ["intact", "mask", "positions"]:
        broken = BREAKS[name]
        model = random_model(config)
        break_model(model, broken)
        loss = (SeesAll if broken.get("noMask") else NextTokenLoss)(model)(ids, targets)
        loss.backward()
        found = run_node(
            GRADIENTS,
            given={
                "config": asdict(config),
                "weights": weights,
                "ids": ids.flatten().tolist(),
                "targets": targets.flatten().tolist(),
                "B": B,
                "broken": broken,
                "simd": simd,
            },
        )
        assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
        for part, parameter in model.named_parameters():
            ours = torch.tensor(found["gradients"][part]).view_as(parameter)
            theirs = parameter.grad
            assert theirs is not None
            largest = theirs.abs().max()
            assert largest > 0, part
            assert (ours - theirs).abs().max() <= 1e-4 * largest, (name, part)


LOSSES = """
return given.runs.map(({ model, train, breakIt }) => {
  const tokens = Int32Array.from({ length: 300 }, (_, i) => (i * i) % 37);
  const tokenizer = { bytes: [...tokens].map(() => "a"), specialTokens: new Map() };
  const data = { train: tokens, val: tokens, tokenizer };
  const batches = { at: (step) => {
    const [ids, targets] = given.batches[step].map((rows) =>
      Int32Array.from(rows.flat()));
    return { ids, targets };
  } };
  const trainer = new T.Trainer(data, { model, train }, { breakIt, simd: given.simd,
    batches });
  for (const w of trainer.weights) w.weight.set(given.weights[w.name]);
  const losses = [];
  while (!trainer.isOver) losses.push(trainer.step().loss);
  const average = trainer.weights.map((w) => [w.name, Array.from(trainer.trained(w))]);
  return { losses, weights: Object.fromEntries(average) };
});
"""


def losses_of(
    config: GPTConfig,
    weights: dict[str, list[float]],
    train: TrainConfig,
    batches: list[tuple[Tensor, Tensor]],
    broken: dict[str, Any],
) -> tuple[list[float], GPT]:
    """The package's own trainer: the loss of every step, and the model afterwards."""
    model = GPT(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.tensor(weights[name]).view_as(parameter))
    break_model(model, broken)

    class Fixed:
        def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Any, ...]:
            ids, targets = batches[min(step, len(batches) - 1)]
            return ids, ids if broken.get("unshifted") else targets

    rate = broken.get("rate", 1)
    rates = {
        name: rate * getattr(train, name)
        for name in ("lr", "muon_lr", "embedding_lr", "head_lr")
        if getattr(train, name)
    }
    train = replace(train, eval_interval=1, device="cpu", dtype="float32", **rates)
    trainer = Trainer(
        model,
        Fixed(),
        lambda loss, whole: Evaluation(1.0, 1, 1.0, 1),
        train,
        loss=SeesAll if broken.get("noMask") else NextTokenLoss,
    )
    return [report.training_loss for report in trainer.run()][1:], model


@both
@pytest.mark.parametrize("name", ["tiny", "story", "adamw"])
def test_the_first_losses_are_those_of_pytorch(name: str, simd: bool) -> None:
    preset = STORY if name == "adamw" else PRESETS[name]
    config = SHAPES["story" if name == "adamw" else name]
    train = replace(preset.train, steps=STEPS, warmup_steps=3)
    if name == "adamw":
        train = replace(train, optimizer="adamw", grad_clip=0.5, schedule="cosine")
    torch.manual_seed(1)
    weights, batches = numbers(GPT(config)), draw_batches(config, STEPS)
    keys = set(asdict(train)) & set(
        run_node("return Object.keys(T.RECIPES.tiny.train)")
    )
    settings = {key: asdict(train)[key] for key in sorted(keys)} | {"batch_size": B}
    given = {
        "runs": [
            {"model": asdict(config), "train": settings, "breakIt": b}
            for b in BREAKS.values()
        ],
        "batches": [[ids.tolist(), targets.tolist()] for ids, targets in batches],
        "weights": weights,
        "simd": simd,
    }
    for broken, ours in zip(
        BREAKS.values(), run_node(LOSSES, given=given), strict=True
    ):
        losses, model = losses_of(config, weights, train, batches, broken)
        assert len(losses) == STEPS
        assert_close(
            torch.tensor(ours["losses"]), torch.tensor(losses), rtol=1e-3, atol=0
        )
        if broken:
            continue
        for part, parameter in model.named_parameters():  # the average, if there is one
            found = torch.tensor(ours["weights"][part]).view_as(parameter)
            assert_close(found, parameter.detach(), rtol=1e-3, atol=1e-4)


# --- Settings, schedule, plan -------------------------------------------------------


def test_the_recipes_are_the_presets() -> None:
    recipes = run_node("return T.RECIPES")
    for name, recipe in recipes.items():
        preset = PRESETS[name]
        assert recipe["model"] == asdict(preset.model)
        wanted = asdict(preset.train)
        assert recipe["train"] == {key: wanted[key] for key in recipe["train"]}


def test_the_schedule_is_ours() -> None:
    configs = [
        TrainConfig(steps=40, warmup_steps=7, schedule=schedule, decay_fraction=part)
        for schedule in ("constant", "cosine", "linear")
        for part in (1.0, 0.3)
    ] + [TrainConfig(steps=50, minutes=0.5, final_lr_fraction=0.2)]
    code = """return given.map((c) => Array.from({ length: 60 }, (_, i) =>
      T.lrFactor(T.position(i, 0.7 * i, c), c)));"""
    found = run_node(code, given=[asdict(c) for c in configs])
    for config, factors in zip(configs, found, strict=True):
        ours = [lr_factor(position(i, 0.7 * i, config), config) for i in range(60)]
        assert factors == pytest.approx(ours, abs=1e-12)


def test_the_plan_is_that_of_the_command_line() -> None:
    draws = random.Random(4)
    asked = [
        {
            "tokens": int(10 ** draws.uniform(3.5, 6.3)),
            "vocabSize": draws.choice([512, 1024, 2048, 4096]),
            "minutes": draws.choice([0.1, 0.5, 1.0, 2.0, 5.0, 10.0]),
            "speed": 10 ** draws.uniform(8, 11.5),
            "recipe": draws.choice(["tiny", "story"]),
            "sizes": draws.choice([{}, {"n_layers": 2}, {"d_model": 96, "n_heads": 3}]),
        }
        for _ in range(200)
    ]
    code = """return given.map(({ recipe, ...asked }) =>
      T.planFor({ ...asked, ...T.RECIPES[recipe] }));"""
    kinds = set()
    for one, found in zip(asked, run_node(code, given=asked), strict=True):
        preset = PRESETS[one["recipe"]]
        if found["train"]["steps"] < preset.train.warmup_steps:
            continue  # which Python refuses
        ours = plan(
            one["tokens"],
            one["vocabSize"],
            one["minutes"],
            one["speed"],
            replace(preset.model, **one["sizes"]),
            preset.train,
            list(one["sizes"]),
        )
        assert found["model"] == asdict(ours.model)
        wanted = asdict(ours.train)
        assert found["train"] == pytest.approx({k: wanted[k] for k in found["train"]})
        assert found["epochs"] == pytest.approx(ours.epochs)
        assert found["used"] == pytest.approx(ours.used)
        kinds.add((ours.model.d_model, ours.train.minutes is None))
    assert len(kinds) > 6


# --- Texts --------------------------------------------------------------------------

TEXTS = [
    "hi hi hi", "", "a", "aaaaaaaaaaaaaaaa", "ab" * 40, "   \n\n\t  x  \r\n y\u3000z",
    "It's 42 o'clock, I'll say; they've 1,234.50!" * 3, "naïve café Größe Straße " * 4,
    "Привет, мир! Привет, мама! " * 5, "日本語の文字と日本語の言葉。" * 4,
    "שלום עולם שלום " * 4,
    "مرحبا بالعالم مرحبا " * 4, "नमस्ते दुनिया नमस्ते " * 4, "สวัสดีชาวโลก สวัสดี " * 3,
    "👩‍👩‍👧 emoji 👍🏽 emoji 👍🏽👍🏽 " * 4,
    "e\u0301e\u0301 \u200d\u202ertl é é " * 5, "ǆ½²३ " * 6,
    "\x00\x1f\x7f\u0085\u2028 control\u0085 " * 4,
    "<|endoftext|> is text <|endoftext|>" * 3,
    "def f(x):\n    return x  # x\n\n\ndef g(y):\n    return y\n" * 3,
]  # fmt: skip


def test_the_page_learns_the_same_vocabulary() -> None:
    assert len(TEXTS) == len(set(TEXTS)) == 20
    story = shipped("stories.txt").read_text(encoding="utf-8")[:60_000]
    groups = [[text] for text in TEXTS] + [TEXTS, [story[:30_000], story[30_000:]]]
    code = """return given.map((documents) => {
      const tokenizer = T.learnVocabulary(documents);
      const { bytes, vocabSize, endOfText } = tokenizer;
      return { bytes, vocabSize, endOfText, size: documents.join("").length,
        ids: documents.map((text) => tokenizer.encode(text)) };
    });"""
    merges = 0
    for documents, found in zip(groups, run_node(code, given=groups), strict=True):
        ours = learn_vocabulary(documents)
        tokens = [ours.token_bytes(i).decode("latin-1") for i in range(ours.vocab_size)]
        assert found["bytes"] == tokens
        assert (found["vocabSize"], found["endOfText"]) == (
            len(tokens),
            len(tokens) - 1,
        )
        assert found["ids"] == [ours.encode(document) for document in documents]
        merges += len(tokens) - 257
    assert merges > 500


def test_documents_are_split_as_in_python() -> None:
    end = f"{END_OF_TEXT}\n"
    texts = [
        end.join(f"story {i} " + "é👍x" * (i % 7) + "\n" for i in range(50)),
        "one text only, " * 99,
        end.join(["short", "👍 long " * 300, "short again", "  \x1f\n", "last"]),
        f"a\n{END_OF_TEXT} \t\r\nb {END_OF_TEXT}\nc\n{END_OF_TEXT}",
    ]
    found = run_node(
        "return given.map((t) => T.splitDocuments(T.documentsOf(t)))", given=texts
    )
    for text, ours in zip(texts, found, strict=True):
        documents = [d for d in SEPARATOR.split(text) if d.strip()]
        assert ours == list(split_documents(documents))


def test_the_page_prepares_a_text_as_the_command_line_does() -> None:
    story = shipped("stories.txt").read_text(encoding="utf-8")[:200_000]
    code = """const { tokenizer, train, val, bigram } = T.prepare(T.readText(given));
      const { vocabSize } = tokenizer;
      return { vocabSize, train: [...train], val: [...val], bigram };"""
    found = run_node(code, given=story)
    train, val = split_documents([d for d in SEPARATOR.split(story) if d.strip()])
    tokenizer = learn_vocabulary(train)
    assert found["vocabSize"] == auto_vocab_size(sum(len(d.encode()) for d in train))
    ids = [torch.tensor(encode_documents(part, tokenizer)) for part in (train, val)]
    assert [found["train"], found["val"]] == [part.tolist() for part in ids]
    wanted = baselines(*ids, tokenizer.vocab_size, tokenizer.decode_bytes)["bigram"]
    assert found["bigram"] == pytest.approx(wanted, rel=1e-9)


def test_a_sample_begins_where_something_begins() -> None:
    code = """const { tokenizer } = T.prepare(given.pop());
      return given.map(([text, isCut]) => {
        const val = Int32Array.from(tokenizer.encode(text, true));
        return [16, 24].map((most) => T.opening({ val, tokenizer, isCut }, most));
      }).concat(T.opening(T.prepare("No end, " + "a long one ".repeat(3000))));
    """
    story = shipped("stories.txt").read_text(encoding="utf-8")[:60_000]
    texts = [
        ("Once upon a time, long ago.", False),
        ("pon a time. Then he ran home.", True),
        ('pon a time\n\n"No!" he said.', True),
        ("pon a time without an end", True),
        ("pon", True),
        ("Once.<|endoftext|>Twice", False),
        ("\n\n", False),
    ]
    *found, cut = run_node(code, given=[*texts, story])
    assert [first for first, _ in found] == [
        "Once upon", "Then he", '"No!" he', "a time", "pon", "Once.", "\n",
    ]  # fmt: skip
    assert [more for _, more in found[:3]] == [
        "Once upon a time, long ago.", "Then he ran home.", '"No!" he said.',
    ]  # fmt: skip
    assert cut.split(" ")[0] in {"a", "long", "one"}


def test_a_bad_text_gets_a_sentence() -> None:
    code = """
    const bytes = (n, byte) => new Uint8Array(n).fill(byte);
    const texts = ["", "a", " ".repeat(30000), "a".repeat(30000), bytes(30000, 255),
      bytes(30000, 0), bytes(0, 0), bytes(6e6, 65), bytes(30000, 65).buffer];
    return texts.map((text) => sentence(() => T.prepare(T.readText(text))));
    """
    found = run_node(code)
    words = [
        "The text is empty", "has 1 byte,", "only white space", "too short",
        "not UTF-8", "zero byte", "The text is empty", "5 MB at most", "too short",
    ]  # fmt: skip
    for message, part in zip(found, words, strict=True):
        assert part in message and message.endswith("."), message


def test_a_large_text_is_learned_from() -> None:
    code = """
    const words = given.split(" "), random = TinyGPT.seededRandom(1);
    const one = () => words[Math.floor(random() * words.length)];
    const text = Array.from({ length: 700000 }, one).join(" ").slice(0, 4900000);
    const data = T.prepare(T.readText(text), { vocabSize: 600 });
    return [text.length, data.train.length, data.val.length, data.tokenizer.vocabSize];
    """
    story = shipped("stories.txt").read_text(encoding="utf-8")[:50_000]
    characters, train, val, size = run_node(code, given=story)
    assert characters > 3_000_000 and size == 600
    assert 0.88 < train / (train + val) < 0.92


# --- A run in the page, and its files -----------------------------------------------

RUN = """
const text = T.readText(fs.readFileSync(words[0]).subarray(0, 30000));
const data = T.prepare(text, { vocabSize: 300 });
const sizes = { d_model: 16, n_heads: 2, n_layers: 2, context_length: 16 };
const made = given.map((recipe) => {
  const plan = T.plan(data, { speed: 1e9, minutes: 1, recipe, sizes, steps: 24 });
  plan.train.batch_size = 16;
  return [recipe, plan];
});
"""

LEARN = """
return made.map(([recipe, plan]) => {
  const trainer = T.createTrainer(data, plan, { simd: words[2] === "simd" });
  const before = trainer.evaluate({ windows: "all" });
  const reports = [];
  while (!trainer.isOver) reports.push(trainer.step());
  const after = trainer.evaluate({ windows: "all" });
  const model = trainer.model({ best: true });
  const folder = `${words[1]}/${recipe}`;
  fs.mkdirSync(folder);
  const files = T.exportRun(model, data.tokenizer, { train: plan.train });
  for (const [name, bytes] of Object.entries(files)) {
    fs.writeFileSync(`${folder}/${name}`, bytes);
  }
  fs.writeFileSync(`${folder}/model.js`, T.exportModelJs(model, data.tokenizer));
  fs.writeFileSync(`${folder}/all.zip`, T.zip(files));
  const back = T.importRun(Object.fromEntries(Object.keys(files).map((name) =>
    [name, new Uint8Array(fs.readFileSync(`${folder}/${name}`))])));
  const web = TinyGPT.readModel(fs.readFileSync(`${folder}/model.js`));
  const small = T.fromSnapshot(trainer.snapshot());
  const ids = data.tokenizer.encode("Once a wise owl sat on").slice(0, 16);
  const [sample, again] = [0, 1].map(() => trainer.sample({ n: 20 }));
  const look = trainer.attention({ prompt: "Once a wise owl" });
  return {
    before, after, reports, ids, sample, again, isFast: trainer.isFast,
    look: { n: look.tokens.length, weights: [...look.weights] },
    logits: [...model.forward(ids)], imported: [...back.model.forward(ids)],
    web: [...web.model.forward(ids)], small: [...small.forward(ids)],
  };
});
"""


@both
def test_a_model_trained_in_the_page_is_the_same_in_python(
    tmp_path: Path, simd: bool
) -> None:
    source, word = shipped("stories.txt"), "simd" if simd else "plain"
    found = run_node(RUN + LEARN, source, tmp_path, word, given=["tiny", "story"])
    for name, run in zip(["tiny", "story"], found, strict=True):
        assert run["isFast"] == simd
        assert run["after"]["bitsPerByte"] < run["before"]["bitsPerByte"] - 0.3
        assert [r["step"] for r in run["reports"]] == list(range(1, 25))
        assert run["sample"] == run["again"] and len(run["sample"]["ids"]) <= 20
        rows = torch.tensor(run["look"]["weights"]).view(2, 2, *[run["look"]["n"]] * 2)
        assert_close(rows.sum(-1), torch.ones(rows.shape[:-1]))
        assert rows.triu(1).abs().max() == 0
        llm = tinygpt.load(tmp_path / name)
        logits = llm.model(torch.tensor([run["ids"]])).flatten().detach()
        assert_close(torch.tensor(run["logits"]), logits, atol=1e-4, rtol=0)
        assert llm.tokenizer.encode("Once a wise owl sat on")[:16] == run["ids"]
        assert run["imported"] == run["logits"]
        assert_close(torch.tensor(run["web"]), logits, atol=2e-2, rtol=0)
        assert_close(torch.tensor(run["small"]), logits, atol=0.2, rtol=0)
        unpacked = tmp_path / f"{name} unpacked"
        shutil.unpack_archive(tmp_path / name / "all.zip", unpacked)
        for file in unpacked.iterdir():
            assert file.read_bytes() == (tmp_path / name / file.name).read_bytes()
        ours = web.script(llm.model, llm.tokenizer, "float16").decode("utf-16")
        theirs = (tmp_path / name / "model.js").read_text(encoding="utf-16")
        start = len(web.START)
        assert json.loads(theirs[start:-2]) == json.loads(ours[start:-2])


@both
def test_evaluation_is_that_of_python(tmp_path: Path, simd: bool) -> None:
    code = """
    const trainer = T.createTrainer(data, made[0][1], { simd: words[2] === "simd" });
    for (let i = 0; i < 5; i++) trainer.step();
    const all = trainer.evaluate({ windows: "all" }), model = trainer.model();
    const files = T.exportRun(model, data.tokenizer);
    for (const [name, bytes] of Object.entries(files)) {
      fs.writeFileSync(`${words[1]}/${name}`, bytes);
    }
    return { all, val: [...data.val], some: trainer.evaluate({ windows: 7 }).tokens };
    """
    word = "simd" if simd else "plain"
    found = run_node(RUN + code, shipped("stories.txt"), tmp_path, word, given=["tiny"])
    llm = tinygpt.load(tmp_path)
    val = torch.tensor(found["val"])
    batches = whole_split(val, 16, 16)
    ours = evaluate(llm.model, batches, llm.tokenizer.byte_lengths)
    assert found["all"]["loss"] == pytest.approx(ours.nats_per_token, rel=1e-5)
    assert found["all"]["bitsPerByte"] == pytest.approx(ours.bits_per_byte, rel=1e-5)
    assert found["all"]["tokens"] == ours.tokens == len(val) - 1
    assert found["some"] == 7 * 16


@both
def test_a_run_goes_on_where_it_was_left(simd: bool) -> None:
    code = """
    const options = { simd: words[1] === "simd" };
    const [, plan] = made[0];
    const trainer = T.createTrainer(data, plan, options);
    for (let i = 0; i < 7; i++) trainer.step();
    trainer.evaluate();
    const again = T.resume(structuredClone(trainer.state()), options);
    const go = (t) => Array.from({ length: 9 }, () => t.step().loss);
    return [go(trainer), go(again), trainer.evaluate(), again.evaluate(),
      sentence(() => T.resume({ format: "x" }))];
    """
    word = "simd" if simd else "plain"
    found = run_node(RUN + code, shipped("stories.txt"), word, given=["story"])
    assert found[0] == found[1] and found[2] == found[3]
    assert found[4].startswith("What was kept is no run")


def test_the_page_imports_what_python_trained(tmp_path: Path) -> None:
    folder = shipped("tiny/run.json").parent
    model, tokenizer = load_model(folder)
    ids = tokenizer.encode("The salesperson asks the buyer")
    code = """
    const names = fs.readdirSync(words[0]).filter((name) => name !== "README.md");
    const files = Object.fromEntries(names.map((name) =>
      [name, new Uint8Array(fs.readFileSync(`${words[0]}/${name}`))]));
    const { model, tokenizer } = T.importRun(files);
    const bad = Object.keys(files).flatMap((name) => {
      const list = new TextEncoder().encode("[]");
      const parts = [undefined, files[name].slice(0, 99), new Uint8Array(0), list];
      return parts.map((part) =>
        sentence(() => T.importRun({ ...files, [name]: part })));
    });
    return { logits: [...model.forward(given)], ids: tokenizer.encode(words[1]), bad };
    """
    found = run_node(code, folder, "The salesperson asks the buyer", given=ids)
    assert found["ids"] == ids
    logits = model(torch.tensor([ids])).flatten().detach()
    assert_close(torch.tensor(found["logits"]), logits, atol=1e-4, rtol=0)
    assert sum(message != "no error" for message in found["bad"]) >= 14, found["bad"]


def test_a_plan_that_does_not_fit_gets_a_sentence() -> None:
    code = """
    const asked = [{ minutes: 0 }, { minutes: 99 },
      { sizes: { d_model: 30, n_heads: 4 } },
      { sizes: { d_model: 33, n_heads: 11 } }, { sizes: { context_length: 1e5 } },
      { sizes: { d_model: 8192, n_heads: 8, n_layers: 9 } }];
    return asked.map((one) => sentence(() => T.plan(data, { speed: 1e9, ...one })));
    """
    found = run_node(RUN + code, shipped("stories.txt"), given=["tiny"])
    words = [
        "up to 60 minutes",
        "up to 60",
        "do not divide",
        "even number",
        "too short",
    ]
    for message, part in zip(found, [*words, "more than the 1024 MB"], strict=True):
        assert part in message and message.endswith("."), message


def test_a_broken_run_says_so() -> None:
    code = """
    const trainer = T.createTrainer(data, made[0][1], { breakIt: { rate: 1e9 } });
    const message = sentence(() => { while (!trainer.isOver) trainer.step(); });
    return [message, trainer.isOver, trainer.steps];
    """
    source = shipped("stories.txt")
    message, is_over, steps = run_node(RUN + code, source, given=["story"])
    assert is_over and steps < 24
    assert "smaller learning rate" in message


def test_a_computer_that_sleeps_in_a_step_costs_the_run_one_step() -> None:
    code = """
    const trainer = T.createTrainer(data, T.plan(data, { minutes: 1, speed: 1e9 }));
    for (let step = 0; step < 3; step++) trainer.step();
    const { seconds } = trainer, now = performance.now;
    let nth = 0;
    performance.now = () => now.call(performance) + (nth++ ? 3600e3 : 0);
    trainer.step();
    performance.now = now;
    return [seconds, trainer.seconds, trainer.isOver];
    """
    before, after, is_over = run_node(
        RUN + code, shipped("stories.txt"), given=["tiny"]
    )
    assert after == pytest.approx(before * 4 / 3)
    assert not is_over


@both
def test_scripts_without_comments_train_alike(tmp_path: Path, simd: bool) -> None:
    lean = load_tool("lean").lean
    for path in STATIC.glob("*.js"):
        short = lean(path.read_text(encoding="utf-8"))
        assert lean(short) == short
        (tmp_path / path.name).write_text(short, encoding="utf-8")
        checked = [str(NODE), "--check", str(tmp_path / path.name)]
        subprocess.run(checked, check=True, capture_output=True)
    code = """
    return made.map(([recipe, plan]) => {
      const trainer = T.createTrainer(data, plan, { simd: words[1] === "simd" });
      const losses = [];
      while (losses.length < 6) losses.push(trainer.step().loss);
      const files = T.exportRun(trainer.model(), data.tokenizer, { train: plan.train });
      const { model, tokenizer } = T.readFiles({ "run.zip": T.zip(files) });
      return [losses, T.sample(model, tokenizer, { prompt: "The" }).text,
        [...T.snapshotOf(plan.model, T.namedWeights(model)).scales]];
    });
    """
    words = (shipped("stories.txt"), "simd" if simd else "plain")
    given = ["tiny", "story"]
    wanted = run_node(RUN + code, *words, given=given)
    assert run_node(RUN + code, *words, given=given, scripts=tmp_path) == wanted


def test_the_run_of_chapter_07_is_one_of_the_page() -> None:
    code = """
    globalThis.window = { tinygptWidgets: { data: {} } };
    require(folder + '/widgets/moments_stories.js');
    const { config, states, tokenizer } = window.tinygptWidgets.data.moments_stories;
    const bytes = (text) => new Uint8Array(Buffer.from(text, "base64")).buffer;
    const data = T.prepare(T.readText(fs.readFileSync(words[0])),
      { tokenizer: new TinyGPT.Tokenizer(tokenizer) });
    const sizes = { d_model: config.d_model, n_layers: config.n_layers,
      n_heads: config.n_heads, context_length: config.context_length };
    const plan = T.plan(data, { speed: 1e9, minutes: 1, sizes, steps: 10 });
    const fresh = Buffer.from(T.createTrainer(data, plan).snapshot().values);
    const { values, scales, bits } = states.at(-1);
    const model = T.fromSnapshot({ config, values: new Int8Array(bytes(values)),
      scales: new Float32Array(bytes(scales)) });
    const trained = T.startFrom(model, data, plan);
    const steps = states.map(({ step }) => step);
    return [fresh.toString("base64") === states[0].values, steps,
      trained.evaluate({ windows: 64 }).bitsPerByte - bits];
    """
    begins_alike, steps, off = run_node(code, shipped("stories.txt"))
    assert begins_alike
    assert steps == sorted(steps) and len(steps) == 9
    assert abs(off) < 0.06
