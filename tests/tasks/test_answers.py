"""Answer parsers: one canonical form for every way to write an answer (traps 20 and 21)."""

import json
from pathlib import Path

import pytest

from adapt_jax.tasks.answers import PARSERS, read_answer
from adapt_jax.tasks.templates import Template


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("18", "18"),
        (" 18.", "18"),
        ("$18", "18"),
        ("$1,234.50.", "1234.5"),
        ("18.0", "18"),
        ("-3", "-3"),
        ("\u22123 degrees", "-3"),
        ("-$3.50", "-3.5"),
        ("$-3.50", "-3.5"),
        ("€ 7", "7"),
        ("1/2", "0.5"),
        ("2/6", "1/3"),
        ("-1/3", "-1/3"),
        ("3 1/2 cups", "3.5"),
        (".25", "0.25"),
        ("50%", "50"),
        ("18 apples in 3 bags", "18"),
        ("**18**", "18"),
        ("5 + 3 = 8 apples.", "8"),
        ("16-3-4=9", "9"),
        ("16-3", None),
        ("18. Then 3 + 3 = 6.", "18"),
        ("approx. 18", "18"),
        ("\n18", "18"),
        ("3,4 and 5", None),
        ("1,234,567", "1234567"),
        ("007", "7"),
        ("-0.0", "0"),
        ("1e-05", "0.00001"),
        ("1e999999999", None),
        ("1/0", None),
        ("9" * 5000, None),
        ("many", None),
        ("", None),
    ],
)
def test_number_reads_one_exact_value(text: str, expected: str | None) -> None:
    assert PARSERS["number"](text, ()) == expected
    if expected is not None:
        assert PARSERS["number"](expected, ()) == expected  # canonical stays canonical


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("b", "b"),
        ("(b)", "b"),
        (" (B).", "b"),
        ("B. because it is red", "b"),
        ("b) blood", "b"),
        ("option b", "b"),
        ("blood", "b"),
        ("It is the blood, I think.", "b"),
        ("surely (b), for (b) is red", "b"),
        ("(b), for (a) is blue", "b"),
        ("(a) or (b)", None),
        ("sky and blood", None),
        ("a dog", None),
        ("(d)", None),
        ("bloody", None),
    ],
)
def test_choice_reads_letters_and_the_choices_themselves(text: str, expected: str | None) -> None:
    assert PARSERS["choice"](text, ("sky", "blood", "the sky")) == expected


def test_choice_prefers_the_longer_of_two_choices_that_overlap() -> None:
    assert PARSERS["choice"]("in New York", ("York", "New York")) == "b"
    assert PARSERS["choice"]("it is 1.5", ("1", "1.5")) == "b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("card_arrival", "card_arrival"),
        (" Card arrival.", "card_arrival"),
        ("refund not showing up", "Refund_not_showing_up"),
        ("about the card-arrival, surely", "card_arrival"),
        ("card_arrival or Refund_not_showing_up", None),
        ("age limit", None),
    ],
)
def test_label_gives_the_choice_in_its_own_spelling(text: str, expected: str | None) -> None:
    assert PARSERS["label"](text, ("card_arrival", "Refund_not_showing_up")) == expected


def test_label_without_choices_is_the_folded_first_line() -> None:
    assert PARSERS["label"](" Very_Positive.\nBecause", ()) == "very positive"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", "yes"),
        ("no, although some say yes", "no"),
        ("The evidence says maybe", "maybe"),
        ("It may be yes or no", None),
        ("nothing known", None),
        ("The answer is not yes.", None),
        ("It isn't no but yes", "yes"),
        ("\u201cYes\u201d\u2014definitely", "yes"),
        ("Yes and no", None),
        ("yes/no", None),
        ("No, yes", None),
        ("Maybe yes", None),
        ("maybe not", "maybe"),
        ("No doubt, yes", "yes"),
        ("No one knows", None),
        ("Yes? No.", "no"),
        ("Yes, no doubt", "yes"),
        ("No evidence was found", "no"),
    ],
)
def test_yes_no_reads_the_first_word_or_the_only_one(text: str, expected: str | None) -> None:
    assert PARSERS["yes_no"](text, ()) == expected


def test_text_folds_case_and_white_space_of_the_first_line() -> None:
    assert PARSERS["text"]("  The  Red\tSea.\nIt is", ()) == "the red sea"
    assert PARSERS["text"]("11/22/2001", ()) == "11/22/2001"
    assert PARSERS["text"](" \n", ()) is None


@pytest.mark.parametrize(
    "text",
    ["**Paris**", "**Paris.**", '"Paris".', "`Paris`", "**'Paris'**.", "\\boxed{Paris}", "_Paris_"]
    + ["So $\\boxed{\\text{Paris}}$", "\u201cParis\u201d"],
)
def test_emphasis_and_quotes_are_no_part_of_a_text(text: str) -> None:
    assert PARSERS["text"](text, ()) == "paris"
    assert PARSERS["text"]("paris", ()) == "paris"


@pytest.mark.parametrize("text", ["(0, 1)", "[0, 1]", "'a' or 'b'", "*", "don't", "5'", "''"])
def test_what_belongs_to_a_text_stays(text: str) -> None:
    assert PARSERS["text"](text, ()) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" 2 apples and 3 more are 2 + 3 = 5. The answer is 5.", "5"),
        (" The answer is $18 for 3 days.", "18"),
        (" She sold 3 of 7, so 4 are left.", "4"),
        (" I cannot say. The answer is", None),
        (" I cannot say.", None),
    ],
)
def test_read_answer_looks_behind_the_marker_or_at_the_last_number(
    text: str, expected: str | None
) -> None:
    assert read_answer("number", text, Template()) == expected


def test_read_answer_gives_the_choices_to_the_parser() -> None:
    text = " Blood is red. The answer is blood."
    assert read_answer("choice", text, Template(), ("sky", "blood")) == "b"


def test_grades_of_recorded_generations_are_those_of_their_authors(shared: Path) -> None:
    """GSM8K's 1,319 x 4 generations, labelled correct or not: all 5,276 labels agree."""
    template = Template(answer="\nA: {answer}", answer_with_reasoning="{reasoning}\nA: {answer}")
    recorded = shared / "data" / "gsm8k" / "example_model_solutions.jsonl"
    agreed = total = 0
    for line in recorded.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        truth = read_answer("number", row["ground_truth"], template)
        assert truth is not None
        for generation in (value for value in row.values() if isinstance(value, dict)):
            answer = read_answer("number", generation["solution"], template)
            agreed += (answer == truth) == generation["is_correct"]
            total += 1
    assert (agreed, total) == (5276, 5276)
