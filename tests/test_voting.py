"""Votes: rules, ties, abstentions, and recorded reasonings voted as their authors voted them."""

import json
from dataclasses import dataclass

import pytest

import adapt_jax
from adapt_jax.errors import UserError


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
    assert adapt_jax.vote(said).tied == ("1", "2")
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
    share = right = 0.0
    for question in questions:
        rows = zip(question["pred_answers"], question["model_outputs"], strict=True)
        said = [Said(None if a == "No answer!" else a, text) for a, text in rows]
        result = adapt_jax.vote(said, rule=rule)
        right += result.answer == question["final_answer"]
        if question["final_answer"] in result.tied:
            share += 1 / len(result.tied)
    assert len(questions) == 369
    assert round(share / 369, 4) == shared_ties
    assert round(right / 369, 4) == broken_ties
