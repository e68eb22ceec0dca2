"""Votes: rules, ties, abstentions, and recorded reasonings voted as their authors voted them."""

import itertools
import json
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adapt_jax
from adapt_jax.prompting.voting import AdaptiveVote, needed, probability_leader_wins, should_stop
from adapt_jax.utils.errors import UserError


@dataclass
class Said:
    answer: str | None
    reasoning: str = ""
    log_probability: float | None = None


def test_a_repeat_of_the_same_reasoning_is_ignored_and_majority_counts_it():
    said = [Said("4", "two and two"), Said("4", "Two  and\ntwo"), Said("4", "two and two")]
    said += [Said("5", "count"), Said("5", "add")]
    assert adapt_jax.vote(said).answer == "5"
    assert adapt_jax.vote(said).counts == {"4": 1, "5": 2}
    assert adapt_jax.vote(said).repeats == 2
    assert adapt_jax.vote(said, rule="majority").answer == "4"


def test_ties_go_by_raw_count_then_log_probability_then_first_seen():
    said = [Said("1", "a"), Said("2", "b"), Said("2", "b")]
    assert adapt_jax.vote(said).tied_answers == ("1", "2")
    assert adapt_jax.vote(said).answer == "2"
    assert adapt_jax.vote([Said("1", "a", -9.0), Said("2", "b", -1.0)]).answer == "2"
    assert adapt_jax.vote([Said("1", "a"), Said("2", "b")]).answer == "1"


def test_all_abstaining_is_no_answer_and_no_crash():
    result = adapt_jax.vote([Said(None), Said(None)])
    assert (result.answer, result.abstained, result.counts) == (None, 2, {})


def test_weighted_votes_need_log_probabilities_and_use_them():
    said = [Said("1", "a", -5.0), Said("1", "b", -5.0), Said("2", "c", -0.1)]
    assert adapt_jax.vote(said, rule="weighted_unnormalised").answer == "2"
    assert adapt_jax.vote(said, rule="majority").answer == "1"
    with pytest.raises(UserError, match="log_probability"):
        adapt_jax.vote([Said("1", "a")], rule="weighted")


def test_the_leader_is_sure_enough_where_the_beta_posterior_says_so():
    """P(Beta(a + 1, b + 1) > 1/2): 15/16 after 3-0, 31/32 after 4-0, and so on."""
    cases = {(3, 0): 15 / 16, (4, 0): 31 / 32, (5, 1): 120 / 128, (6, 1): 247 / 256, (2, 2): 1 / 2}
    for (leader, runner_up), expected in cases.items():
        assert probability_leader_wins(leader, runner_up) == pytest.approx(expected, abs=1e-12)
    said = [Said("1", f"a{n}") for n in range(4)]
    assert (
        not should_stop(said[:3], 0.95) and should_stop(said, 0.95) and not should_stop(said, 0.99)
    )
    assert not should_stop([Said("2", "b"), *said, Said("1", "c")], 0.95)  # 5-1
    assert should_stop([Said("2", "b"), *said, Said("1", "c"), Said("1", "d")], 0.95)  # 6-1
    assert not should_stop([Said(None)] * 20, 0.95)  # abstentions decide nothing


def test_drawing_goes_on_while_the_votes_disagree():
    copies = [Said("1", "the same")] * 7  # the majority is sure; distinct reasonings are 1 to 1
    said = [Said("2", "b"), Said("2", "c"), *copies]
    assert probability_leader_wins(7, 2) > 0.94 and not should_stop(said, 0.9)
    assert should_stop([*copies, Said("2", "b")], 0.9)  # 1 to 1, and the raw count breaks the tie
    sure = [Said("1", f"a{n}", -40.0) for n in range(5)]
    assert should_stop(sure, 0.95, "weighted_unnormalised")
    assert not should_stop([*sure, Said("2", "b", -0.1), *sure], 0.95, "weighted_unnormalised")


said_by_somebody = st.builds(
    Said, st.sampled_from(["1", "2", "3", None]), st.sampled_from(["a", "b", "c", "d"])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(said_by_somebody, min_size=1, max_size=12), st.randoms())
def test_the_outcome_does_not_depend_on_the_order_in_which_candidates_finish(said, order):
    numbers = list(range(len(said)))
    order.shuffle(numbers)
    poll = AdaptiveVote(len(said), 0.95)
    decided = [poll.add(number, said[number]) for number in numbers]
    assert decided.count(True) == 1
    count = needed(said, 0.95)
    assert poll.candidates == tuple(said[:count])
    assert not any(should_stop(said[:fewer], 0.95) for fewer in range(count))


@settings(max_examples=60, deadline=None)
@given(st.lists(said_by_somebody, min_size=1, max_size=7))
def test_the_curve_is_the_average_over_all_subsets(said):
    for rule in ("majority", "distinct"):
        curve = adapt_jax.maj_at_k(said, {"1"}, range(1, len(said) + 1), rule)
        for k, share in curve.items():
            subsets = [
                adapt_jax.vote(s, rule).tied_answers for s in itertools.combinations(said, k)
            ]
            right = sum(
                ("1" in tied_answers) / len(tied_answers)
                for tied_answers in subsets
                if tied_answers
            )
            assert share == pytest.approx(right / len(subsets), abs=1e-12)


def test_the_curve_of_a_weighted_vote_is_a_seeded_average():
    said = [Said("1", "a", -1.0), Said("2", "b", -5.0), Said("2", "c", -5.0), Said(None)]
    curve = adapt_jax.maj_at_k(said, "1", (1, 2, 4), "weighted")
    assert curve == adapt_jax.maj_at_k(said, "1", (1, 2, 4), "weighted")
    assert curve[1] == pytest.approx(1 / 4, abs=0.05) and curve[2] == pytest.approx(0.5, abs=0.05)
    assert curve[4] == 1.0


def test_a_curve_has_sizes_from_one_to_all():
    said = [Said("1", str(n)) for n in range(20)]
    assert list(adapt_jax.maj_at_k(said, "1")) == [1, 2, 4, 8, 16, 20]
    for k in (0, 21):
        with pytest.raises(UserError, match="expected 1 to 20"):
            adapt_jax.maj_at_k(said, "1", [k])
    with pytest.raises(UserError, match="expected 1 to 0"):
        adapt_jax.maj_at_k([], "1")


def test_an_unknown_rule_is_an_error_that_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'majority'"):
        adapt_jax.vote([Said("1")], rule="majorty")


@pytest.mark.parametrize(
    ("rule", "shared_ties", "broken_ties"),
    [("majority", 0.7249, 0.7209), ("distinct", 0.7263, 0.7209)],
)
def test_recorded_reasonings_are_voted_as_their_authors_voted_them(
    shared, rule, shared_ties, broken_ties
):
    questions = json.loads((shared / "data" / "voting" / "date_np.json").read_text())
    share = right = curve = 0.0
    for question in questions:
        rows = zip(question["pred_answers"], question["model_outputs"], strict=True)
        said = [Said(None if a == "No answer!" else a, text) for a, text in rows]
        result = adapt_jax.vote(said, rule=rule)
        right += result.answer == question["final_answer"]
        if question["final_answer"] in result.tied_answers:
            share += 1 / len(result.tied_answers)
        curve += adapt_jax.maj_at_k(said, question["final_answer"], [len(said)], rule)[len(said)]
    assert len(questions) == 369
    assert round(share / 369, 4) == round(curve / 369, 4) == shared_ties
    assert round(right / 369, 4) == broken_ties
