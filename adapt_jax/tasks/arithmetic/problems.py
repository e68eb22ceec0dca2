"""Arithmetic word problems of one to four steps, in the manner of the few-shot papers.

A problem is a text with markers (<n0> a name, <o0> an object, <he0> a pronoun) that are filled
last. The text before filling, the *skeleton*, is a problem without its names and
objects; its hash decides the split, so that no test problem occurs anywhere else, whatever the
seeds.
"""

import random
import re
import zlib
from dataclasses import dataclass, field

from adapt_jax.tasks.arithmetic import words

__all__ = ["MAX_NUMBER", "Problem", "Step", "draw_from", "draw_problem"]

# the splits of the first of twenty parts of the skeletons; the rest is train
HELD_OUT_PARTS = ("test", "test", "development")
MAX_NUMBER = 200  # no number in a problem or its solution is larger


@dataclass(frozen=True)
class Step:
    """One operation of a solution: left op right = result, and what happened there."""

    left: int
    operation: str
    right: int
    event: str  # the verb of the text, for the narrating voices: "bought", "gave away", ...

    @property
    def result(self) -> int:
        """The result of the operation."""
        if self.operation == "+":
            return self.left + self.right
        if self.operation == "-":
            return self.left - self.right
        return self.left * self.right if self.operation == "*" else self.left // self.right


@dataclass
class Problem:
    """A question with its steps, in markers; ``fill`` puts names and objects in."""

    skeleton: str
    steps: list[Step]
    answer: int
    unit: str  # marker or word for what the answer counts
    fillings: dict[str, str]

    @property
    def split(self) -> str:
        """Where a problem of this skeleton belongs: test, development or train."""
        part = zlib.crc32(self.skeleton.encode()) % 20
        return HELD_OUT_PARTS[part] if part < len(HELD_OUT_PARTS) else "train"

    def fill(self, text: str) -> str:
        """Text with its markers replaced, and sentences that begin with a pronoun capitalised."""
        text = re.sub(r"<\w+>", lambda marker: self.fillings[marker[0]], text)
        return re.sub(r"(^|[.?!] )([a-z])", lambda found: found[1] + found[2].upper(), text)

    @property
    def question(self) -> str:
        """The question as a person reads it."""
        return self.fill(self.skeleton)


@dataclass
class _Draft:
    """A story under way: what was said, and how many there are now."""

    rng: random.Random
    sentences: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    count: int = 0
    last: str = ""
    priced: bool = False

    def say(self, *choices: str) -> None:
        self.sentences.append(self.rng.choice(choices))

    def step(self, left: int, operation: str, right: int, event: str) -> int:
        self.steps.append(Step(left, operation, right, event))
        return self.steps[-1].result


def _draw_fillings(rng: random.Random) -> dict[str, str]:
    """Names, pronouns and objects for every marker."""
    filled: dict[str, str] = {}
    people = rng.sample([(n, "she", "her", "her") for n in words.SHE]
                        + [(n, "he", "him", "his") for n in words.HE], 3)  # fmt: skip
    for index, (name, he, him, his) in enumerate(people):
        filled |= {f"<n{index}>": name, f"<he{index}>": he, f"<him{index}>": him}
        filled[f"<his{index}>"] = his
    for index, plural in enumerate(rng.sample(sorted(words.OBJECTS), 3)):
        filled |= {f"<o{index}>": plural, f"<s{index}>": words.OBJECTS[plural]}
    boxes = rng.choice(sorted(words.CONTAINERS))
    filled |= {"<boxes>": boxes, "<box>": words.CONTAINERS[boxes]}
    filled |= dict(zip(("<c0>", "<c1>"), rng.sample(words.COLORS, 2), strict=True))
    filled |= {"<friends>": rng.choice(words.FRIENDS), "<place>": rng.choice(words.PLACES)}
    return filled


def _draw_number(rng: random.Random, low: int, high: int) -> int:
    """Small numbers are more frequent than large ones."""
    return rng.randint(low, rng.choice((min(high, max(low, 12)), high)))


def _format_things(number: int, index: int = 0) -> str:
    return f"{number} <{'s' if number == 1 else 'o'}{index}>"


