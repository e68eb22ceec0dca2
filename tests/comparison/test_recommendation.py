"""Which rung is enough: the cheapest that is not significantly below the most accurate one."""

import random

import pytest
from made_results import done_rung

from adapt_jax.comparison import recommendation
from adapt_jax.comparison.recommendation import find_reference
from adapt_jax.evaluation.results import Baseline
from adapt_jax.evaluation.significance import paired_p_value


def recommend(rungs, correct, *baseline):
    """The recommendation among rungs of one seed."""
    by_seed = {name: [scores] for name, scores in correct.items()}
    return recommendation.recommend(rungs, by_seed, *baseline)


def paired_delta(method, scores, other):
    return recommendation.paired_delta(method, [scores], [other])


def answers(accuracy: float, n: int = 200, seed: int = 0) -> list[bool]:
    """Exactly this share of right answers, at places of their own."""
    correct = [True] * round(accuracy * n) + [False] * (n - round(accuracy * n))
    random.Random(seed).shuffle(correct)
    return correct


def ladder(**rungs):
    """Rungs (accuracy, tokens, trained parameters) and their right answers."""
    correct = {name: answers(one[0], seed=n) for n, (name, one) in enumerate(rungs.items())}
    measured = [
        done_rung(name, correct[name], prompt_tokens=float(tokens), generated_tokens=0.0,
                  trainable_parameters=trained)
        for name, (_, tokens, trained) in rungs.items()
    ]  # fmt: skip
    return measured, correct


def test_the_most_accurate_is_enough_where_every_cheaper_one_is_far_below():
    rungs, correct = ladder(zero_shot=(0.1, 10, 0), few_shot=(0.5, 90, 0), lora=(0.9, 10, 500))
    found = recommend(rungs, correct)
    assert (found.method, found.most_accurate) == ("lora", "lora")
    assert [test.method for test in found.tests] == ["zero_shot", "few_shot"]
    assert all(test.significant and test.difference < 0 for test in found.tests)
    assert found.sentence.startswith(
        "lora is enough: its 90.0 % is the highest accuracy, and every"
    )


def test_a_cheaper_one_that_is_not_significantly_below_is_enough():
    rungs, correct = ladder(few_shot=(0.5, 90, 0), lora=(0.9, 10, 500), fine_tuning=(0.92, 9, 9000))
    found = recommend(rungs, correct)
    assert (found.method, found.most_accurate) == ("lora", "fine_tuning")
    assert "the 92.0 % of fine_tuning (difference -2.0 points" in found.sentence
    assert "over 2 tests" in found.sentence and "\n" not in found.sentence
    assert found.sentence.count(". ") == 0  # one sentence


def test_dearer_rungs_below_are_not_tested():
    rungs, correct = ladder(zero_shot=(0.9, 10, 0), few_shot=(0.8, 90, 0), lora=(0.85, 10, 500))
    found = recommend(rungs, correct)
    assert found.method == found.most_accurate == "zero_shot" and found.tests == []
    assert found.sentence.endswith("is the highest accuracy, and none is cheaper.")


def test_of_equals_the_cheaper_one_is_the_most_accurate():
    correct = {name: answers(0.5) for name in ("few_shot", "zero_shot", "lora")}
    rungs = [
        done_rung("few_shot", correct["few_shot"], generated_tokens=9.0),
        done_rung("zero_shot", correct["zero_shot"], generated_tokens=3.0),
        done_rung("lora", correct["lora"], generated_tokens=1.0, trainable_parameters=5),
    ]
    assert recommend(rungs, correct).most_accurate == "zero_shot"


def test_the_correction_counts_the_tests_that_are_made():
    """A difference that one test finds and that six tests together do not."""
    n = 100
    best = [True] * 90 + [False] * 10
    below = [True] * 82 + [False] * 18  # eight lost: p = 0.0078
    names = ["a", "b", "c", "d", "e", "f", "g"]
    one = recommend(
        [done_rung("a", below), done_rung("best", best, trainable_parameters=9)],
        {"a": below, "best": best},
    )
    assert one.method == "best" and one.tests[0].p_value_holm == one.tests[0].p_value
    many = recommend(
        [
            *(done_rung(name, below, trainable_parameters=k) for k, name in enumerate(names)),
            done_rung("best", best, trainable_parameters=99),
        ],
        dict.fromkeys(names, below) | {"best": best},
    )
    p_value = paired_p_value(best, below)
    assert len(best) == n and p_value == pytest.approx(0.0078125)
    assert all(test.p_value_holm == pytest.approx(7 * p_value) for test in many.tests)
    assert many.method == "a" and not any(test.significant for test in many.tests)


def test_nothing_is_recommended_where_nothing_ran_or_nothing_was_read():
    assert recommend([], {}) is None
    wrong = [False] * 4
    rung = done_rung("zero_shot", wrong, abstained=1.0)
    sentence = recommend([rung], {"zero_shot": wrong}).sentence
    assert sentence == "No rung is enough: no answer of any rung could be read."


LABEL = Baseline(label="billing", accuracy=0.35, n=200)


