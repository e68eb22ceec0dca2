"""Long answers are not counted: the one most similar to all others is chosen."""

import math

import pytest
from made_results import candidate

from adapt_jax.methods.self_consistency import SelfConsistency
from adapt_jax.prompting.maj_at_k import maj_at_k
from adapt_jax.prompting.voting import VOTES, choose_vote_rule, vote
from adapt_jax.tasks.answers import text_scores
from adapt_jax.tasks.answers.text_scores import TEXT_SCORES
from adapt_jax.utils.errors import UserError

TEXTS = [
    "the senate passed the bill on monday",
    "on monday the senate passed a bill",
    "the bill was passed by the senate",
    "nobody knows what happened",
]


def test_the_most_similar_answer_wins_and_counts_its_expected_score():
    result = vote([candidate(text) for text in TEXTS], "mbr_token_f1")
    score = TEXT_SCORES["token_f1"]
    expected = {
        text: math.fsum(score(text, [other]) for other in TEXTS) / len(TEXTS) for text in TEXTS
    }
    assert result.counts == pytest.approx(expected)
    assert result.answer == max(expected, key=expected.__getitem__) != TEXTS[-1]
    assert result.answer == TEXTS[0]


def test_equal_answers_weigh_as_often_as_they_were_drawn():
    texts = [*TEXTS[:2], *[TEXTS[3]] * 5]
    result = vote([candidate(text) for text in texts], "mbr_token_f1")
    assert result.answer == TEXTS[3]
    assert result.counts[TEXTS[3]] == pytest.approx(5 / 7)  # nothing in common with the others


def test_candidates_without_an_answer_abstain():
    result = vote([candidate(None), candidate(TEXTS[0]), candidate(None)], "mbr_token_f1")
    assert (result.answer, result.abstained) == (TEXTS[0], 2)
    assert vote([candidate(None)], "mbr_token_f1").answer is None


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "bleu", "chrf"])
def test_every_text_score_is_a_rule(name):
    pytest.importorskip("rouge_score" if name.startswith("rouge") else "sacrebleu")
    assert vote([candidate(text) for text in TEXTS], f"mbr_{name}").answer in TEXTS[:3]
    assert name in VOTES[f"mbr_{name}"].score


def test_a_missing_library_is_one_line(monkeypatch):
    text_scores._make_sacrebleu.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install 'adapt-jax"):
        vote([candidate("one text alone"), candidate("another one")], "mbr_chrf")


def test_maj_at_k_votes_subsets_one_by_one():
    drawn = [candidate(text) for text in TEXTS]
    curve = maj_at_k(drawn, {TEXTS[0]}, k=[1, 4], rule="mbr_token_f1")
    assert curve[4] == 1.0 and curve[1] == pytest.approx(1 / 4, abs=0.05)


def test_auto_compares_rules_by_their_mean_score():
    drawn = [candidate(text) for text in reversed(TEXTS)]
    scores = {TEXTS[0]: 0.8, TEXTS[1]: 0.6, TEXTS[2]: 0.4, TEXTS[3]: 0.1}
    choice = choose_vote_rule([(drawn, scores)], ["distinct", "mbr_token_f1"])
    # each answer was given once, and the first one wins by count
    assert choice.rule == "mbr_token_f1"
    assert choice.accuracy == pytest.approx({"distinct": 0.1, "mbr_token_f1": 0.6})


def test_self_consistency_takes_the_tasks_scorer():
    from made_results import make_task

    summaries = make_task("A text.", scorer="rougeL", parser="verbatim")
    assert SelfConsistency()._list_rules(summaries) == ["mbr_rougeL"]
    assert SelfConsistency(vote="majority")._list_rules(summaries) == ["majority"]
    assert SelfConsistency(vote="auto")._list_rules(summaries)[0] == "mbr_rougeL"
    assert not SelfConsistency().reasons_on(summaries)
    numbers = make_task("5", parser="number")
    assert SelfConsistency()._list_rules(numbers) == ["distinct"]
    assert SelfConsistency(vote="mbr")._list_rules(numbers) == ["mbr_token_f1"]
    assert SelfConsistency().reasons_on(numbers)
