"""Demonstrations: they cover labels and categories, differ, fit, and are not the question asked."""

from collections import Counter

import pytest

from adapt_jax.methods.chain_of_thought import ChainOfThought
from adapt_jax.methods.few_shot import FewShot
from adapt_jax.prompting.demonstration_options import DemonstrationOptions
from adapt_jax.prompting.demonstration_selectors import SELECTORS
from adapt_jax.prompting.demonstrations import select_demonstrations
from adapt_jax.prompting.prompt import MethodNotApplicable
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.utils.config import validate
from adapt_jax.utils.errors import UserError

LABELS = ("refund", "delivery", "complaint")


def labelled(answers: list[str]) -> Task:
    rows = [Example(str(n), f"text {n}", a, choices=LABELS) for n, a in enumerate(answers)]
    return Task("t", rows, (), [Example("x", "asked", "refund", choices=LABELS)], parser="label")


def select(task: Task, count: int, seed: int = 0, fits=lambda shown: True, reasoning=False, **how):
    options = DemonstrationOptions(count=count, **how)
    return select_demonstrations(task, options, seed=seed, reasoning=reasoning, fits=fits)


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


def test_a_number_is_the_count_and_named_examples_are_fixed():
    assert DemonstrationOptions.model_validate(8) == DemonstrationOptions(count=8)
    assert DemonstrationOptions.model_validate({"ids": ["a"]}).select == "fixed"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"select": "nearby"}, "unknown selection 'nearby'; did you mean 'nearest'"),
        ({"select": "nearest", "similarity": "bm52"}, "unknown similarity 'bm52'"),
        ({"select": "random", "ids": ["1"]}, "belong to `select: fixed`, and select is random"),
        ({"select": "fixed"}, "belong to `select: fixed`, and there are none"),
        ({"select": "random", "diversity": 0.5}, "diversity needs"),
        ({"count": 0}, "greater than 0"),
        ({"count": True}, "valid integer"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, line):
    with pytest.raises(UserError) as told:
        validate(FewShot, {"demonstrations": options}, "few_shot")
    assert line in str(told.value) and "\n" not in str(told.value)


def test_an_option_that_is_left_out_keeps_the_default_of_its_method():
    method = validate(ChainOfThought, {"demonstrations": {"select": "random"}}, "x")
    assert method.demonstrations.count == 4
    method = validate(FewShot, {"demonstrations": {"select": "random"}}, "x")
    assert method.demonstrations.count == 8


def test_random_demonstrations_depend_on_the_seed_alone():
    task = labelled(["refund"] * 30)
    sets = {tuple(one.question for one in select(task, 5, n, select="random")) for n in range(6)}
    assert len(sets) == 6
    assert select(task, 5, 3, select="random") == select(task, 5, 3, select="random")


@pytest.mark.parametrize("seed", range(4))
def test_balanced_demonstrations_hold_each_label_as_often(seed):
    task = labelled(["refund"] * 40 + ["delivery"] * 5 + ["complaint"] * 2)
    shown = Counter(one.answer for one in select(task, 6, seed, select="balanced"))
    assert shown == {"refund": 2, "delivery": 2, "complaint": 2}
    shown = Counter(one.answer for one in select(task, 9, seed, select="balanced"))
    assert shown["complaint"] == 2  # there are no more
    few = select(task, 6, seed, fits=lambda shown: len(shown) <= 3, select="balanced")
    assert {one.answer for one in few} == set(LABELS)


def test_fixed_demonstrations_are_shown_in_their_order():
    task = labelled(["refund"] * 3 + ["delivery"])
    own = [{"question": "mine", "answer": "complaint"}]
    shown = select(task, 8, select="fixed", ids=["3", "0"], examples=own)
    assert [one.question for one in shown] == ["text 3", "text 0", "mine"]
    assert shown[2].choices == LABELS  # those of the task
    with pytest.raises(UserError, match="'x' is in the test or development split"):
        select(task, 8, select="fixed", ids=["x"])
    with pytest.raises(UserError, match="no training example has the id '33'"):
        select(task, 8, select="fixed", ids=["33"])
    own = [{"question": " Asked ", "answer": "refund"}]
    with pytest.raises(UserError, match="'inline-1' is in the test or development split"):
        select(task, 8, select="fixed", examples=own)
    with pytest.raises(UserError, match="has no reasoning to show"):
        select(task, 8, select="fixed", ids=["0"], reasoning=True)


def test_diverse_demonstrations_are_unlike_each_other_and_typical():
    rows = [Example(f"a{n}", f"How many apples has Jane {n}?", "1") for n in range(6)]
    rows += [Example(f"b{n}", f"Which city is north of Paris {n}?", "1") for n in range(6)]
    rows.append(Example("odd", "Zebra quartz vexes jumping gnomes", "1"))
    task = Task("t", rows, (), [Example("x", "asked", "1")])
    for seed in range(3):
        shown = select(task, 2, seed, select="diverse")
        assert {one.question[0] for one in shown} == {"H", "W"}  # one of each kind
        assert len({one.question for one in select(task, 5, seed, select="diverse")}) == 5


def test_a_token_budget_is_kept_in_whole_examples(tiny):
    rows = [Example(str(n), f"What is {n} plus {n}? " * (1 + n % 3), str(2 * n)) for n in range(20)]
    task = Task("t", rows, (), [Example("x", "asked", "1")])
    for how in ("varied", "random", "balanced", "diverse"):
        lengths = []
        for budget in (60, 120):
            options = {"count": 8, "select": how, "max_tokens": budget}
            prompt = FewShot(demonstrations=options, max_new_tokens=8).build_prompt(tiny, task, 0)
            spent = len(tiny.encode(prompt.text)) - len(tiny.encode(""))
            assert 0 < spent <= budget
            lengths.append(spent)
        assert lengths[0] < lengths[1]
    with pytest.raises(MethodNotApplicable, match="or max_tokens: 3"):
        FewShot(demonstrations={"max_tokens": 3}).build_prompt(tiny, task, 0)


def test_a_selector_of_ones_own_is_registered():
    @SELECTORS.register("shortest")
    def select_shortest(context):
        return context.take_fitting(sorted(context.pool, key=lambda one: len(one.question)))

    try:
        rows = [Example(str(n), "x" * (20 - n), "1") for n in range(9)]
        task = Task("t", rows, (), [Example("q", "asked", "1")])
        assert [len(one.question) for one in select(task, 2, select="shortest")] == [12, 13]
    finally:
        del SELECTORS._entries["shortest"]
