"""Other kinds of instruction, besides the word problems: small skills with exact answers."""

import random
import zlib
from collections.abc import Callable

from adapt_jax.tasks.arithmetic import words

__all__ = ["KINDS", "draw_instruction"]

Drawn = tuple[str, str]  # an instruction and its answer


def _draw_expression(rng: random.Random) -> Drawn:
    a, b, c = rng.randint(2, 30), rng.randint(2, 9), rng.randint(2, 9)
    text, value = rng.choice((
        (f"{a} + {b} * {c}", a + b * c), (f"{a + b} - {b} + {c}", a + c),
        (f"{a} + {b} + {c}", a + b + c), (f"{b} * {c}", b * c), (f"({a} + {b}) - {c}", a + b - c),
    ))  # fmt: skip
    return rng.choice(("Work out {}.", "What is {}?", "Compute {}.")).format(text), str(value)


def _draw_digits(rng: random.Random) -> Drawn:
    number = rng.randint(1, 99)
    ask = rng.choice(
        ("Write the number {} in digits.", "Give {} in digits.", "Write {} as a number.")
    )
    return ask.format(words.spell_number(number)), str(number)


def _draw_in_words(rng: random.Random) -> Drawn:
    number = rng.randint(1, 99)
    ask = rng.choice(("Write the number {} in words.", "Give {} in words.", "Spell out {}."))
    return ask.format(number), words.spell_number(number)


def _draw_belongings(rng: random.Random) -> tuple[list[tuple[str, str, str]], str]:
    people = rng.sample(words.SHE + words.HE, 3)
    things = rng.sample(sorted(words.OBJECTS.values()), 3)
    owned = list(zip(people, rng.sample(words.COLORS, 3), things, strict=True))
    return owned, " ".join(f"{who} has a {color} {thing}." for who, color, thing in owned)


def _draw_owner(rng: random.Random) -> Drawn:
    owned, sentences = _draw_belongings(rng)
    who, _, thing = rng.choice(owned)
    return sentences + rng.choice((" Who has the {}?", " Name the owner of the {}.")).format(
        thing
    ), who


def _draw_belonging(rng: random.Random) -> Drawn:
    owned, sentences = _draw_belongings(rng)
    who, _, thing = rng.choice(owned)
    return sentences + rng.choice((" What does {} have?", " Name the thing that {} has.")).format(
        who
    ), thing


def _draw_color(rng: random.Random) -> Drawn:
    owned, sentences = _draw_belongings(rng)
    _, color, thing = rng.choice(owned)
    ask = rng.choice((" Which color is the {}?", " Name the color of the {}."))
    return sentences + ask.format(thing), color


def _draw_kinds(rng: random.Random) -> Drawn:
    things = rng.sample(sorted(words.OBJECTS), rng.randint(2, 6))
    who = rng.choice(words.SHE + words.HE)
    listed = ", ".join(things[:-1]) + " and " + things[-1]
    ask = rng.choice(("How many kinds of things are there?", "Count the kinds of things."))
    return f"{who} has {listed}. {ask}", str(len(things))


def _draw_words(rng: random.Random) -> list[str]:
    return rng.sample(sorted(words.OBJECTS.values()) + words.ANIMALS, rng.randint(2, 5))


def _draw_repeat(rng: random.Random) -> Drawn:
    listed = " ".join(_draw_words(rng))
    return rng.choice(("Repeat in order: {}.", "Say these words again: {}.")).format(listed), listed


def _draw_reverse(rng: random.Random) -> Drawn:
    some = _draw_words(rng)
    ask = rng.choice(("Repeat in reverse order: {}.", "Say these words backwards: {}."))
    return ask.format(" ".join(some)), " ".join(some[::-1])


def _draw_first(rng: random.Random) -> Drawn:
    some = _draw_words(rng)
    ask = rng.choice(("Name the first word: {}.", "Which word comes first: {}?"))
    return ask.format(" ".join(some)), some[0]


def _draw_last(rng: random.Random) -> Drawn:
    some = _draw_words(rng)
    ask = rng.choice(("Name the last word: {}.", "Which word comes last: {}?"))
    return ask.format(" ".join(some)), some[-1]


def _draw_larger(rng: random.Random) -> Drawn:
    one, two = rng.sample(range(1, 100), 2)
    ask = rng.choice(("Which number is larger, {} or {}?", "Name the larger number: {} or {}."))
    return ask.format(one, two), str(max(one, two))


def _draw_smaller(rng: random.Random) -> Drawn:
    one, two = rng.sample(range(1, 100), 2)
    ask = rng.choice(("Which number is smaller, {} or {}?", "Name the smaller number: {} or {}."))
    return ask.format(one, two), str(min(one, two))


def _draw_sequence(rng: random.Random) -> Drawn:
    start, step = rng.randint(1, 40), rng.randint(1, 10)
    listed = ", ".join(str(start + step * i) for i in range(3))
    ask = rng.choice(("Which number comes next: {}?", "Continue with one number: {}."))
    return ask.format(listed), str(start + 3 * step)


def _draw_parity(rng: random.Random) -> Drawn:
    number = rng.randint(1, 99)
    ask = rng.choice(("Is {} even or odd?", "Say whether {} is even or odd."))
    return ask.format(number), "odd" if number % 2 else "even"


KINDS: dict[str, Callable[[random.Random], Drawn]] = {
    "expression": _draw_expression,
    "digits": _draw_digits,
    "in_words": _draw_in_words,
    "owner": _draw_owner,
    "belonging": _draw_belonging,
    "color": _draw_color,
    "kinds": _draw_kinds,
    "repeat": _draw_repeat,
    "reverse": _draw_reverse,
    "first": _draw_first,
    "last": _draw_last,
    "larger": _draw_larger,
    "smaller": _draw_smaller,
    "sequence": _draw_sequence,
    "parity": _draw_parity,
}


def draw_instruction(rng: random.Random, kind: str, split: str = "train") -> Drawn:
    """An instruction of one kind and its answer; a tenth of them belongs to the split ``test``."""
    while True:
        instruction, answer = KINDS[kind](rng)
        in_test = zlib.crc32(instruction.encode()) % 10 == 0
        if in_test == (split == "test"):
            return instruction, answer
