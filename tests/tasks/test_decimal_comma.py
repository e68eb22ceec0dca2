"""Numbers with a decimal comma."""

import pytest

from adapt_jax.tasks.answers import PARSERS, answers_match, read_answer, read_gold
from adapt_jax.tasks.answers.decimal_comma import has_decimal_comma
from adapt_jax.tasks.answers.tolerance import Tolerance
from adapt_jax.tasks.templates import Template

COMMA = "decimal_comma"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3,5", "3,5"),
        ("-0,75 kg", "-0,75"),
        ("1.234,50 €", "1234,5"),
        ("1.234", "1234"),
        ("1,234", "1,234"),
        ("64\u202f990,75", "64990,75"),
        ("12 345,6", "12345,6"),
        ("12 345 678", "12345678"),
        # what can be nothing but English is read so
        ("3.5", "3,5"),
        ("1,234.50", "1234,5"),
        ("1,5 Mio. Euro", "1500000"),
        ("2,5 Mrd", "2500000000"),
        ("1,5 · 10^3", "1500"),
        ("1/2", "0,5"),
        # several numbers, dates, and what is a billion in one language and more in others
        *((text, None) for text in ("3,5,7", "1 234", "12.03.2024", "3,5 bis 4", "5 à 6")),
        *((text, None) for text in ("5 und 6", "1.234,5.6", "3 Billionen", "2 billion")),
    ],
)  # fmt: skip
def test_numbers_with_a_decimal_comma_are_read_whole_or_not_at_all(
    text: str, number: str | None
) -> None:
    assert read_gold(COMMA, text) == number
    assert PARSERS[COMMA](text) == number
    if number is not None:
        assert read_gold(COMMA, number) == number, "the canonical form is read as itself"
        assert read_answer(COMMA, f"Das sind {text}.", Template()) == number


def test_a_thousand_and_a_decimal_are_never_the_same_number() -> None:
    assert answers_match(COMMA, "3,50", ["3,5"])
    assert answers_match(COMMA, "1234", ["1.234"])
    assert not answers_match(COMMA, "1,234", ["1.234"])
    assert not answers_match(COMMA, "1,234", ["1234"])
    assert answers_match(COMMA, "3,51", ["3,5"], (), Tolerance(0.01))


def test_a_comma_that_groups_thousands_is_no_decimal_comma() -> None:
    assert [has_decimal_comma(text) for text in ("3,5", "1.234,50", "0,1234", "1,234", "1,2,3", "5")
            ] == [True, True, True, False, False, False]  # fmt: skip