def _start(draft: _Draft, room: int) -> None:
    """The first sentences: how many there are, in up to ``room`` steps."""
    rng = draft.rng
    kind = rng.choice(("plain", "plain", "plain", "plain", "boxes", "colors")) if room else "plain"
    if kind == "boxes":
        boxes, each = rng.randint(2, 9), rng.randint(2, 12)
        draft.say(
            f"<n0> has {boxes} <boxes> with {each} <o0> in each <box>.",
            f"<n0> has {boxes} <boxes>. Each <box> holds {each} <o0>.",
            f"There are {each} <o0> in each of <n0>'s {boxes} <boxes>.",
        )
        draft.count = draft.step(boxes, "*", each, "in the <boxes>")
    elif kind == "colors":
        first, second = _draw_number(rng, 2, 40), _draw_number(rng, 2, 40)
        draft.say(
            f"<n0> has {first} <c0> <o0> and {second} <c1> <o0>.",
            f"<n0> has {first} <c0> and {second} <c1> <o0>.",
            f"There are {first} <c0> <o0> and {second} <c1> <o0> in <n0>'s <box>.",
        )
        draft.count = draft.step(first, "+", second, "of both colors")
    else:
        draft.count = _draw_number(rng, 2, 60)
        things = _format_things(draft.count)
        draft.say(
            f"<n0> has {things}.", f"<n0> had {things}.", f"<n0> starts with {things}.",
            f"At first <n0> has {things}.", f"<n0> owns {things}.",
        )  # fmt: skip
    draft.last = "start"


GAINS = ("bought", "found", "got", "received", "won")
LOSSES = ("gave away", "lost", "sold", "used")


def _add_gain(draft: _Draft) -> None:
    more = _draw_number(draft.rng, 1, min(45, MAX_NUMBER - draft.count))
    verb = draft.rng.choice(GAINS)
    then = draft.rng.choice(("", "", "Then ", "Later ", "After that "))
    if draft.rng.random() < 0.3:
        draft.say(f"{then}<n1> gave <him0> {more} more.", f"{then}<he0> got {more} more from <n1>.")
        verb = "got"
    elif draft.last == "start" and draft.rng.random() < 0.25:
        stop = draft.sentences.pop().rstrip(".")
        draft.say(f"{stop} and <he0> {verb} {more} more.")
    else:
        draft.say(f"{then}<he0> {verb} {more} more.", f"{then}<he0> {verb} {more} more <o0>.",
                  f"{then}<he0> {verb} another {more}.")  # fmt: skip
    draft.count = draft.step(draft.count, "+", more, verb)
    draft.last = "gain"


def _add_loss(draft: _Draft) -> None:
    fewer = _draw_number(draft.rng, 1, min(45, draft.count - 1))
    verb = draft.rng.choice(LOSSES)
    then = draft.rng.choice(("", "", "Then ", "Later ", "After that "))
    if verb == "gave away" and draft.rng.random() < 0.8:
        draft.say(f"{then}<he0> gave {fewer} to <n1>.", f"{then}<he0> gave <n1> {fewer} of them.")
    else:
        draft.say(f"{then}<he0> {verb} {fewer}.", f"{then}<he0> {verb} {fewer} of them.",
                  f"{then}<he0> {verb} {fewer} <o0>.")  # fmt: skip
    draft.count = draft.step(draft.count, "-", fewer, verb)
    draft.last = "loss"


