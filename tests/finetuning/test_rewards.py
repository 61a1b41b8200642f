"""rewards: which answers are right, on answers written by hand and on the corpus."""

import pytest

from tinygpt.finetuning.rewards import (
    CHECKS,
    Prompt,
    asks_for_number,
    ends,
    judge,
    keeps_facts,
    no_number_invented,
    number_right,
    prompts,
)
from tinygpt.text.corpora import load_chats


def user(*said: str) -> list[dict[str, str]]:
    """The user's messages, with a word of the assistant between two of them."""
    messages: list[dict[str, str]] = []
    for text in said:
        messages += [{"role": "user", "content": text}]
        messages += [{"role": "assistant", "content": "Yes."}]
    return messages[:-1]


def test_an_answer_ends_by_itself_or_at_the_limit() -> None:
    assert ends(user("Hi"), "Hello.", True) == 1.0
    assert ends(user("Hi"), "Hello and", False) == 0.0
    assert ends(user("Hi"), "  ", True) == 0.0


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        (["Where is 12345?"], "I am flagging 12345.", 1.0),
        (["Where is 12345?"], "I am flagging 12345. Yes, 12345.", 1.0),
        (["Where is 12345?"], "I am flagging 12354.", 0.0),
        (["Where is 12345?"], "I am flagging 12345 and 12354.", 0.0),
        (["Where is 12345?"], "I am flagging 1234.", 0.0),
        (["Where is 12345?"], "I am flagging 123455.", 0.0),
        (["Where is 12345?"], "I am flagging it.", 0.0),
        (["12345. No, sorry, 54321."], "I use 54321.", 1.0),
        (["12345. No, sorry, 54321."], "I use 12345.", 0.0),
        (["12345. No, sorry, 54321."], "I use 54321, not 12345.", 0.0),
        (["It is 12345", "I meant 54321"], "I use 54321.", 1.0),
        (["It is 12345", "I meant 54321"], "I use 12345.", 0.0),
        (["It is 12345", "Yes, do it"], "Done for 12345.", 1.0),
        (["12345 and 54321"], "Write 12345 and 54321 on a note.", 1.0),
        (["12345 and 54321"], "Write 12345 on a note.", 0.0),
        (["12345", "one box with 54321?"], "A note with 12345 and 54321.", 1.0),
        (["Where is my lamp?"], "I am flagging 12345.", None),
    ],
)
def test_the_latest_number_is_repeated_and_no_other(
    said: list[str], answer: str, right: float | None
) -> None:
    assert number_right(user(*said), answer, True) == right


def test_a_number_is_not_invented() -> None:
    assert no_number_invented(user("My lamp!"), "I flag 12345.", True) == 0.0
    assert no_number_invented(user("My lamp!"), "Within 30 days, 8 to 18.", True) == 1.0
    assert no_number_invented(user("12345!"), "I flag 12345.", True) == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        "I am sorry. Please tell me the order number.",
        "What is the order number, please?",
        "Which order is it?",
        "May I have your order number?",
        "Please give me the order number and I will flag it for the help desk.",
        "I need all five digits of the order number to flag it.",
        "With the order number I can flag it.",
        "The order number, please?",
    ],
)
def test_these_ask_for_the_number(answer: str) -> None:
    assert asks_for_number(user("My lamp is broken"), answer, True) == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        "The phone number is on the contact page.",
        "Put in a note with both order numbers.",
        "Please write the order number on the transfer.",
        "I am sorry about the lamp.",
        "In which order was it? I am flagging 12345; what is the number?",
    ],
)
def test_these_do_not_ask_for_it(answer: str) -> None:
    assert asks_for_number(user("My lamp is broken"), answer, True) == 0.0


def test_a_number_that_was_given_is_not_missing() -> None:
    given = user("Lamp 12345 is broken")
    assert asks_for_number(given, "Which order is it?", True) is None


def test_judge_asks_for_a_number_only_where_the_reference_does() -> None:
    wanted = Prompt(user("My lamp is broken"), "I am sorry. Which order is it?")
    assert judge(wanted, "I am sorry.", True) == {
        "ends by itself": 1.0,
        "number right": None,
        "asks for a missing number": 0.0,
        "invents no number": 1.0,
        "keeps to the facts": 1.0,
    }
    unwanted = Prompt(user("How long is the warranty?"), "Two years, for faults.")
    assert judge(unwanted, "Five years of warranty.", False) == {
        "ends by itself": 0.0,
        "number right": None,
        "asks for a missing number": None,
        "invents no number": 1.0,
        "keeps to the facts": 0.0,
    }
    assert keeps_facts([], "Faults are covered for two years.", True) == 1.0


def test_every_answer_to_a_user_is_a_prompt() -> None:
    system = {"role": "system", "content": "Be kind."}
    chat = [system, *user("Hi", "Bye"), {"role": "assistant", "content": "Bye."}]
    found = prompts([chat, user("No answer")])
    assert [(len(p.messages), p.reference) for p in found] == [(2, "Yes."), (4, "Bye.")]


@pytest.mark.slow
def test_the_corpus_passes_its_own_checks() -> None:
    """Of 5,798 answers five fail one: each for a pattern's sake, not its own."""
    found = prompts(load_chats("shop-chats"))
    failed: list[str] = []
    applied = dict.fromkeys(CHECKS, 0)
    for prompt in found:
        for name, result in judge(prompt, prompt.reference, True).items():
            if result is not None:
                applied[name] += 1
                failed += [name] if result == 0 else []
    assert len(found) == 5798
    assert applied["number right"] == 3211
    assert applied["asks for a missing number"] == 1218
    assert len(failed) <= 5, failed
