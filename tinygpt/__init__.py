"""TinyGPT: a small, real GPT, from the text file to the trained model.

    import tinygpt

    llm = tinygpt.train("my.txt", minutes=2)
    print(llm.generate("Once", max_new_tokens=100))

`train`, `finetune` and `load` return an `LLM`. The modules behind them are the steps of
the course: text, model, generation, training, finetuning. Importing the package loads
nothing; each name below is loaded when it is first used.
"""

TYPE_CHECKING = False  # typing's own name, known to type checkers, without its import
if TYPE_CHECKING:
    from tinygpt.config import FinetuneConfig, GPTConfig, TrainConfig
    from tinygpt.course.exercises import check_answer
    from tinygpt.errors import UserError
    from tinygpt.generation.generate import generate
    from tinygpt.llm import LLM, finetune, load, train
    from tinygpt.model.gpt import GPT
    from tinygpt.presets import PRESETS
    from tinygpt.text.bpe_training import train_bpe
    from tinygpt.text.tokenizer import Tokenizer

__version__ = "0.1.0"

_MODULES = {
    "train": "llm",
    "finetune": "llm",
    "load": "llm",
    "LLM": "llm",
    "GPT": "model.gpt",
    "GPTConfig": "config",
    "TrainConfig": "config",
    "FinetuneConfig": "config",
    "PRESETS": "presets",
    "Tokenizer": "text.tokenizer",
    "train_bpe": "text.bpe_training",
    "generate": "generation.generate",
    "check_answer": "course.exercises",
    "UserError": "errors",
}
__all__ = [
    "GPT",
    "LLM",
    "PRESETS",
    "FinetuneConfig",
    "GPTConfig",
    "Tokenizer",
    "TrainConfig",
    "UserError",
    "check_answer",
    "finetune",
    "generate",
    "load",
    "train",
    "train_bpe",
]


def __getattr__(name: str) -> object:
    """Load the module behind `name` when the name is first used."""
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module 'tinygpt' has no attribute {name!r}")
    value = getattr(import_module(f"tinygpt.{_MODULES[name]}"), name)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    """What the package offers, loaded or not."""
    return sorted(__all__)
