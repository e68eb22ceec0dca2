"""Mistakes of the user are one short line, whatever they quote."""

import time

import pytest

from adapt_jax.utils.errors import UserError, nearest


@pytest.mark.parametrize(
    "text", ["a\nb", "a\r\nb", "a\u2028b", "\x1b[31mred", "half \ud800", "x\tb"]
)
def test_a_message_is_one_line_that_is_safe_to_show(text: str) -> None:
    said = str(UserError(f"file: {text}"))
    assert said.isprintable() and len(said.splitlines()) == 1 and said.startswith("file: ")


def test_a_message_stays_as_it_is_written_unless_it_is_long() -> None:
    assert (
        str(UserError("two  spaces, caf\u00e9 \U0001f600")) == "two  spaces, caf\u00e9 \U0001f600"
    )
    assert len(str(UserError("x" * 10**6))) <= 6_000


def test_the_nearest_of_a_huge_word_is_not_looked_for() -> None:
    started = time.process_time()
    assert nearest("ab" * 50_000, [f"key{n}" for n in range(1_000)]) == ""
    assert time.process_time() - started < 1
    assert nearest("instructon", ["instruction", "seed"]) == "; did you mean 'instruction'?"
