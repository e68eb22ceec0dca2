"""The embedded task: arithmetic word problems, other kinds of instruction, and a corpus of both."""

import random
from collections.abc import Sequence

from adapt_jax.tasks.arithmetic.instructions import KINDS, draw_instruction
from adapt_jax.tasks.arithmetic.problems import draw_from
from adapt_jax.tasks.arithmetic.reasoning import PLAIN, draw_reasoning
from adapt_jax.tasks.example import Example
from adapt_jax.utils.errors import UserError, nearest

__all__ = ["KINDS", "draw_instructions", "draw_splits"]


def draw_splits(seed: int, train: int, development: int, test: int) -> dict[str, list[Example]]:
    """Word problems with reasonings; the three splits share no skeleton (see problems.py)."""
    sizes = {"train": train, "development": development, "test": test}
    return {split: _make_examples(seed, split, size) for split, size in sizes.items()}


def _make_examples(seed: int, split: str, size: int) -> list[Example]:
    rng = random.Random(f"{seed}/{split}")
    examples: dict[str, Example] = {}
    while len(examples) < size:
        problem = draw_from(rng, split)
        question = problem.question
        if question not in examples:
            examples[question] = Example(
                id=f"{split}-{len(examples)}",
                question=question,
                answer=str(problem.answer),
                reasoning=draw_reasoning(problem, rng, rng.choice(PLAIN), regroup=0.0),
                category=f"{len(problem.steps)} steps",
            )
    return list(examples.values())


def draw_instructions(
    seed: int, kinds: Sequence[str], size: int, split: str = "train"
) -> list[Example]:
    """``size`` instructions of each kind, from the train or the test part of all instructions."""
    rng = random.Random(f"{seed}/instructions/{split}")
    examples = []
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"kind {kind!r} is not known{nearest(kind, KINDS)}")
        for number in range(size):
            question, answer = draw_instruction(rng, kind, split)
            examples.append(Example(f"{kind}-{split}-{number}", question, answer, category=kind))
    return examples
