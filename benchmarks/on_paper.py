"""On paper: what 8 and 64 GPUs would give for GPT-2 124M and 1.5B. Nothing is run.

From the data sheet of a GPU and of the links between GPUs, and from shares of both that
are assumed to be reached. The formulas are below, each in a function of its own, and on
the page "Growing". What it leaves out: reading text, evaluation, stragglers, a slow
file system; all of them only make it slower.

    python benchmarks/on_paper.py
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import save

# NVIDIA's H100 SXM data sheet: dense bfloat16 (half of the figure "with sparsity"),
# NVLink 900 GB/s in both directions together; one 400 Gb/s InfiniBand port per GPU.
PEAK = 989e12  # operations per second
NVLINK, INFINIBAND = 450e9, 50e9  # bytes per second in one direction
GPUS_PER_NODE = 8
# Assumed, not measured:
UTILISATION = 0.4  # of PEAK, while a GPU computes
LINK_SHARE = 0.8  # of a link's speed
BYTES = 4  # of a weight and of a gradient: float32
TOKENS_PER_PARAMETER = 20  # Hoffmann et al., 2022


@dataclass(frozen=True)
class Shape:
    """A model, and how much text a GPU takes per step."""

    parameters: int
    layers: int
    width: int
    windows: int  # per GPU and step
    context: int = 1024


SHAPES = {
    "124M": Shape(124_439_808, 12, 768, 32),
    "1.5B": Shape(1_557_611_200, 48, 1600, 8),
}


def operations_per_token(s: Shape) -> float:
    """6 N + 12 L C T (Chowdhery et al., 2023, appendix B)."""
    return 6 * s.parameters + 12 * s.layers * s.width * s.context


def computing(s: Shape) -> float:
    """Seconds that a GPU computes per step."""
    tokens = s.windows * s.context
    return tokens * operations_per_token(s) / (PEAK * UTILISATION)


def talking(s: Shape, gpus: int) -> float:
    """Seconds to average the gradients (a ring all-reduce), if nothing else is done.

    Within a node of g each GPU sends 2 (g - 1) / g of S bytes; between m nodes it sends
    2 (m - 1) / m of its share S / g through its own port.
    """
    size, g = BYTES * s.parameters, min(gpus, GPUS_PER_NODE)
    nodes = gpus // g
    inside = 2 * (g - 1) / g * size / (NVLINK * LINK_SHARE)
    between = 2 * (nodes - 1) / nodes * size / g / (INFINIBAND * LINK_SHARE)
    return inside + between


def step(s: Shape, gpus: int, sharded: bool, overlap: bool) -> float:
    """Seconds per step.

    Full sharding sends 3/2 as much (Rajbhandari et al., 2020, section 7). With overlap
    the sending hides behind the backward pass, which is two thirds of the computing.
    """
    compute, talk = computing(s), talking(s, gpus) * (1.5 if sharded else 1)
    if overlap:
        return compute / 3 + max(2 * compute / 3, talk)
    return compute + talk


def gigabytes(s: Shape, gpus: int, sharded: bool) -> float:
    """Weights, gradients and AdamW's two averages per GPU, activations aside."""
    return 4 * BYTES * s.parameters / (gpus if sharded else 1) / 1e9


def main() -> None:
    """Compute and print every row, and keep them."""
    found: dict[str, Any] = {}
    for name, shape in SHAPES.items():
        tokens = shape.windows * shape.context
        found[name] = {"goal_tokens": TOKENS_PER_PARAMETER * shape.parameters}
        for gpus in (1, 8, 64):
            for sharded in (False, True) if gpus > 1 else (False,):
                slow, fast = (step(shape, gpus, sharded, o) for o in (False, True))
                goal = found[name]["goal_tokens"] / tokens / gpus / 3600
                kind = "full" if sharded else "none"
                found[name][f"{gpus} {kind}"] = result = {
                    "million_tokens_per_second": [
                        gpus * tokens / 1e6 / t for t in (slow, fast)
                    ],
                    "times_one": [gpus * computing(shape) / t for t in (slow, fast)],
                    "hours_to_goal": [goal * slow, goal * fast],
                    "gigabytes": gigabytes(shape, gpus, sharded),
                }
                low, high = result["times_one"]
                print(
                    f"{name} on {gpus:2d}, sharding {kind}: "
                    f"{result['million_tokens_per_second'][1]:6.2f} million tokens/s, "
                    f"{low:4.1f} to {high:4.1f} times one, "
                    f"{result['hours_to_goal'][1]:7.1f} h, "
                    f"{result['gigabytes']:5.2f} GB"
                )
    assumed = {
        "gpu": "NVIDIA H100 SXM",
        "peak": PEAK,
        "nvlink": NVLINK,
        "infiniband": INFINIBAND,
        "utilisation": UTILISATION,
        "link_share": LINK_SHARE,
    }
    save("on_paper", {"computed_not_measured": True, "assumed": assumed} | found)


if __name__ == "__main__":
    main()
