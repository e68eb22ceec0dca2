"""Scorers and metrics: the built-in ones, and ones that are added in a few lines."""

import pytest
from made_results import Scripted, candidate, make_task, prediction

from adapt_jax.evaluation.baseline import measure_commonest_label, score_label
from adapt_jax.evaluation.evaluate import evaluate
from adapt_jax.evaluation.metrics import METRICS
from adapt_jax.evaluation.scorers import SCORERS, Score, score_answer, token_f1
from adapt_jax.prompting.prediction import Prediction
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.utils.errors import UserError


@pytest.mark.parametrize(
    ("predicted", "answer", "value", "correct"),
    [
        ("paris", "Paris", 1.0, True),
        ("the paris!", "Paris", 1.0, True),  # articles and punctuation do not count
        ("paris, france", "Paris", 2 / 3, False),  # precision 1/2, recall 1
        ("france paris", "Paris, France", 1.0, False),  # the same words in another order
        ("big big city", "big city", 0.8, False),  # a repeated word counts once
        ("london", "Paris", 0.0, False),
        ("the", "an", 1.0, True),  # nothing is left of both
        ("", "Paris", 0.0, False),
        (None, "Paris", 0.0, False),
    ],
)
def test_token_f1_is_that_of_squad(predicted, answer, value, correct):
    score = token_f1(predicted, Example("q", "?", answer), make_task(answer))
    assert score == (pytest.approx(value), correct)


def test_the_task_chooses_its_scorer():
    task = make_task("red car", "blue", scorer="token_f1")
    result = evaluate(Scripted(lambda example: "red"), task).result
    assert result.scorer == "token_f1" and result.accuracy == 0
    assert result.score == pytest.approx((2 / 3 + 0) / 2)
    exact = evaluate(Scripted(lambda example: "blue"), make_task("red car", "blue")).result
    assert (exact.scorer, exact.score, exact.accuracy) == ("exact", 0.5, 0.5)


@pytest.fixture
def registries():
    """Takes away what a test registers."""
    before = dict(SCORERS), dict(METRICS)
    yield
    SCORERS._entries, METRICS._entries = before


def test_a_scorer_and_a_metric_are_a_few_lines(registries):
    @SCORERS.register("first_letter")
    def first_letter(predicted, example, task):
        right = predicted is not None and predicted[:1] == example.answer[:1]
        return Score(float(right), right)

    @METRICS.register("mean_tokens")
    def mean_tokens(task, rows):
        return sum(row.prediction.generated_tokens for row in rows) / len(rows)

    task = make_task("red", "blue", scorer="first_letter")
    result = evaluate(Scripted(lambda example: "rose"), task).result
    assert result.accuracy == 0.5 and result.metrics == {"mean_tokens": 3.0}


def test_extensions_that_return_something_else_are_named(registries):
    SCORERS.register("none")(lambda predicted, example, task: None)
    SCORERS.register("above")(lambda predicted, example, task: Score(1.5, True))
    task = make_task("red", scorer="none")
    with pytest.raises(UserError, match="scorer 'none': expected a Score with a value from 0 to 1"):
        score_answer("red", task.test[0], task)
    task = make_task("red", scorer="above")
    with pytest.raises(UserError, match="scorer 'above': expected a Score"):
        score_answer("red", task.test[0], task)


@pytest.mark.parametrize("value", ["many", float("nan"), {"all": float("inf")}, [1.0]])
def test_a_metric_that_is_no_finite_number_is_named(registries, value):
    METRICS.register("words")(lambda task, rows: value)
    with pytest.raises(UserError, match="metric 'words': expected a finite number"):
        evaluate(Scripted(lambda example: "red"), make_task("red"))


@pytest.mark.parametrize("name", ["n", "scorer", "warnings"])
def test_a_metric_may_have_the_name_of_another_field(registries, name):
    METRICS.register(name)(lambda task, rows: 7)
    result = evaluate(Scripted(lambda example: "red"), make_task("red")).result
    assert result.metrics == {name: 7.0} and result.n == 1 and result.scorer == "exact"


