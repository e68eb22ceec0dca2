"""Choices and labels: what instruct models write, and labels that are never taken for another."""

import pytest

from adapt_jax.tasks.answers import (
    PARSERS,
    answers_match,
    read_answer,
    read_gold,
)
from adapt_jax.tasks.templates import Template

COLOURED = ("sky", "blood", "grass")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B because it is red", "b"),
        ("B is correct", "b"),
        ("B, because", "b"),
        ("B - blood", "b"),
        ("B\nBecause A is wrong.", "b"),
        ("\\boxed{B}", "b"),
        ("$\\boxed{\\text{(B)}}$", "b"),
        ("\uff22", "b"),
        ("[B]", "b"),
        ("'B'", "b"),
        ("### B", "b"),
        ("<answer>B</answer>", "b"),
        ("The final answer is: B", "b"),
        ("Correct answer: B", "b"),
        ("So, the correct answer is C.", "c"),
        ("Answer: C) grass", "c"),
        ("**Answer: B**", "b"),
        ("**Answer:** B", "b"),
        ("Final Answer: **B**", "b"),
        ("The correct option is (B) blood.", "b"),
        ("The correct choice would be B", "b"),
        ("Correct answer is option B", "b"),
        ("I would go with option B because", "b"),
        ("It's B.", "b"),
        ("I choose B", "b"),
        ("A. sky is wrong. The answer is B.", "b"),
        ("The answer is a", "a"),
        ("A is correct", "a"),
        ("Blood is red", "b"),
        ("it is not sky but grass", "c"),
        ("A is wrong. B is right.", "b"),
        ("C isn't right; B is", "b"),
        # ambiguous, negated, or no choice
        ("B is incorrect", None),
        ("(a) sky is wrong; (b) is right", None),
        ("A. sky is wrong. B. blood is right.", None),
        ("(a) Sky isn't red, but (b) is", None),
        ("It can't be B", None),
        ("A. sky\nB. blood\nC. grass", None),
        ("\u0131", None),
        ("Both A and B", None),
        ("A and B", None),
        ("A, C", None),
        ("A/B", None),
        ("not B", None),
        ("The answer is not B", None),
        ("Not blood", None),
        ("A dog is red", None),
        ("The answer is a dog", None),
        ("D", None),
        ("Answer: D", None),
        ("I", None),
        ("", None),
    ],
)
def test_a_choice_is_read_as_instruct_models_write_it(text: str, expected: str | None) -> None:
    assert PARSERS["choice"](text, COLOURED) == expected


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        ("21", ("$20", "$21.00", "$22"), "b"),
        ("The answer is 21", ("20", "22", "21"), "c"),
        ("Answer: C) 21", ("20", "22", "21"), "c"),
        ("A-", ("A", "A-", "B", "B-"), "(b)"),
        ("A+", ("A", "B"), None),
        ("\uff21x", ("Ax", "\uff21x"), "b"),
        ("\u00b5", ("\u03bc", "\u00b5m", "\u00b5"), "c"),
        ("C#", ("C", "C++", "C#"), "(c)"),
        ("(a)", ("B", "A"), "(a)"),
        ("a", ("B", "A"), None),
        ("topic 27", tuple(f"topic {n}" for n in range(30)), "topic 27"),
        ("It is topic 27.", tuple(f"topic {n}" for n in range(30)), "topic 27"),
        ("b", tuple(f"topic {n}" for n in range(30)), None),
    ],
)
def test_a_choice_is_read_by_its_own_text_or_value(
    text: str, choices: tuple[str, ...], expected: str | None
) -> None:
    assert PARSERS["choice"](text, choices) == expected


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        ("The grade is A-.", ("A", "A-"), "A-"),
        ("The grade is A.", ("A", "A-"), "A"),
        ("Score: -1", ("-1", "0", "1"), "-1"),
        (" 1.", ("-1", "0", "1"), "1"),
        ("It fell by -10%.", ("10%", "-10%"), "-10%"),
        ("re sign", ("re-sign", "re sign"), "re sign"),
        ("Re-sign.", ("re-sign", "re sign"), "re-sign"),
        ("\U0001f621!", ("\U0001f600", "\U0001f621"), "\U0001f621"),
        ("I like C#.", ("C", "C#"), "C#"),
        ("C++", ("C", "C#"), None),
        ("non-positive", ("positive", "negative"), None),
        ("not positive", ("positive", "negative"), None),
        ("**Positive**", ("positive", "negative"), "positive"),
        ("positive\nBecause it is not negative", ("positive", "negative"), "positive"),
        ("The label is a", ("A", "B"), None),
        ("yes/no", ("yes", "no"), None),
    ],
)
def test_a_label_is_read_where_it_alone_is_said(
    text: str, choices: tuple[str, ...], expected: str | None
) -> None:
    assert PARSERS["label"](text, choices) == expected


PAIRS = ["A A-", "C C#", "-1 1", "< >", "m\u00b2 m2", "\u2264 \u2265", "10% -10%", "#1 1", "a A"]