def _add_packs(draft: _Draft) -> None:
    packs = draft.rng.randint(2, 6)
    each = draft.rng.randint(2, max(2, min(12, (MAX_NUMBER - draft.count) // packs)))
    draft.say(
        f"Then <he0> bought {packs} <boxes> with {each} <o0> in each.",
        f"<n1> gave <him0> {packs} <boxes> of {each} <o0> each.",
        f"<he0> got {packs} more <boxes>, each with {each} <o0>.",
    )
    more = draft.step(packs, "*", each, "in the <boxes>")
    draft.count = draft.step(draft.count, "+", more, "got")
    draft.last = "gain"


def _multiply_count(draft: _Draft) -> None:
    times = draft.rng.choice((2, 2, 3)) if draft.count * 3 <= MAX_NUMBER else 2
    word = {2: "doubled", 3: "tripled"}[times]
    draft.say(
        f"Then <he0> {word} the number of <his0> <o0>.", f"Later <his0> <o0> {word} in number."
    )
    draft.count = draft.step(draft.count, "*", times, word)
    draft.last = "gain"


def _halve_count(draft: _Draft) -> None:
    draft.say("Then <he0> gave half of them to <n1>.", "<he0> sold half of <his0> <o0>.",
              "After that <he0> lost half of them.")  # fmt: skip
    draft.count = draft.step(draft.count, "/", 2, "kept half")
    draft.last = "loss"


def _ask(draft: _Draft, room: int) -> str:
    """The question, with up to ``room`` more steps in it. Returns the unit of the answer."""
    rng, count = draft.rng, draft.count
    endings = ["now"]
    divisors = [n for n in range(2, 10) if count % n == 0 and count > n]
    if room >= 1:
        endings += ["more"] * (count <= 100) + ["fewer"] * (count > 3) + ["times"] * (count <= 40)
        endings += ["share"] * 2 * bool(divisors) + ["price"] * (count <= 24)
    if room >= 2:
        endings += ["together"] * 2 * (count <= 80)
    ending = rng.choice(endings[1:]) if room and len(endings) > 1 else "now"
    if ending == "now":
        choices = ["How many <o0> does <n0> have now?", "How many <o0> does <he0> have?"]
        if draft.last == "loss":
            choices += ["How many <o0> does <n0> have left?", "How many are left?"] * 2
        else:
            choices += ["How many <o0> does <he0> have in total?",
                        "How many <o0> does <n0> have altogether?"] * 2  # fmt: skip
        draft.say(*choices)
    elif ending in ("more", "fewer", "times"):
        if ending == "times":
            other = rng.randint(2, 4)
            draft.say(f"<n2> has {other} times as many <o0> as <n0>.")
            draft.step(count, "*", other, "as <n2> has")
        elif ending == "more":
            other = _draw_number(rng, 2, 40)
            draft.say(f"<n2> has {other} more <o0> than <n0>.")
            draft.step(count, "+", other, "as <n2> has")
        else:
            other = _draw_number(rng, 1, count - 1)
            draft.say(f"<n2> has {other} fewer <o0> than <n0>.")
            draft.step(count, "-", other, "as <n2> has")
        draft.say("How many <o0> does <n2> have?")
    elif ending == "together":
        other = _draw_number(rng, 2, 30)
        draft.say(f"<n2> has {other} more <o0> than <n0>.")
        theirs = draft.step(count, "+", other, "as <n2> has")
        draft.step(count, "+", theirs, "together")
        draft.say(
            "How many <o0> do they have together?", "How many do <n0> and <n2> have in total?"
        )
    elif ending == "share":
        parts = rng.choice(divisors)
        draft.step(count, "/", parts, "shared")
        if rng.random() < 0.5:
            draft.say(f"<he0> shares them equally among {parts} <friends>. How many does each get?")
        else:
            draft.say(f"<he0> puts them into {parts} <boxes>, the same number in each. "
                      "How many <o0> are in each <box>?")  # fmt: skip
    else:
        price = rng.randint(2, 8)
        draft.step(count, "*", price, "paid for")
        draft.say(f"<he0> sells all of them for {price} dollars each. "
                  "How many dollars does <he0> get?",
                  f"Each <s0> costs {price} dollars. "
                  "How many dollars are all of them worth?")  # fmt: skip
        return "dollars"
    return "<o0>"


def _add_distraction(draft: _Draft) -> None:
    """A sentence that has nothing to do with the question, somewhere before it."""
    rng = draft.rng
    other = _draw_number(rng, 2, 50)
    sentence = rng.choice((
        f"<n1> is {other} years old.",
        f"<n1> has {_format_things(other, 1)}.",
        "It was a sunny day.",
        f"<n0> also has {_format_things(other, 1)}.",
        "They met at the <place>.",
        f"<his0> house has {rng.randint(2, 9)} rooms.",
        f"The <place> was {other} steps away.",
    ))  # fmt: skip
    draft.sentences.insert(rng.randint(1, len(draft.sentences) - 1), sentence)


def draw_problem(rng: random.Random, steps: int | None = None) -> Problem:
    """A problem of ``steps`` steps (one to four, when not given)."""
    wanted = steps or rng.choice((1, 2, 2, 3, 3, 4))
    while True:
        draft = _Draft(rng)
        _start(draft, wanted - 1)
        closing = rng.choice((0, 0, 0, 1, 1, 2))
        while len(draft.steps) < wanted - closing:
            left = wanted - closing - len(draft.steps)
            events = [_add_gain, _add_gain, _add_gain, _add_loss, _add_loss, _add_loss]
            events += [_multiply_count] * (draft.count <= 90)
            events += [_halve_count] * (draft.count % 2 == 0)
            events += [_add_packs, _add_packs] * (left >= 2)
            if draft.count > 150:
                events = [_add_loss]
            elif draft.count < 3:
                events = [_add_gain]
            rng.choice(events)(draft)
        unit = _ask(draft, wanted - len(draft.steps))
        results = [step.result for step in draft.steps]
        if len(draft.steps) == wanted and min(results) > 0 and max(results) <= MAX_NUMBER:
            break
    if rng.random() < 0.25:
        _add_distraction(draft)
    skeleton = " ".join(draft.sentences)
    return Problem(skeleton, draft.steps, results[-1], unit, _draw_fillings(rng))


def draw_from(rng: random.Random, split: str) -> Problem:
    """The next problem whose skeleton belongs to ``split``."""
    while True:
        problem = draw_problem(rng)
        if problem.split == split:
            return problem
