"""Speaking in the terminal: a model's text as it comes, and a conversation.

What it leaves out: the other commands (see `cli`), and all work (see the floors below).
"""

from typing import Any

from tinygpt.cli.arguments import Chat, Generate
from tinygpt.errors import UserError


def say(*words: object) -> None:
    """Print at once, also into a pipe."""
    print(*words, flush=True)


def speak(model: Any, tokenizer: Any, c: Generate) -> None:
    """Print the prompt and, piece by piece, what the model adds.

    Raises:
        UserError: the prompt is empty or too long.
    """
    import torch

    from tinygpt.generation.generate import generate
    from tinygpt.generation.streaming import stream_text
    from tinygpt.training.run import prompt_ids

    stop = tokenizer.end_of_text
    tokens = generate(
        model,
        torch.tensor([prompt_ids(c.prompt, model, tokenizer)], device=model.device),
        c.max_new_tokens,
        temperature=c.temperature,
        top_k=c.top_k,
        top_p=c.top_p,
        seed=c.seed,
        stop_token=stop,
        use_cache=c.cache,
    )
    ids = (int(token) for token in tokens)
    print(c.prompt, end="", flush=True)
    for piece in stream_text((i for i in ids if i != stop), tokenizer):
        print(piece, end="", flush=True)
    say()


def one_answer(model: Any, tokenizer: Any, prompt: str, seed: int) -> str:
    """A short answer on one line.

    Raises:
        UserError: the prompt is too long.
    """
    from tinygpt.finetuning.chat import answer

    asked = [{"role": "user", "content": prompt}]
    pieces = answer(model, tokenizer, asked, max_new_tokens=60, seed=seed)
    return " ".join("".join(pieces).split())


def converse(model: Any, tokenizer: Any, args: Chat) -> None:
    """One conversation, until /quit or the end of input."""
    history: list[dict[str, str]] = []
    while True:
        try:
            asked = input("You: ").strip()
        except EOFError:
            return say()
        except KeyboardInterrupt:
            say("\n(/quit leaves)")
            continue
        if asked == "/quit":
            return None
        if asked == "/reset":
            history.clear()
            say("(forgotten)")
        elif asked.startswith("/"):
            say("(the commands are /reset and /quit)")
        elif asked:
            history += _turn(model, tokenizer, [*history, _said("user", asked)], args)


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _turn(
    model: Any, tokenizer: Any, messages: list[dict[str, str]], args: Chat
) -> list[dict[str, str]]:
    """Print the answer to the last message; both, or nothing if it was too long."""
    from tinygpt.finetuning.chat import answer

    pieces: list[str] = []
    try:
        print("Assistant: ", end="", flush=True)
        for piece in answer(
            model,
            tokenizer,
            messages,
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            seed=args.seed,
        ):
            print(piece, end="", flush=True)
            pieces.append(piece)
    except KeyboardInterrupt:
        print(" (stopped)", end="")
    except UserError as error:
        say(f"({error})")
        return []
    say()
    return [messages[-1], _said("assistant", "".join(pieces))]
