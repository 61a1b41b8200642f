"""shop: claims against its facts are found, and the 60 questions can be answered."""

import pytest
import regex

from tinygpt.finetuning.shop import contradictions, load_questions
from tinygpt.text.corpora import load_chats

RIGHT = [  # an answer for each question, in their order
    "Unused goods can go back within 30 days of delivery.",
    "Yes, you have 30 days, if it is unused.",
    "It must be unused.",
    "Use the label from the parcel, or ask for a new one by e-mail.",
    "A new label can be sent by e-mail.",
    "Yes, one box is fine. Put each order number on a note.",
    "Within 7 working days after the return has arrived.",
    "The money comes back the way it was paid.",
    "I am sorry, a used item cannot go back.",
    "It can go back unused within 30 days.",
    "Standard delivery takes 3 to 5 working days.",
    "The next working day if you order by noon.",
    "Order by noon for express.",
    "No, a public holiday is no working day.",
    "The price is shown in the basket.",
    "I am sorry, we deliver inside the country only.",
    "We are online only and have no stores.",
    "I am sorry, there is no pick-up.",
    "I am sorry, that is too long. What is the order number?",
    "The help desk can. Please tell me the order number.",
    "I am sorry. It is replaced free of charge.",
    "I am sorry. We replace it free of charge.",
    "Missing items are sent free of charge.",
    "No, it is replaced free of charge.",
    "Yes, a photo helps.",
    "I am sorry. Please tell me the order number, and we replace it.",
    "Two years, for faults.",
    "Yes, the warranty covers faults for two years.",
    "No, I am sorry, the warranty is not for damage by dropping.",
    "No, wear is not covered.",
    "I am sorry, the warranty ends after two years.",
    "Please tell me the order number.",
    "Yes, until it has shipped cancelling is free.",
    "No, it is free until the order has shipped.",
    "After shipping it cannot be cancelled, but it can go back unused within 30 days.",
    "Please tell me the order number.",
    "Until it has shipped, yes; tell the help desk.",
    "The help desk writes it down.",
    "No, please do not; tell the help desk.",
    "Card, bank transfer or one gift card.",
    "Only one gift card can be used per order.",
    "I am sorry, paying in parts is not possible.",
    "There is no invoice on account, sorry.",
    "No, only one code works per order.",
    "I am sorry, a later price drop is not refunded.",
    "Please write the order number on it.",
    "No, I have no secret discounts.",
    "I cannot see payments. Please tell me the order number.",
    "You get a link to reset it by e-mail.",
    "Please look in the spam folder.",
    "The help desk can delete the account.",
    "The help desk changes the e-mail address.",
    "I am a computer program.",
    "Until 18, on working days.",
    "No, on working days from 8 to 18.",
    "It is on the contact page.",
    "I cannot see parcels. Which order number is it?",
    "I cannot give out data of other customers.",
    "I am sorry, I cannot give legal advice.",
    "I do not know that. I can help with an order of the shop.",
]


@pytest.mark.parametrize(
    "answer",
    [
        "You can return it within 14 days.",
        "Unused goods go back within 60 days of delivery.",
        "It can be exchanged within three weeks.",
        "The warranty lasts three years.",
        "Faults are covered for 12 months.",
        "You have five years of warranty.",
        "There is a one-year warranty.",
        "Your warranty covers drops, too.",
        "Standard delivery takes 2 to 4 working days.",
        "Standard delivery takes 3 to 5 weeks.",
        "Delivery takes ten days.",
        "Express comes the same day.",
        "Express takes three days.",
        "With express it comes the next working day if you order by midnight.",
        "Please order before 3pm.",
        "The help desk is there on working days from 9 to 17.",
        "The help desk is there at weekends, too.",
        "Your money comes back within 14 working days.",
        "You get a refund in 30 days.",
        "We replace it, but you have to pay.",
        "You can use two gift cards.",
        "Both codes work for one order.",
        "Yes, you can pay in parts.",
        "Of course you can pay on invoice.",
        "You can visit our store in town.",
        "You can pick it up tomorrow.",
        "Yes, we deliver abroad.",
        "The address can be changed after it has shipped.",
        "Please write your new address here.",
        "Tell me the new address and I will change it.",
        "I have cancelled the order.",
        "I can see your parcel.",
    ],
)
def test_these_contradict_the_facts(answer: str) -> None:
    assert contradictions(answer)


@pytest.mark.parametrize(
    "answer",
    [
        *RIGHT,
        "The warranty lasts two years, so it is over after three years.",
        "It should take 3 to 5 working days; two weeks are too long.",
        "The money comes back within 7 working days after the return has arrived.",
        "Return it unused within 30 days of delivery to get your money back.",
        "I am sorry, you can not pay in parts.",
        "There are no stores, so you cannot pick it up.",
        "Please do not write the address here.",
        "I have noted that you want it cancelled.",
    ],
)
def test_these_do_not(answer: str) -> None:
    assert contradictions(answer) == []


def test_each_question_has_an_answer_and_most_answers_fit_few_questions() -> None:
    questions = load_questions()
    assert len(questions) == len({q.question for q in questions}) == len(RIGHT) == 60
    for question, answer in zip(questions, RIGHT, strict=True):
        assert question.answered_by(answer), question
    fits = [sum(q.answered_by(answer) for q in questions) for answer in RIGHT]
    assert sum(fits) / 60 < 6
    for vague in ("I am sorry.", "Yes.", "Thank you, and goodbye.", "I do not know."):
        assert sum(q.answered_by(vague) for q in questions) <= 1, vague
    assert not questions[0].answered_by("Within 30 days; the warranty is three years.")


def test_no_question_shares_eight_words_with_the_corpus() -> None:
    def runs(text: str) -> set[tuple[str, ...]]:
        words = regex.findall(r"[a-z0-9']+", text.lower())
        return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}

    chats = load_chats("shop-chats")
    known = set().union(*(runs(said["content"]) for chat in chats for said in chat))
    assert all(not runs(q.question) & known for q in load_questions())