PAIRS += ["\U0001f600 \U0001f621", "re-sign re_sign", "+ -", "x. x", "'x' x", "yes Yes", "* **"]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("parser", ["label", "choice"])
def test_labels_that_look_alike_stay_different(pair: str, parser: str) -> None:
    labels = tuple(pair.split())
    if (pair, parser) == ("a A", "choice"):
        assert read_gold("choice", "A", labels) is None  # the letter of one, the text of another
        return
    for one in labels:
        assert answers_match(parser, one, [one], labels)
        for other in set(labels) - {one}:
            assert not answers_match(parser, one, [other], labels)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # what is said of a choice is not what is chosen
        ("C is green. So B.", "b"),
        ("A is blue. B is red. So B", "b"),
        ("A is blue, so not A. Hence B.", "b"),
        ("A seems right, but B is better", "b"),
        ("You might think the answer is A, but it is B", "b"),
        ("Since A is blue and C is green, B is the one", "b"),
        ("Eliminate A and C, leaving B", "b"),
        ("It is not A or C, so B", "b"),
        ("B, not A", "b"),
        ("B (not A)", "b"),
        ("B rather than A", "b"),
        ("A? No. B.", "b"),
        ("blood rather than the sky", "b"),
        ("I'm not sure, but I'd say B", "b"),
        # not chosen
        ("I don't think it's B", None),
        ("I don't think the answer is B", None),
        ("The answer is not obviously A", None),
        ("All except B", None),
        ("anything but B", None),
        ("neither A nor B is correct", None),
        # more than one reading
        ("B; C", None),
        ("B, or maybe C", None),
        ("B. sky", None),
        ("The answer is (B) sky.", None),
        ("sky (B)", None),
        ("Vitamin C", None),
    ],
)
def test_a_choice_is_what_a_text_comes_to(text: str, expected: str | None) -> None:
    assert PARSERS["choice"](text, COLOURED) == expected
    assert read_answer("choice", f" Hm. The answer is {text}", Template(), COLOURED) == expected


INTENTS = ("card", "card_arrival", "card_arrival_late")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is card arrival late.", "card_arrival_late"),
        ("a card-arrival problem", "card_arrival"),
        ("about the card, not the arrival", "card"),
        ("card arrival or card", None),
        ("card_arrival, not card", "card_arrival"),
    ],
)
def test_a_label_that_begins_another_is_not_read_within_it(text: str, expected: str | None) -> None:
    assert PARSERS["label"](text, INTENTS) == expected
    letter = None if expected is None else "abc"[INTENTS.index(expected)]
    assert PARSERS["choice"](text, INTENTS) == letter


@pytest.mark.parametrize(
    "text",
    ["It doesn't seem positive", "not very positive", "far from positive", "nothing positive"],
)
def test_a_negated_label_is_not_read(text: str) -> None:
    assert PARSERS["label"](text, ("positive", "negative")) is None


PLACES = ("desk", "bank", "office", "dogs", "new york", "hot")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # a choice that only begins a phrase
        *(("desk drawer", None), ("Desk lamp.", None), ("The answer is desk drawer.", None)),
        *(("in the desk drawer", None), ("a bank account", None), ("desk drawers", None)),
        *(("hot dog stand", None), ("office supplies", None), ("dogs' owner", None)),
        *(("desk-lamp", None), ("the office's door", None), ("no desk", None)),
        *(("lack of dogs", None),),
        # a choice, and what is said of it
        *(("desk because", "a"), ("desk, drawer", "a"), ("the desk usually", "a")),
        *(
            ("desk fits best", "a"),
            ("desk today", "a"),
            ("desk option", "a"),
            ("Desk.\nDrawer", "a"),
        ),
        *(("New York City", "e"), ("dogs barking", "d"), ("desk found outside", "a")),
        *(("He went to the desk yesterday", "a"), ("hot weather", "f"), ("(A) desk drawer", "a")),
        *(("desk\n\nExplanation: it is", "a"), ("No, desk", "a"), ("'desk' drawer", "a")),
    ],
)
def test_a_choice_that_begins_a_longer_phrase_is_not_the_answer(
    text: str, expected: str | None
) -> None:
    assert PARSERS["choice"](text, PLACES) == expected


SAID = (
    "{}",
    "The answer is {}.",
    "It is {} because people go there",
    "{} is where it is",
    "{} - it is common",
    "a {} would make the most sense",
    "{} seems right",
    "{} would be best",
    "{} contains many of them",
    "{} while others do not",
    "The {} option",
    "{} works best here",
    "{} holding many things",
    "{} used by people",
    "{} at the corner",
    "{}, of course",
    "{} (it is common)",
)


@pytest.mark.parametrize("said", SAID)
def test_no_reading_is_lost_to_longer_phrases(said: str) -> None:
    for letter, place in zip("abcdef", PLACES, strict=True):
        assert PARSERS["choice"](said.format(place), PLACES) == letter


def test_a_bare_letter_that_is_the_text_of_another_choice_is_ambiguous() -> None:
    for text in ("A", "The answer is A", "A because"):
        assert PARSERS["choice"](text, ("B", "A", "C")) is None
    assert PARSERS["choice"]("option A", ("B", "A", "C")) == "(a)"
