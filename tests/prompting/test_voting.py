"""Votes: rules, ties, abstentions, and recorded reasonings voted as their authors voted them."""

import itertools
import json
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adapt_jax
from adapt_jax.prompting import maj_at_k as maj_at_k_module
from adapt_jax.prompting.voting import (
    VOTES,
    AdaptiveVote,
    choose_vote_rule,
    probability_leader_wins,
    should_stop,
)
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


def test_near_numbers_are_two_answers_in_a_vote_whatever_their_order():
    """Being near is no equality: groups would depend on which other candidates there are."""
    candidates = [Said(answer) for answer in ("3.14", "3.142", "3.142", "3.14", "3.14")]
    for order in (candidates, candidates[::-1]):
        decided = adapt_jax.vote(order, "majority")
        assert decided.answer == "3.14" and decided.counts == {"3.14": 3, "3.142": 2}


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
    votes = AdaptiveVote(len(said), 0.95)
    decides = [votes.add(number, said[number]) for number in numbers]
    assert decides.count(True) == 1 and votes.is_decided
    count = next((n for n in range(1, len(said)) if should_stop(said[:n], 0.95)), len(said))
    assert votes.candidates == tuple(said[:count])


said_with_log_probability = st.builds(
    Said,
    st.sampled_from(["1", "2", "3", None]),
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from([-0.1, -0.2, -0.3, -1.7]),  # sums of which are equal in several ways
)


def average_over_subsets(said, k, rule):
    votes = [adapt_jax.vote(subset, rule).answer for subset in itertools.combinations(said, k)]
    return votes.count("1") / len(votes)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(said_by_somebody, min_size=1, max_size=7)
    | st.lists(said_with_log_probability, min_size=1, max_size=7)
)
def test_the_curve_is_the_vote_of_every_subset(said):
    rules = ["majority", "distinct"]
    rules += ["weighted"] * all(one.log_probability is not None for one in said)
    for rule in rules:
        curve = adapt_jax.maj_at_k(said, {"1"}, range(1, len(said) + 1), rule)
        for k, share in curve.items():
            assert share == pytest.approx(average_over_subsets(said, k, rule), abs=1e-12)
        assert curve[len(said)] == (adapt_jax.vote(said, rule).answer == "1")


@pytest.mark.parametrize("with_log_probability", [False, True])
@pytest.mark.parametrize("rule", ["majority", "distinct"])
def test_the_curve_of_many_candidates_is_that_of_random_subsets(rule, with_log_probability):
    rng = random.Random(1)
    said = [
        Said(
            rng.choices(["1", "2", "3", None], [9, 8, 2, 1])[0],
            f"reasoning {rng.randrange(25)}",
            -rng.random() if with_log_probability else None,
        )
        for _ in range(30)
    ]
    curve = adapt_jax.maj_at_k(said, {"1"}, (1, 4, 12, 30), rule)
    for k, share in curve.items():
        drawn = [adapt_jax.vote(rng.sample(said, k), rule).answer for _ in range(2000)]
        if not with_log_probability:  # random samples are in another order: first seen differs
            order = {id(one): at for at, one in enumerate(said)}
            drawn = [
                adapt_jax.vote(sorted(rng.sample(said, k), key=lambda s: order[id(s)]), rule).answer
                for _ in range(2000)
            ]
        assert share == pytest.approx(drawn.count("1") / 2000, abs=0.05)
    assert curve[30] in (0.0, 1.0)


def test_tie_breaks_among_too_many_subsets_are_sampled_close_to_exact(monkeypatch):
    said = [Said(("1", "2")[n % 2], f"r{n}", -((n * 7) % 12) / 10) for n in range(12)]
    exact = adapt_jax.maj_at_k(said, "1", [4, 6])
    monkeypatch.setattr(maj_at_k_module, "MAX_SUBSETS", 19)
    sampled = adapt_jax.maj_at_k(said, "1", [4, 6])
    assert sampled != exact and sampled == pytest.approx(exact, abs=0.1)