def test_no_rung_is_enough_where_none_is_significantly_above_the_commonest_label():
    label = answers(0.35, seed=9)
    rungs, correct = ladder(zero_shot=(0.2, 10, 0), lora=(0.36, 10, 500))
    found = recommend(rungs, correct, LABEL, label)
    assert found.sentence == (
        "No rung is enough: the highest accuracy, the 36.0 % of lora, is not significantly above "
        "the 35.0 % of always answering \"billing\" (McNemar's test with Holm's correction over 2 "
        "tests)."
    )
    assert found.method == "lora"
    # as little where all are significantly below it
    rungs, correct = ladder(zero_shot=(0.05, 10, 0), lora=(0.2, 10, 500))
    found = recommend(rungs, correct, LABEL, label)
    assert (
        not found.is_enough and "the 20.0 % of lora, is not significantly above" in found.sentence
    )
    rungs, correct = ladder(zero_shot=(0.0, 10, 0))
    found = recommend(rungs, correct)
    assert found.sentence == "No rung is enough: no question was answered right."
    assert found.method == "zero_shot"


def test_a_cheaper_rung_that_the_commonest_label_reaches_is_not_enough():
    """So few questions that zero_shot is significantly below neither of them."""
    label = [True] * 10 + [False] * 30
    correct = {"zero_shot": [True] * 12 + [False] * 28, "lora": [True] * 17 + [False] * 23}
    rungs = [
        done_rung("zero_shot", correct["zero_shot"]),
        done_rung("lora", correct["lora"], trainable_parameters=5),
    ]
    baseline = Baseline(label="billing", accuracy=0.25, n=40)
    assert recommend(rungs, correct).method == "zero_shot"
    found = recommend(rungs, correct, baseline, label)
    assert found.method == "lora"
    assert found.sentence.endswith(
        'over 1 test), or not significantly above the 25.0 % of always answering "billing".'
    )
    # and where the commonest label is far below both, the cheaper one is enough again
    found = recommend(rungs, correct, baseline, [False] * 40)
    assert found.method == "zero_shot"
    assert (
        "it is the cheapest rung that is significantly above the 25.0 % of always answering "
        '"billing" and not significantly below the highest accuracy, the 42.5 % of lora'
    ) in found.sentence


def test_a_rung_without_one_readable_answer_is_not_enough():
    right = [True] * 2 + [False] * 3  # so few that nothing is significant
    rungs = [
        done_rung("zero_shot", [False] * 5, abstained=1.0, generated_tokens=1.0),
        done_rung("lora", right, generated_tokens=1.0, trainable_parameters=5),
    ]
    found = recommend(rungs, {"zero_shot": [False] * 5, "lora": right})
    assert found.method == found.most_accurate == "lora"
    assert not found.tests[0].significant
    assert found.sentence.endswith("over 1 test), or not clearly above 5 %.")


def test_a_rung_that_answers_hardly_a_question_right_is_not_enough():
    """As measured with SmolLM2-135M on 100 questions of MultiArith: 0, 1, 4 and 2 % right."""

    def first_right(count: int) -> list[bool]:
        return [True] * count + [False] * (100 - count)

    correct = {"zero_shot": first_right(0), "few_shot": first_right(1), "lora": first_right(4)}
    rungs = [
        done_rung(name, found, trainable_parameters=5 * (name == "lora"))
        for name, found in correct.items()
    ]
    assert recommend(rungs, correct).sentence == (
        "No rung is enough: the highest accuracy, the 4.0 % of lora, is not clearly above 5 % "
        "(95 % interval 1.6 to 9.8)."
    )
    assert not recommend(rungs, correct).is_enough
    # with more right answers a rung is of use, and not the cheaper one that has none
    correct["lora"] = first_right(12)
    rungs[2] = done_rung("lora", correct["lora"], trainable_parameters=5)
    assert recommend(rungs, correct).method == "lora"
    correct["few_shot"] = [False] * 50 + [True] * 11 + [False] * 39
    rungs[1] = done_rung("few_shot", correct["few_shot"])
    assert recommend(rungs, correct).method == "few_shot"


def test_half_of_few_questions_is_of_use_and_a_score_near_0_is_not():
    right = [True] * 5 + [False] * 5
    found = recommend([done_rung("few_shot", right)], {"few_shot": right})
    assert found.is_enough and found.method == "few_shot"
    # graded scores that are all a little above 0
    scores = [0.01, 0.02, 0.03] * 20
    rung = done_rung("few_shot", [False] * 60).model_copy(
        update={"scorer": "rouge_l", "score": 0.02, "score_ci95": (0.018, 0.022)}
    )
    found = recommend([rung], {"few_shot": scores})
    assert found.sentence == (
        "No rung is enough: the highest mean rouge_l, the 2.0 of few_shot, is not clearly above 5 "
        "(95 % interval 1.8 to 2.2)."
    )


def test_the_reference_is_named_or_the_highest_below_that_trains_nothing():
    rungs = [
        done_rung("zero_shot", [True]),
        done_rung("few_shot", [True]),
        done_rung("lora", [True], trainable_parameters=3),
    ]
    assert find_reference(rungs, None) == "few_shot"
    assert find_reference(rungs, "zero_shot") == "zero_shot"
    assert find_reference(rungs, "fine_tuning") is None  # it did not run below
    assert find_reference([], None) is None


def test_a_delta_is_positive_where_the_rung_is_better():
    delta = paired_delta("few_shot", [True] * 8 + [False] * 2, [True] * 4 + [False] * 6)
    assert delta.difference == pytest.approx(0.4) and delta.p_value == pytest.approx(0.125)
    assert delta.ci95[0] < 0.4 < delta.ci95[1] and delta.method == "few_shot"
