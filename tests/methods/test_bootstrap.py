"""Bootstrapped reasoning: for training questions only, kept where it is right."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapt_jax.methods import bootstrap as bootstrap_module
from adapt_jax.methods.base import RunOptions
from adapt_jax.methods.bootstrap import BootstrapOptions, bootstrap_reasoning
from adapt_jax.methods.chain_of_thought import ChainOfThought
from adapt_jax.methods.registry import METHODS
from adapt_jax.methods.self_consistency import SelfConsistency
from adapt_jax.prompting.prompt import MethodNotApplicable
from adapt_jax.sampling.model import load_pretrained
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.loading import load_task
from adapt_jax.tasks.task import Task
from adapt_jax.utils.config import validate
from adapt_jax.utils.errors import UserError

OPTIONS = BootstrapOptions(questions=10, candidates=2, max_new_tokens=96)


@pytest.fixture(scope="module")
def embedded() -> Any:
    return load_pretrained("embedded")


@pytest.fixture(scope="module")
def task() -> Task:
    """The embedded task, of whose training examples four have a reasoning."""
    sizes = {"train": 24, "development": 4, "test": 4}
    drawn = load_task({"name": "a", "source": {"name": "arithmetic"}, "splits": sizes})
    bare = [one if n < 4 else replace(one, reasoning="") for n, one in enumerate(drawn.train)]
    return replace(drawn, train=bare)


def test_reasonings_that_reach_the_right_answer_are_kept(embedded, task, tmp_path: Path):
    found = bootstrap_reasoning(embedded, task, OPTIONS, RunOptions(folder=tmp_path))
    new = [
        one
        for one, before in zip(found.task.train, task.train, strict=True)
        if one.reasoning != before.reasoning
    ]
    counts = found.details["bootstrap"]
    assert 3 <= len(new) == counts["kept"] <= counts["asked"] == 10
    assert counts["prompt_tokens"] > counts["generated_tokens"] > 0 and counts["with_hint"] == 0
    for one in new:  # the last number of the reasoning is the answer
        assert one.answer in one.reasoning
    assert found.task.test == task.test and found.task.development == task.development
    asked = "".join(path.read_text() for path in tmp_path.glob("bootstrap-*.jsonl"))
    assert not any(json.dumps(one.id) in asked for one in (*task.test, *task.development))
    assert [one.id for one in found.select_reasoned().train] == [
        one.id for one in found.task.train if one.reasoning
    ]

    # an interrupted run continues from its journal and ends with the same
    path = tmp_path / "bootstrap-1.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    again = bootstrap_reasoning(embedded, task, OPTIONS, RunOptions(folder=tmp_path))
    assert again.task == found.task and again.details == found.details


def test_chain_of_thought_shows_them_and_lora_is_trained_on_them(embedded, task, tmp_path: Path):
    options = {"questions": 6, "candidates": 1, "temperature": 0, "max_new_tokens": 96}
    few = replace(task, train=task.train[:10])
    run = RunOptions(folder=tmp_path)
    method = ChainOfThought(demonstrations=8, max_new_tokens=96, bootstrap=options)
    result = method.adapt(embedded, few, run)
    kept = result.details["bootstrap"]["kept"]
    assert kept >= 1 and len(result.adaptation.prompt.demonstrations) > 4
    voting = SelfConsistency(demonstrations=8, candidates=2, bootstrap=options, max_new_tokens=96)
    assert voting.adapt(embedded, few, run).details["bootstrap"]["kept"] == kept
    lora = METHODS["lora"](bootstrap=options, training={"steps": 1, "batch_size": 2})
    trained = lora.adapt(embedded, few, RunOptions())
    assert trained.details["examples"] == 4 + kept  # those without a reasoning are left out
    assert trained.adaptation.prompt.reasoning


class Answers:
    """A stand-in for evaluate: what is answered, by the text of the prompt and the question."""

    def __init__(self, monkeypatch, answer):
        self.asked: list[tuple[str, list[str]]] = []
        self.answer = answer
        monkeypatch.setattr(bootstrap_module, "evaluate", self)

    def __call__(self, adaptation, task, examples: Sequence[Example], **options):
        from adapt_jax.evaluation.evaluate import evaluate

        prompt = adaptation.prompt
        questions = [prompt.template.format_question(one.question) for one in examples]
        self.asked.append((prompt.text, questions))
        return evaluate(_Written(prompt, self.answer), task, examples, **options)


class _Written:
    def __init__(self, prompt, answer):
        self.prompt, self.answer = prompt, answer

    def stream(self, examples, **options):
        from adapt_jax.adaptation.session import read_candidate
        from adapt_jax.prompting.prediction import Prediction
        from adapt_jax.prompting.voting import vote
        from adapt_jax.sampling.types import Candidate

        for index, example in enumerate(examples):
            candidates = tuple(
                read_candidate(self.prompt, Candidate(text, (1, 2), score, "stop"), example)
                for text, score in self.answer(example)
            )
            result = vote(candidates, rule="majority")
            yield (
                index,
                Prediction(example.id, result.answer, "", candidates, result, 10, 4, seconds=0.0),
            )


def small_task() -> Task:
    rows = [Example(str(n), f"What is {n} plus 1?", str(n + 1)) for n in range(4)]
    return Task("t", rows, [], [Example("x", "What is 9 plus 1?", "10")], "Solve it.")


def test_the_first_round_asks_to_think_and_the_next_one_shows_what_was_kept(tiny, monkeypatch):
    def answer(example):
        rights = [(f" We add one to it. The answer is {example.answer}.", -3.0)]
        return (
            rights if example.id in "02" else [(" We guess wildly here. The answer is 77.", -1.0)]
        )

    answers = Answers(monkeypatch, answer)
    options = BootstrapOptions(rounds=3, candidates=1, hint=True)
    found = bootstrap_reasoning(tiny, small_task(), options, RunOptions())
    first, second, hinted = answers.asked  # the second round found nothing: no third one
    assert "Let's think" in first[1][0] and len(first[1]) == 4 and "Q:" not in first[0]
    assert "We add one to it." in second[0] and len(second[1]) == 2
    assert "Let's think" not in second[1][0] and "(The right answer is" not in second[1][0]
    assert all("(The right answer is" in one for one in hinted[1])
    assert found.details["bootstrap"] | {"prompt_tokens": 80, "generated_tokens": 32} == {
        "asked": 4,
        "kept": 2,
        "with_hint": 0,
        "prompt_tokens": 80,
        "generated_tokens": 32,
    }
    assert [one.reasoning for one in found.task.train] == [
        "We add one to it.",
        "",
        "We add one to it.",
        "",
    ]


def test_a_hint_is_no_part_of_what_is_kept(tiny, monkeypatch):
    def answer(example):
        knows = "(The right answer is" in example.question
        said = example.answer if knows else "77"
        return [(f" We add one to it. The answer is {said}.", -3.0)]

    Answers(monkeypatch, answer)
    options = BootstrapOptions(candidates=1, hint=True)
    found = bootstrap_reasoning(tiny, small_task(), options, RunOptions())
    assert found.details["bootstrap"]["with_hint"] == 4
    assert [one.question for one in found.task.train] == [
        one.question for one in small_task().train
    ]
    assert {one.reasoning for one in found.task.train} == {"We add one to it."}
    with pytest.raises(MethodNotApplicable, match="none of the reasonings"):
        bootstrap_reasoning(tiny, small_task(), BootstrapOptions(candidates=1), RunOptions())


def test_the_likeliest_right_reasoning_is_kept_and_bare_answers_are_not(tiny, monkeypatch):
    def answer(example):
        right = f"The answer is {example.answer}."
        return [
            (f" First of all likely. {right}", -2.0),
            (f" Second of all less likely. {right}", -4.0),
            (f" {right}", -0.1),
            (" The likeliest of all. The answer is 77.", -0.2),
        ]

    Answers(monkeypatch, answer)
    found = bootstrap_reasoning(tiny, small_task(), BootstrapOptions(), RunOptions())
    assert {one.reasoning for one in found.task.train} == {"First of all likely."}


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="bootstrap: 4 candidates at temperature 0"):
        validate(ChainOfThought, {"bootstrap": {"temperature": 0}}, "x")
    with pytest.raises(UserError, match="`reasoning: false` trains on none"):
        validate(METHODS["lora"], {"bootstrap": {}, "reasoning": False}, "x")