@pytest.mark.parametrize("rule", ["majority", "distinct", "weighted"])
def test_the_curve_of_sampled_subsets_has_no_bias(rule, monkeypatch):
    said = [Said(("1", "2", "1", "3")[n % 4], f"r{n % 7}", -((n * 7) % 12) / 10) for n in range(12)]
    sizes = [3, 5, 8]
    monkeypatch.setattr(maj_at_k_module, "MAX_SUBSETS", 10)
    curves = [adapt_jax.maj_at_k(said, "1", sizes, rule, seed=seed) for seed in range(200)]
    for k in sizes:
        mean = sum(curve[k] for curve in curves) / len(curves)
        assert mean == pytest.approx(average_over_subsets(said, k, rule), abs=0.01)


def test_one_candidate_given_twice_has_two_places():
    first, other = Said("1", "a"), Said("2", "b")
    said = [first, other, first]
    assert adapt_jax.maj_at_k(said, "1", [2]) == {2: average_over_subsets(said, 2, "majority")}


def test_more_candidates_than_are_counted_are_a_seeded_average(monkeypatch):
    monkeypatch.setattr(maj_at_k_module, "MAX_COUNTED", 12)
    said = [Said("1", f"{n}", -1.0) for n in range(10)] + [Said("2", f"{n}", -1.5) for n in "xyz"]
    curve = adapt_jax.maj_at_k(said, "1", (1, 5, 13), "weighted")
    assert curve == adapt_jax.maj_at_k(said, "1", (1, 5, 13), "weighted")
    assert curve[1] == pytest.approx(10 / 13, abs=0.05) and 0.5 < curve[5] <= 1 and curve[13] == 1


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


def test_a_vote_is_added_by_a_decorator():
    @VOTES.register("shortest reasoning of the tests")
    def shortest(group):
        return -min(len(one.reasoning) for one in group.candidates)

    said = [Said("1", "long and longer"), Said("1", "long too"), Said("2", "short")]
    assert adapt_jax.vote(said, "shortest reasoning of the tests").answer == "2"
    curve = adapt_jax.maj_at_k(said, "2", [1, 2, 3], "shortest reasoning of the tests")
    assert curve == pytest.approx({1: 1 / 3, 2: 2 / 3, 3: 1.0})


def test_the_rule_is_chosen_on_the_development_split():
    # right reasonings repeat and wrong ones vary, as in the game of 24: distinct loses
    repeating = [Said("24", "(8 / (3 - 8 / 3))", -1.0)] * 4
    repeating += [Said("23", f"wrong way {n}", -1.0) for n in range(3)]
    choice = choose_vote_rule([(repeating, {"24"}), (repeating, {"24"})])
    assert choice.rule == "majority"
    assert choice.accuracy == {"distinct": 0.0, "majority": 1.0, "weighted": 1.0}
    # right reasonings vary and a wrong one repeats: distinct wins
    varied = [Said("24", f"right way {n}", -1.0) for n in range(3)]
    varied += [Said("23", "the same slip", -1.0)] * 4
    assert choose_vote_rule([(varied, ["24"])]).rule == "distinct"
    # where all rules are equal it is the first of them
    assert choose_vote_rule([([Said("1", "a", -1.0)], {"1"})]).rule == "distinct"
    assert choose_vote_rule([([Said(None)], {"1"})], ("majority", "distinct")).rule == "majority"
    with pytest.raises(UserError, match="development"):
        choose_vote_rule([])


@pytest.mark.parametrize("rule", ["majority", "distinct"])
def test_recorded_reasonings_are_voted_as_their_authors_voted_them(shared, rule):
    questions = json.loads((shared / "data" / "voting" / "date_np.json").read_text())
    shared_ties = right = curve = 0.0
    for question in questions:
        rows = zip(question["pred_answers"], question["model_outputs"], strict=True)
        said = [Said(None if a == "No answer!" else a, text) for a, text in rows]
        result = adapt_jax.vote(said, rule=rule)
        right += result.answer == question["final_answer"]
        if question["final_answer"] in result.tied_answers:
            shared_ties += 1 / len(result.tied_answers)
        curve += adapt_jax.maj_at_k(said, question["final_answer"], [len(said)], rule)[len(said)]
    assert len(questions) == 369
    assert round(shared_ties / 369, 4) == {"majority": 0.7249, "distinct": 0.7263}[rule]
    assert round(right / 369, 4) == round(curve / 369, 4) == 0.7209
