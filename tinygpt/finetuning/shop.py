"""The shop of `shop-chats`: its facts as patterns, and questions to ask a model.

`contradictions` finds what an answer says against the facts; `load_questions` gives
60 questions that no conversation of the corpus asks in these words. What it leaves out:
the facts in prose (see the page on the data); the checks that use them (see `rewards`).
"""

import json
from dataclasses import dataclass
from functools import cache

import regex

from tinygpt.files import shipped

QUESTIONS = "shop_questions.jsonl"
N = (
    r"(?:\d+|an?|one|two|three|four|five|six|seven|eight|nine|ten|twelve|fourteen|"
    r"fifteen|twenty|thirty|sixty|ninety|half an?)"
)
SPAN = rf"{N}[ -](?:(?:working|business) )?(?:hour|day|week|month|year)s?"
DENIED = regex.compile(
    r"\b(?:no|not|cannot|nor|never|only|without|neither|unless|if|whether|sorry)\b|n't",
    regex.IGNORECASE,
)


@dataclass(frozen=True)
class Fact:
    """A fact of the shop that can be checked by a pattern.

    Attributes:
        name: the fact, in words.
        claim: finds what an answer claims about it; its group is what is checked.
        right: what the group may be; None if whoever claims it is wrong, unless the
            clause denies it ("no", "not", "only" and the like).
    """

    name: str
    claim: str
    right: str | None = None

    def contradicted_by(self, clause: str) -> bool:
        """Whether a claim in the clause differs from the fact."""
        for found in _pattern(self.claim).finditer(clause):
            if self.right is None:
                if not DENIED.search(clause):
                    return True
            elif not _pattern(self.right).fullmatch(found[1]):
                return True
        return False


@cache
def _pattern(written: str) -> regex.Pattern[str]:
    return regex.compile(written, regex.IGNORECASE)


