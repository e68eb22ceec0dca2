"""Self-consistency chooses its vote on the development split, where it is asked to."""

from dataclasses import replace

import pytest
from scripted import scripted
from training_cases import ITEMS, TASK

from adapt_jax.adaptation import session
from adapt_jax.methods.self_consistency import SelfConsistency
from adapt_jax.prompting.prompt import MethodNotApplicable
from adapt_jax.prompting.voting import AUTO_RULES

METHOD = SelfConsistency(demonstrations=1, candidates=5, vote="auto", stop_at=0.9)
DEVELOPMENT = replace(TASK, development=ITEMS[12:14], train=ITEMS[:12], test=ITEMS[14:])


def test_auto_takes_the_rule_that_is_right_most_often_and_reports_all(tiny, monkeypatch):
    right = {example.id: example.answer for example in DEVELOPMENT.development}
    drawn = []

    def say(question: str, number: int) -> str:
        """Three times the same right reasoning, and two different wrong ones."""
        drawn.append(number)
        if number < 3:
            return f" I know it. The answer is {right[question]}."
        return f" Guess {number}. The answer is 99."

    monkeypatch.setattr(session, "Engine", scripted(say))
    result = METHOD.adapt(tiny, DEVELOPMENT)
    assert result.adaptation.prompt.vote == result.details["vote"] == "majority"
    assert result.details["vote_accuracy"] == {"distinct": 0.0, "majority": 1.0, "weighted": 1.0}
    # all candidates are drawn to choose, and questions of the test may stop early again
    assert sorted(drawn) == sorted(2 * list(range(5)))
    assert result.adaptation.prompt.stop_at == 0.9


def test_of_equal_rules_the_first_is_taken(tiny, monkeypatch):
    monkeypatch.setattr(session, "Engine", scripted(lambda *_: " The answer is 99."))
    assert METHOD.adapt(tiny, DEVELOPMENT).adaptation.prompt.vote == AUTO_RULES[0]


def test_auto_without_a_development_split_cannot_run(tiny):
    with pytest.raises(MethodNotApplicable, match="vote: auto needs a development split"):
        METHOD.adapt(tiny, replace(DEVELOPMENT, development=()))


@pytest.mark.parametrize(
    "option",
    [
        {"candidates": 0},
        {"candidates": 10_001},
        {"temperature": -0.1},
        {"temperature": float("inf")},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"demonstrations": 0},
        {"max_new_tokens": 0},
        {"vote": "autp"},
    ],
)
def test_numbers_out_of_range_and_unknown_votes_are_refused(option: dict):
    with pytest.raises(ValueError, match=next(iter(option))):
        SelfConsistency(**option)
