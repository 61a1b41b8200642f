"""The page's own model (tinygpt.js) against onnxruntime-web, in one Chromium.

Both hold the same weights, those of the 8-bit model.js, and write greedily at batch 1,
each in a Web Worker of its own, in turn. onnxruntime-web runs its wasm backend with
SIMD in its fastest form found here: one token per step, and the page keeps the past
keys and values ("new rows"). Also measured: the usual form, in which the model hands
the whole past back and forth; the model without a cache; and two threads, which a page
gets only if its server sends the headers for cross-origin isolation. Ours runs as in
the page and once without tinygpt_simd.js, in plain JavaScript. All sides must write the
same tokens. The cold start is from making the worker to the first token, with
everything fetched from this machine. What it leaves out: WebGPU, integer products, and
a tokenizer for onnxruntime-web, which brings none.

    python benchmarks/web_speed.py [--quick]

Needs Chromium, and npm and pip with a registry in reach: onnxruntime-web and the ONNX
exporter go into a temporary folder, once. Without them it says so and measures nothing.
"""

import gzip
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import torch
from side_by_side import (
    arguments,
    machine,
    median,
    pairs,
    print_rows,
    ratio,
    row,
    save,
    span,
)
from torch import Tensor, nn

from tinygpt.errors import UserError
from tinygpt.formats.huggingface import load_gpt2
from tinygpt.formats.web import as_written, export_web
from tinygpt.generation.generate import generate
from tinygpt.model.gpt import GPT
from tinygpt.presets import PRESETS
from tinygpt.text.tokenizer import Tokenizer, get_tokenizer

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(tempfile.gettempdir()) / "tinygpt-web-speed"
OURS = ("tinygpt_wasm.js", "tinygpt_simd.js", "tinygpt.js", "tinygpt_web.js")
ORT = "onnxruntime-web@1.30.0"
ORT_FILES = (  # what a page with the wasm backend fetches
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)
ONNX = ("onnx==1.23.2", "onnxscript==0.7.2", "onnx_ir==1.1.0", "ml_dtypes==0.6.0")
PROMPT = "The salesperson asks the"
US, PLAIN = "tinygpt.js", "tinygpt.js, plain"
FASTEST = "onnxruntime-web"
FORMS = {  # name -> form and threads, see web_speed.mjs
    FASTEST: ("new rows", 1),
    "onnxruntime-web, whole past": ("whole past", 1),
    "onnxruntime-web, 2 threads": ("new rows", 2),
    "onnxruntime-web, no cache": ("no cache", 1),
}
GOAL, COLD_GOAL = 3.0, 1.0


# --- What it runs on --------------------------------------------------------------


def install() -> None:
    """Put onnxruntime-web and the ONNX exporter into `TOOLS`, once."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError("npm is not here: apt-get install npm, or nodejs.org")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    pip += ["--target", str(TOOLS / "python"), *ONNX]
    web = [npm, "install", "--silent", "--ignore-scripts", "--prefix", str(TOOLS), ORT]
    TOOLS.mkdir(exist_ok=True)
    for command, made in ((web, ort_folder()), (pip, TOOLS / "python" / "onnxscript")):
        if made.is_dir():
            continue
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            words = " ".join(command)
            raise UserError(f"`{words}` failed: {done.stderr.strip()[-300:]}")
    sys.path.append(str(TOOLS / "python"))


def ort_folder() -> Path:
    """Where npm has put onnxruntime-web's files."""
    return TOOLS / "node_modules" / "onnxruntime-web" / "dist"


def chromium() -> str:
    """The browser's path."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise UserError("Chromium is not here: apt-get install chromium")
    return path


class Server(SimpleHTTPRequestHandler):
    """A folder on http, cross-origin isolated, so that wasm may have threads."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        """Add the headers of every answer."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


# --- The same model as ONNX -------------------------------------------------------


