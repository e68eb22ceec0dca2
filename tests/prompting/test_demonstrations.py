"""Demonstrations: they cover labels and categories, differ, fit, and are not the question asked."""

import pytest

from adapt_jax.prompting.demonstrations import select_demonstrations
from adapt_jax.prompting.prompt import MethodNotApplicable
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task

LABELS = ("refund", "delivery", "complaint")


def labelled(answers: list[str]) -> Task:
    rows = [Example(str(n), f"text {n}", a, choices=LABELS) for n, a in enumerate(answers)]
    return Task("t", rows, (), [Example("x", "asked", "refund", choices=LABELS)], parser="label")


def select(task: Task, count: int, seed: int = 0, fits=lambda shown: True, reasoning=False):
    return select_demonstrations(task, count, seed=seed, reasoning=reasoning, fits=fits)


@pytest.mark.parametrize("seed", range(5))
def test_demonstrations_cover_the_labels_however_rare_they_are(seed):
    task = labelled(["refund"] * 40 + ["delivery"] * 3 + ["complaint"])
    shown = [one.answer for one in select(task, 6, seed)]
    assert set(shown[:3]) == set(LABELS) and shown.count("complaint") == 1
    assert shown == [one.answer for one in select(task, 6, seed)]


def test_categories_are_spread_and_the_question_asked_is_not_shown():
    rows = [Example(str(n), f"q {n}", str(n), category="ab"[n % 2]) for n in range(10)]
    task = Task("t", rows, (), [rows[0]])
    shown = select(task, 4)
    assert [int(one.answer) % 2 for one in shown] == [0, 1, 0, 1]
    assert "q 0" not in {one.question for one in select(task, 10)}


@pytest.mark.parametrize("seed", range(5))
def test_a_demonstration_is_unlike_those_that_are_shown_already(seed):
    rows = [Example(str(n), f"How many apples has Jane {n}?", str(n)) for n in range(9)]
    rows.append(Example("other", "The red door opens slowly.", "7"))
    shown = select(Task("t", rows, (), [Example("x", "asked", "1")]), 2, seed)
    assert "The red door opens slowly." in {one.question for one in shown}


def test_a_demonstration_that_does_not_fit_is_left_out_whole():
    task = labelled(["refund"] * 5)
    assert len(select(task, 5, fits=lambda shown: len(shown) <= 2)) == 2
    with pytest.raises(MethodNotApplicable, match="not even one demonstration fits"):
        select(task, 5, fits=lambda shown: False)
    with pytest.raises(MethodNotApplicable, match="no training example has a reasoning"):
        select(task, 5, reasoning=True)
    with pytest.raises(MethodNotApplicable, match="no training examples"):
        select(Task("t", (), (), task.test), 5)
