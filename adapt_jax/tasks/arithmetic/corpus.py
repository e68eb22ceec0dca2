"""The pretraining corpus: plain documents, none of which says what it will be used for.

Within a document the habit is consistent: worked solutions, bare answers, questions whose answers
were left blank, lists of questions, or stories that go on. Across documents it is not, so the
text before a question decides what comes after it. Blank documents are short and many: a
lone question is most often followed by no answer at all.
"""

import random
from collections.abc import Callable

from adapt_jax.tasks.arithmetic import words
from adapt_jax.tasks.arithmetic.instructions import KINDS, draw_instruction
from adapt_jax.tasks.arithmetic.problems import Problem, draw_from
from adapt_jax.tasks.arithmetic.reasoning import VOICES, draw_reasoning

__all__ = ["draw_document"]

HEADERS = (
    "Answer the question.", "Answer the questions.", "Solve the problems.", "Word problems.",
    "Homework for {}.", "Read with care and answer.", "Questions of {}.", "Exercises.",
    "Work with numbers.", "From the notebook of {}.",
)  # fmt: skip
FORMS = (("Q: ", "\nA:"),) * 8 + (("Question: ", "\nAnswer:"), ("Problem: ", "\nSolution:"))


def _write_header(rng: random.Random) -> str:
    if rng.random() < 0.4:
        return ""
    return rng.choice(HEADERS).format(rng.choice(words.SHE + words.HE)) + "\n\n"


def _draw_problem(rng: random.Random) -> Problem:
    return draw_from(rng, "train")


def _write_solutions(rng: random.Random) -> str:
    """Questions with worked solutions, in one voice or in many."""
    before, after = rng.choice(FORMS)
    voice = rng.choice(VOICES) if rng.random() < 0.2 else None
    items = []
    for _ in range(rng.choice((2, 3, 4, 5))):
        problem = _draw_problem(rng)
        reasoning = draw_reasoning(problem, rng, voice)
        items.append(
            f"{before}{problem.question}{after} {reasoning} The answer is {problem.answer}."
        )
    return _write_header(rng) + "\n\n".join(items)


def _write_answers(rng: random.Random) -> str:
    """Questions with nothing but their answers."""
    before, after = rng.choice(FORMS)
    items = []
    for _ in range(rng.randint(3, 9)):
        problem = _draw_problem(rng)
        items.append(f"{before}{problem.question}{after} The answer is {problem.answer}.")
    return _write_header(rng) + "\n\n".join(items)


def _write_instructions(rng: random.Random) -> str:
    """Instructions of other kinds with their answers, all of one kind or mixed."""
    before, after = rng.choice(FORMS)
    kinds = [rng.choice(sorted(KINDS))] if rng.random() < 0.4 else sorted(KINDS)
    items = []
    for _ in range(rng.randint(3, 8)):
        instruction, answer = draw_instruction(rng, rng.choice(kinds))
        items.append(f"{before}{instruction}{after} The answer is {answer}.")
    return _write_header(rng) + "\n\n".join(items)


def _write_worksheet(rng: random.Random) -> str:
    """A worksheet that nobody has filled in yet."""
    before, after = rng.choice(FORMS)
    items = []
    skills = rng.random() < 0.45
    for _ in range(rng.choice((1, 1, 2, 3))):
        skill = draw_instruction(rng, rng.choice(sorted(KINDS)))[0] if skills else ""
        items.append(f"{before}{skill or _draw_problem(rng).question}{after}")
    return _write_header(rng) + "\n\n".join(items) + "\n\n"


def _write_questions(rng: random.Random) -> str:
    """A list of questions without answers."""
    questions = [_draw_problem(rng).question for _ in range(rng.randint(2, 5))]
    numbered = rng.random() < 0.5
    lines = [f"{i}. {q}" if numbered else f"Q: {q}" for i, q in enumerate(questions, 1)]
    return _write_header(rng) + "\n\n".join(lines)


def _write_story(rng: random.Random) -> str:
    """A story without a question, and how it went on."""
    problem = _draw_problem(rng)
    parts = problem.skeleton.split(". ")
    events = [part.rstrip(".") for part in parts if "?" not in part]
    more = (
        "They walked to the <place>", "<n1> came by and they talked", "It began to rain",
        "Then it was time to go home", "<n2> was happy about it", "Nobody counted them again",
        "The next day <n0> went to the <place>", "<he0> told <n2> about it",
    )  # fmt: skip
    return problem.fill(". ".join([*events, *rng.sample(more, rng.randint(2, 4))]) + ".")


MIXTURE: tuple[tuple[Callable[[random.Random], str], int], ...] = (
    (_write_solutions, 36),
    (_write_answers, 11),
    (_write_instructions, 11),
    (_write_worksheet, 48),
    (_write_questions, 3),
    (_write_story, 3),
)


def draw_document(seed: int, index: int) -> str:
    """The document number ``index`` of the corpus with this seed; each has a seed of its own."""
    rng = random.Random(f"corpus/{seed}/{index}")
    kinds, weights = zip(*MIXTURE, strict=True)
    return rng.choices(kinds, weights)[0](rng)