class Step(nn.Module):
    """One token: id [1, 1], position [1] and past [S, L, 2, H, D] -> logits [V].

    Also the keys and values: the newest alone [1, L, 2, H, D], or all [S + 1, ...].
    """

    def __init__(self, model: GPT, whole: bool) -> None:
        super().__init__()
        self.model = model
        self.whole = whole

    def forward(
        self, ids: Tensor, position: Tensor, past: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The steps of GPT.forward for one token, which sees all before it."""
        model, new = self.model, []
        table = past.permute(1, 2, 3, 0, 4).unsqueeze(2)  # [L, 2, 1, H, S, D]

        def extend(layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            new.append(torch.stack([k[0, :, 0], v[0, :, 0]]))  # [2, H, D]
            both = torch.cat([table[layer], torch.stack([k, v])], dim=-2)
            return both[0], both[1]

        rotate = model.rotary and partial(model.rotary, positions=position)
        x = model.embed(ids, position)
        for layer, block in enumerate(model.blocks):
            x = block(x, rotate=rotate, extend=partial(extend, layer))
        present = torch.stack(new).unsqueeze(0)
        if self.whole:
            present = torch.cat([past, present])
        return model.logits(x)[0, 0], present


class Whole(nn.Module):
    """All tokens anew: ids [1, T] -> logits [V] after the last."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        """The steps of GPT.forward, the head for the last token only."""
        model, positions = self.model, torch.arange(ids.size(1))
        rotate = model.rotary and partial(model.rotary, positions=positions)
        x = model.embed(ids, positions)
        for block in model.blocks:
            x = block(x, is_causal=True, rotate=rotate)
        return model.logits(x[:, -1:])[0, 0]


def export_onnx(model: GPT, form: str, path: Path) -> None:
    """Write the model in one of the forms of web_speed.mjs, weights inside."""
    c = model.config
    any_length = torch.export.Dim("S", min=2, max=c.context_length - 1)
    if form == "no cache":
        module: nn.Module = Whole(model)
        given: tuple[Tensor, ...] = (torch.arange(5).unsqueeze(0),)
        names, shapes = ["ids"], ({1: any_length},)
        results = ["logits"]
    else:
        module = Step(model, whole=form == "whole past")
        past = torch.randn(5, c.n_layers, 2, c.n_heads, c.head_dim)
        given = (torch.tensor([[7]]), torch.tensor([5]), past)
        names, shapes = ["ids", "position", "past"], (None, None, {0: any_length})
        results = ["logits", "present"]
    torch.onnx.export(
        module.eval(),
        given,
        path,
        input_names=names,
        output_names=results,
        dynamic_shapes=shapes,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


# --- The browser ------------------------------------------------------------------


class Side:
    """One worker in a window of its own."""

    def __init__(self, browser: Any, address: str, given: dict[str, Any]) -> None:
        self.page = browser.new_page()
        self.page.goto(f"{address}/page.html")
        self.given = given
        self.ids: list[int] = []

    def open(self) -> dict[str, Any]:
        """A fresh worker; its first token, and the seconds until it came."""
        found = self.page.evaluate("(given) => start(given)", self.given)
        assert "error" not in found, found
        return dict(found)

    def write(self, n: int, seconds: float) -> float:
        """Tokens per second; what was written goes into `ids`."""
        wish = {"act": "write", "prompt": self.given["prompt"], "n": n}
        found = self.page.evaluate("(wish) => ask(wish)", wish | {"seconds": seconds})
        assert "error" not in found, found
        self.ids = found["ids"]
        return float(found["speed"])


PAGE = """<!doctype html><meta charset="utf-8"><title>Speed</title><script>
let worker;
const ask = (wish) => new Promise((done) => {
  worker.onmessage = ({ data }) => done(data);
  worker.onerror = (event) => done({ error: event.message });
  worker.postMessage(wish);
});
async function start(given) {
  worker?.terminate();
  const from = performance.now();
  worker = new Worker("web_speed.mjs", { type: "module" });
  const found = await ask({ act: "open", ...given });
  return { ...found, seconds: (performance.now() - from) / 1000 };
}
</script>"""


def weight(*paths: Path) -> dict[str, int]:
    """Bytes of files, as they are and gzipped."""
    contents = [path.read_bytes() for path in paths]
    return {
        "bytes": sum(map(len, contents)),
        "gzipped": sum(len(gzip.compress(content)) for content in contents),
    }


# --- The comparison ---------------------------------------------------------------


def models() -> dict[str, tuple[GPT, Tokenizer]]:
    """The model that ships, and the tiny preset's shape with random weights."""
    torch.manual_seed(0)
    tiny = GPT(PRESETS["tiny"].model)
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.normal_(std=0.08)
    found = {
        "pocket-gpt2": load_gpt2("pocket-gpt2"),
        "tiny": (tiny, get_tokenizer("handbook-4k")),
    }
    for model, _ in found.values():
        model.eval().requires_grad_(False)
    return found


def compare(
    browser: Any, address: str, folder: Path, name: str, quick: bool
) -> dict[str, Any]:
    """Tokens per second and cold starts of all sides for one model."""
    model, tokenizer = models()[name]
    c = model.config
    prompt = tokenizer.encode(PROMPT)
    n = c.context_length - len(prompt)
    shape = [c.n_layers, 2, c.n_heads, c.head_dim]
    ours = export_web(model, tokenizer, folder / name)
    for parameter in model.parameters():
        parameter.copy_(as_written(parameter))
    common = {"prompt": prompt, "shape": shape, "room": c.context_length}
    own = {"side": "tinygpt", "model": f"{name}/{ours.name}"}
    sides: dict[str, dict[str, Any]] = {US: own | {"simd": True}, PLAIN: own}
    for side, (form, threads) in FORMS.items():
        path = folder / name / f"{form.replace(' ', '_')}.onnx"
        if not path.exists():
            export_onnx(model, form, path)
        sides[side] = {"side": "onnxruntime", "model": f"{name}/{path.name}"}
        sides[side] |= {"form": form, "threads": threads}
    opened = {k: Side(browser, address, common | v) for k, v in sides.items()}

    cold = pairs(
        {k: (lambda side=v: side.open()["seconds"]) for k, v in opened.items()},
        2 if quick else 5,
    )
    text = generate(model, torch.tensor([prompt]), n, temperature=0.0)
    expected = [int(token) for token in text]

    def speed(side: Side) -> Callable[[], float]:
        return lambda: side.write(n, 0.3 if quick else 1.0)

    measured = pairs({k: speed(v) for k, v in opened.items()}, 3 if quick else 9)
    for side, window in opened.items():
        assert window.ids == expected, f"{side} writes another text with {name}"
        window.page.close()
    runtime = [folder / "ort" / file for file in ORT_FILES]
    onnx = folder / name / "new_rows.onnx"
    return {
        "parameters": model.n_parameters(),
        "tokens_per_second": {k: median(v) for k, v in measured.items()},
        "ratio": {k: ratio(measured[US], v) for k, v in measured.items() if k != US},
        "cold_start_seconds": {k: median(v) for k, v in cold.items()},
        "page_weight": {
            US: {
                "code": weight(*(folder / script for script in OURS)),
                "model": weight(ours),
            },
            "onnxruntime-web": {"code": weight(*runtime), "model": weight(onnx)},
        },
    }


def measure(quick: bool) -> dict[str, Any]:
    """All models in one browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise UserError("playwright is not here: pip install playwright") from error
    browser_path = chromium()
    install()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        for script in OURS:
            shutil.copy(ROOT / "book" / "_static" / script, folder)
        shutil.copy(Path(__file__).with_suffix(".mjs"), folder)
        (folder / "page.html").write_text(PAGE, encoding="utf-8")
        (folder / "ort").mkdir()
        for file in ORT_FILES:
            shutil.copy(ort_folder() / file, folder / "ort")
        server = ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(Server, directory=str(folder))
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox"], timeout=120_000
        )
        address = f"http://127.0.0.1:{server.server_port}"
        for model in ("pocket-gpt2", "tiny"):
            found[model] = compare(browser, address, folder, model, quick)
            print(f"{model}: {found[model]}", flush=True)
        version = browser.version
        browser.close()
        server.shutdown()
    return {"chromium": version, "onnxruntime-web": ORT, "models": found}


def main() -> None:
    """Measure, print the rows, keep the result."""
    args = arguments(__doc__)
    try:
        result = measure(args.quick)
    except UserError as lack:
        print(f"Left out: {lack}.")
        return
    rows = []
    for name, found in result["models"].items():
        what = f"{name} in the page, against onnxruntime-web"
        share = found["ratio"][FASTEST]
        rows.append(row(what, f"{GOAL:g}x", span(share), share["median"] >= GOAL))
        for side in (PLAIN, *list(FORMS)[1:]):
            about = f"{name} in the page, against {side}"
            rows.append(row(about, "", span(found["ratio"][side])))
        cold = found["cold_start_seconds"][US]
        about = f"{name} in the page, cold start to the first token"
        rows.append(row(about, f"{COLD_GOAL:g} s", f"{cold:.2f} s", cold < COLD_GOAL))
    print_rows(rows)
    save("web_speed", {"machine": machine(), **result, "rows": rows}, args.quick)


if __name__ == "__main__":
    main()