def test_an_unknown_scorer_is_refused_before_anything_is_asked():
    def fail(example):
        raise AssertionError("asked")

    with pytest.raises(UserError, match="scorer: unknown scorer 'exakt'; did you mean 'exact'"):
        evaluate(Scripted(fail), make_task("red", scorer="exakt"))


def measured(*rows: Prediction):
    said = {row.example_id: row for row in rows}
    task = make_task(*["red"] * len(rows))
    return evaluate(Scripted(lambda example: said[example.id]), task).result


def test_shares_of_what_went_wrong_are_told_apart():
    result = measured(
        prediction("q0", candidate("red")),
        prediction("q1", candidate("red", "length")),  # the answer came, then no end
        prediction("q2", candidate(None, "length")),  # cut off before the answer
        prediction("q3", candidate(None, "eos")),  # ended without an answer
        prediction("q4", candidate(None, "too_long", ""), too_long=True),
    )
    assert (result.no_stop, result.cut_off, result.unreadable) == (0.25, 0.25, 0.25)
    assert (result.too_long, result.abstained, result.accuracy) == (0.2, 0.6, 0.4)
    assert len([w for w in result.warnings if "%" in w]) == 4


def test_up_to_five_percent_needs_no_words():
    fine = [prediction(f"q{n}", candidate("red")) for n in range(19)]
    one = measured(*fine, prediction("q19", candidate(None, "length")))
    assert one.cut_off == 0.05 and one.warnings == []
    two = measured(*fine[:18], *(prediction(f"q{n}", candidate(None, "length")) for n in (18, 19)))
    assert two.warnings[0] == (
        "10.0 % of the answers were cut off by max_new_tokens before the answer was stated (the "
        'first: "text"); they count as no answer'
    )


def test_no_readable_answer_at_all_is_one_warning_with_the_reasons_and_an_example():
    unread = [prediction(f"q{n}", candidate(None, "eos", "\x1b[31mUm")) for n in (0, 1)]
    result = measured(*unread, prediction("q2", candidate(None, "length", "  ")))
    [line] = result.warnings
    assert line == (
        "none of the 3 questions got an answer that can be read: 33.3 % of the answers were cut "
        "off by max_new_tokens before the answer was stated; 66.7 % of the answers ended by "
        "themselves and cannot be read by the parser 'text' (the first: \"\\x1b[31mUm\")"
    )
    [line] = measured(prediction("q0", candidate(None, "eos", ""))).warnings
    assert line.endswith("cannot be read by the parser 'text' (they are empty)")
    too_long = measured(prediction("q0", candidate(None, "too_long", ""), too_long=True))
    [line] = too_long.warnings
    assert line.startswith("none of the 1 questions") and "do not fit" in line


def test_repeated_reasonings_are_said():
    same = [candidate("red", text="because") for _ in range(4)]
    result = measured(prediction("q0", *same))
    assert result.repeat_share == 0.75
    assert any("repeat another one's reasoning" in warning for warning in result.warnings)


def test_the_commonest_label_is_a_baseline_where_there_are_labels():
    def example(name: str, answer: str) -> Example:
        return Example(name, name, answer, choices=("yes", "no", "maybe"))

    train = [example(f"t{n}", answer) for n, answer in enumerate(["no", "no", "yes"])]
    test = [example(f"q{n}", answer) for n, answer in enumerate(["yes", "no", "no", "maybe"])]
    baseline = measure_commonest_label(Task("t", train, [], test, parser="label"))
    assert (baseline.label, baseline.accuracy, baseline.n) == ("no", 0.5, 4)
    numbers = [Example(f"q{n}", "?", str(n)) for n in range(20)]
    assert measure_commonest_label(Task("t", [], [], numbers)) is None
    assert score_label(Task("t", train, [], test, parser="label"), "no") == [
        False,
        True,
        True,
        False,
    ]
    few = [Example(f"q{n}", "?", "yes" if n % 4 else "no") for n in range(20)]
    assert measure_commonest_label(Task("t", [], [], few, parser="yes_no")).accuracy == 0.75
