"""Made-up predictions and rungs for the tests of this room."""

from typing import Any

from adapt_jax.evaluation.results import DoneRung
from adapt_jax.evaluation.significance import wilson_interval
from adapt_jax.prompting.prediction import Prediction
from adapt_jax.prompting.voting import vote
from adapt_jax.sampling.types import Candidate
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task


def candidate(answer: str | None, finish_reason: str = "stop", text: str = "text") -> Candidate:
    """A candidate of three tokens."""
    return Candidate(text, (1, 2, 3), -1.5, finish_reason, reasoning=text, answer=answer)


def prediction(name: str, *candidates: Candidate, **fields: Any) -> Prediction:
    """What these candidates decide."""
    decided = vote(candidates)
    return Prediction(
        **{
            "example_id": name,
            "answer": decided.answer,
            "reasoning": "",
            "candidates": candidates,
            "vote": decided,
            "prompt_tokens": 10,
            "generated_tokens": 3 * len(candidates),
            "seconds": 0.5,
        }
        | fields
    )


def done_rung(method: str, correct: list[bool], **fields: Any) -> DoneRung:
    """A measured rung with these right answers."""
    accuracy = sum(correct) / len(correct)
    return DoneRung(
        **{
            "method": method,
            "accuracy": accuracy,
            "ci95": wilson_interval(sum(correct), len(correct)),
            "n": len(correct),
            "scorer": "exact",
            "score": accuracy,
            "score_ci95": fields.get("ci95", wilson_interval(sum(correct), len(correct))),
            "abstained": 0.0,
            "cut_off": 0.0,
            "no_stop": 0.0,
            "unreadable": 0.0,
            "too_long": 0.0,
            "prompt_tokens": 10.0,
            "generated_tokens": 5.0,
            "seconds": 0.01,
            "identity": "0" * 16,
            "trainable_parameters": 0,
            "train_seconds": 0.0,
        }
        | fields
    )


class Scripted:
    """Answers every question by ``say(example)``, the last one first."""

    def __init__(self, say):
        self.say = say

    def stream(
        self, examples, *, seed=0, max_concurrent_sequences=None, answered=(), on_tokens=None
    ):
        for index in reversed(range(len(examples))):
            if index not in answered:
                said = self.say(examples[index])
                yield (
                    index,
                    said
                    if isinstance(said, Prediction)
                    else prediction(examples[index].id, candidate(said)),
                )


def make_task(*answers: str, scorer: str = "exact", **fields) -> Task:
    examples = [Example(f"q{n}", f"question {n}", answer) for n, answer in enumerate(answers)]
    return Task("t", [], [], examples, **{"parser": "text", "scorer": scorer} | fields)