_SEVEN = r"(?:7|seven) (?:working|business) days"
_THIRTY = r"(?:30|thirty) days"
FACTS = (
    Fact(
        "unused goods can go back within 30 days of delivery",
        r"\b(?:return\w*|back|unused|exchanged?)\b(?!.*\b(?:money|refund|paid)\b)"
        rf"(?!.*\bafter (?:it|the|your))[^,]*?\b(?:within|for|inside|up to) ({SPAN})",
        rf"{_THIRTY}|{_SEVEN}",
    ),
    Fact(
        "unused goods can go back within 30 days of delivery",
        rf"\bwithin ({SPAN}) (?:of|after|from) (?:the )?delivery",
        _THIRTY,
    ),
    Fact(
        "the money is back within 7 working days",
        r"\b(?:money|refund\w*)\b[^,]*?\b(?:within|in|takes?|after) (?:about )?"
        rf"({SPAN})(?! (?:of|after|from) (?:the )?delivery)",
        _SEVEN,
    ),
    Fact(
        "the warranty lasts two years",
        r"\b(?:warranty|covered|guarantee)\b[^,]*?(?<!not )"
        rf"\b(?:for|lasts?|is|within|of|runs|covers \w+ for) ({SPAN})",
        r"(?:2|two) years",
    ),
    Fact(
        "the warranty lasts two years",
        rf"\b({SPAN})(?: of)? (?:warranty|guarantee)",
        r"(?:2|two)[ -]years?",
    ),
    Fact(
        "the warranty is for faults, not for drops and wear",
        r"\bwarranty\b[^,]*\b(?:also )?covers? (drops|wear|damage by dropping|falls)",
    ),
    Fact(
        "standard delivery takes 3 to 5 working days",
        rf"({N} (?:to|or|-) {N} (?:(?:working|business) )?(?:day|week)s)",
        r"(?:3|three) (?:to|or|-) (?:5|five) (?:(?:working|business) )?days",
    ),
    Fact(
        "standard delivery takes 3 to 5 working days",
        rf"\b(?:standard|delivery) (?:delivery )?takes ({SPAN})",
        r"(?:3|5|three|five) (?:working|business) days",
    ),
    Fact(
        "express comes the next working day",
        r"\bexpress\b.*(?<!not )(?<!not the )\b"
        rf"((?:the )?same day|(?:within|in|takes) {SPAN})",
        r"(?:within|in|takes) (?:one|1|a) working day",
    ),
    Fact(
        "express must be ordered by noon",
        r"\border(?:ed|s)?(?: it)? (?:by|before|until) "
        rf"(noon|midday|midnight|evening|{N}(?:[ap]m| o'clock| in the \w+)?)\b",
        r"noon|midday|12|twelve|12pm|12 o'clock",
    ),
    Fact(
        "the help desk is there from 8 to 18",
        r"(?<!\d)(\d{1,2}(?: ?am)? (?:to|and|until|till|-) \d{1,2}(?: ?pm)?)"
        r"(?! (?:working |business )?(?:day|week)|\d)",
        r"8(?: ?am)? (?:to|and|until|till|-) (?:18|6 ?pm)|3 (?:to|and|-) 5",
    ),
    Fact(
        "the help desk is there on working days",
        r"\bhelp desk\b[^,]*\b(at (?:the )?weekends?|on (?:saturday|sunday|weekend)s?"
        r"|day and night|around the clock|every day)",
    ),
    Fact(
        "wrong, missing and damaged items are replaced free of charge",
        r"\b(?:replac\w+|new one)\b.*\b(for a fee|you (?:must|have to|will) pay|"
        r"at your (?:own )?(?:cost|expense)|half (?:the )?price)",
    ),
    Fact(
        "one gift card or discount code per order",
        r"\b((?:two|three|both|several|many|more|2|3) (?:gift cards|discount codes|"
        r"codes|cards)\b[^,]*\b(?:can|may|work|possible|fine|accepted))",
    ),
    Fact(
        "one gift card or discount code per order",
        r"\b(?:can|may) (?:use|combine|enter|pay with) (?:your )?"
        r"((?:two|three|both|several|many|2|3) (?:gift cards|discount codes|codes))",
    ),
    Fact(
        "no paying in parts",
        r"\b(?:can|may|could) [^,]*\bpa(?:y|id)\b[^,]*\b(in (?:\w+ )?parts|in "
        r"(?:\w+ )?instal?lments)",
    ),
    Fact(
        "no invoice on account",
        r"\b(?:can|may|could) [^,]*\b(?:pay|paid|buy|order)\b[^,]*\b((?:on|by|an) "
        r"(?:invoice|account))",
    ),
    Fact(
        "no stores and no pick-up",
        r"\b(?:visit|in|at|to|have) (?:one of )?((?:our|a|the) (?:\w+ )?(?:stores?|"
        r"shops? in)|stores)\b",
    ),
    Fact(
        "no stores and no pick-up",
        r"\byou can ((?:pick|collect) (?:it|them|the|your)\b[^,]*)",
    ),
    Fact(
        "delivery inside the country only",
        r"\b(?:deliver|ship|send)\b[^,]*\b(abroad|worldwide|other countries|"
        r"any country|every country|all countries|all over the world)",
    ),
    Fact(
        "an address changes only before shipping",
        r"\baddress\b[^,]*\b(?:can|may)\b[^,]*\bchange\w*\b[^,]*\b(after (?:it has "
        r"|they have )?shipp\w+|at any time|any time)",
    ),
    Fact(
        "the help desk writes addresses down, never the chat",
        r"\b(?:write|tell|give|send|type) (?:me )?((?:the|your) (?:new|right|correct)? "
        r"?address\b(?! (?:to|by|on|only)\b)[^,]*(?:\bhere\b|\bin this chat\b))"
        r"|\b(?:tell|give|send) me ((?:the|your) (?:new |right |correct )?address)\b",
    ),
    Fact(
        "the assistant notes and flags; it cannot act or see",
        r"\bI (?:have |just |now )?(?:have )?((?:cancell?ed|refunded|deleted|shipped|"
        r"changed) (?:it|the|your)|can see (?:that |your |the )(?:order|parcel|payment|"
        r"account))",
    ),
)


def contradictions(answer: str) -> list[str]:
    """The names of the facts that the answer contradicts, each once.

    >>> contradictions("Yes, it can go back within 14 days. Faults: two years.")
    ['unused goods can go back within 30 days of delivery']
    """
    clauses = regex.split(r"[.!?;:]\s|[.!?;:]$", answer)
    return list(
        dict.fromkeys(
            fact.name
            for fact in FACTS
            if any(fact.contradicted_by(clause) for clause in clauses)
        )
    )


@dataclass(frozen=True)
class Question:
    """A question to the shop, with patterns of which a right answer matches each."""

    question: str
    right: tuple[str, ...]

    def answered_by(self, answer: str) -> bool:
        """Whether the answer matches every pattern and contradicts no fact."""
        return not contradictions(answer) and all(
            regex.search(pattern, answer, regex.IGNORECASE) for pattern in self.right
        )


def load_questions() -> list[Question]:
    """60 questions in words that `shop-chats` does not use, from `data/`."""
    lines = shipped(QUESTIONS).read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return [Question(e["question"], tuple(e["right"])) for e in entries]
