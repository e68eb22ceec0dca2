"""Worked solutions in several voices: the same steps in different words and computations."""

import random

from adapt_jax.tasks.arithmetic.problems import Problem, Step

__all__ = ["PLAIN", "VOICES", "draw_reasoning"]

PLAIN = ("terse", "spoken", "narrated", "explained")
VOICES = (*PLAIN, "split")

SPOKEN = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
EXPLAINED = {
    "+": ("add {r} to {l}", "put {l} and {r} together"),
    "-": ("take {r} from {l}", "subtract {r} from {l}"),
    "*": ("multiply {l} by {r}", "take {l} times {r}"),
    "/": ("divide {l} by {r}", "split {l} into {r} equal parts"),
}


def _format_formula(step: Step) -> str:
    return f"{step.left} {step.operation} {step.right} = {step.result}"


def _split_operation(step: Step, rng: random.Random) -> str | None:
    """The operation in easier parts; None where it has none."""
    left, right, result = step.left, step.right, step.result
    if step.operation == "+" and left > 9 and right > 9 and rng.random() < 0.5:
        tens, ones = left // 10 * 10 + right // 10 * 10, left % 10 + right % 10
        return (f"{left // 10 * 10} + {right // 10 * 10} = {tens}, "
                f"{left % 10} + {right % 10} = {ones}, {tens} + {ones} = {result}")  # fmt: skip
    if step.operation in "+-" and right > 10 and right % 10:
        tens = right // 10 * 10
        between = left + tens if step.operation == "+" else left - tens
        return (f"{left} {step.operation} {tens} = {between}, "
                f"{between} {step.operation} {right % 10} = {result}")  # fmt: skip
    if step.operation == "*":
        small, large = sorted((left, right))
        if large > 10 and small < 10 and large % 10:
            tens, ones = small * (large // 10 * 10), small * (large % 10)
            return (f"{small} * {large // 10 * 10} = {tens}, "
                    f"{small} * {large % 10} = {ones}, {tens} + {ones} = {result}")  # fmt: skip
    if step.operation == "/":
        return f"{step.right} * {step.result} = {step.left}, so {_format_formula(step)}"
    return None


def _tell_step(step: Step, rng: random.Random, first: bool) -> str:
    """The step as part of the story."""
    event, formula = step.event, _format_formula(step)
    if event == "in the <boxes>":
        return rng.choice(
            (f"The <boxes> hold {formula} <o0>.", f"In the <boxes> are {formula} <o0>.")
        )
    if event == "of both colors":
        return rng.choice((f"There are {formula} <o0> of both colors.",
                           f"With both colors <n0> has {formula} <o0>."))  # fmt: skip
    if event == "as <n2> has":
        return rng.choice((f"So <n2> has {formula} <o0>.", f"<n2> has {formula}."))
    if event == "together":
        return rng.choice((f"Together they have {formula} <o0>.", f"Both have {formula} together."))
    if event == "shared":
        return rng.choice(
            (f"Shared equally, each gets {formula}.", f"Each part has {formula} <o0>.")
        )
    if event == "paid for":
        return rng.choice(
            (f"All of them are worth {formula} dollars.", f"That makes {formula} dollars.")
        )
    if event == "kept half":
        return rng.choice((f"Half of them leaves {formula} <o0>.", f"<he0> kept half: {formula}."))
    if event in ("doubled", "tripled"):
        return rng.choice((f"<he0> {event} them to {formula} <o0>.", f"They {event}: {formula}."))
    start = f"<n0> had {step.left} <o0>. " if first else ""
    return start + rng.choice((
        f"<he0> {event} {step.right}, so <he0> has {formula} <o0>.",
        f"After <he0> {event} {step.right} there are {formula} <o0>.",
        f"<he0> {event} {step.right}: {formula}.",
    ))  # fmt: skip


def _render_step(step: Step, voice: str, rng: random.Random, index: int, last: bool) -> str:
    """One step in one voice."""
    left, right, result = step.left, step.right, step.result
    order = "First, " if index == 0 else ("Finally, " if last and rng.random() < 0.4 else
                                          rng.choice(("Then ", "Next, ", "Now ")))  # fmt: skip
    if voice == "narrated":
        return _tell_step(step, rng, index == 0)
    if voice == "spoken":
        verb = rng.choice(("is", "makes", "gives"))
        return f"{order}{left} {SPOKEN[step.operation]} {right} {verb} {result}."
    if voice == "explained":
        how = rng.choice(EXPLAINED[step.operation]).format(l=left, r=right)
        formula = _format_formula(step)
        return rng.choice(
            (
                f"We {how}: {formula}.",
                f"{order}we {how} and get {result}.",
                f"To go on, {how}: {formula}.",
            )
        )
    if voice == "split":
        parts = _split_operation(step, rng)
        if parts is not None:
            return rng.choice((f"{parts}.", f"{order}{parts}.", f"In parts: {parts}."))
    return rng.choice((f"{_format_formula(step)}.", f"{order}{_format_formula(step)}."))


def _join_changes(steps: list[Step]) -> list[Step]:
    """The first two gains (or losses) in a row joined before they are applied."""
    for index in range(len(steps) - 1):
        one, two = steps[index], steps[index + 1]
        if one.operation == two.operation and one.operation in "+-" and two.left == one.result:
            if "together" in (one.event, two.event) or one.event == "of both colors":
                continue
            both = Step(one.right, "+", two.right, "joined")
            joined = Step(one.left, one.operation, both.result, "joined")
            return [*steps[:index], both, joined, *steps[index + 2 :]]
    return steps


def draw_reasoning(
    problem: Problem, rng: random.Random, voice: str | None = None, regroup: float = 0.3
) -> str:
    """A worked solution in one voice, or, where none is given, in one or several drawn voices.

    Steps that can be joined are, with probability ``regroup``.
    """
    steps = _join_changes(problem.steps) if rng.random() < regroup else problem.steps
    mixed = voice is None and rng.random() < 0.4
    chosen = voice or rng.choice(VOICES)
    sentences = []
    for index, step in enumerate(steps):
        now = rng.choice(VOICES) if mixed else chosen
        if step.event == "joined" and now == "narrated":
            now = "explained"
        sentences.append(_render_step(step, now, rng, index, index == len(steps) - 1))
    if rng.random() < 0.15:
        sentences.append(rng.choice((f"That is {problem.answer} {problem.unit}.",
                                f"So there are {problem.answer} {problem.unit}.")))  # fmt: skip
    return problem.fill(" ".join(sentences))
