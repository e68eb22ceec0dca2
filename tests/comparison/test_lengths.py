"""What is too long is reported: right answers, and examples that a training leaves out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import write_task

from adapt_jax.comparison.compare import compare
from adapt_jax.comparison.lengths import describe_dropped, describe_short_limit
from adapt_jax.comparison.tune import tune
from adapt_jax.methods.registry import METHODS
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.templates import Template

# 1 of 20 answers is long
ANSWERS = ["no"] * 19 + ["certainly not today"]


def make_task(answers: list[str]) -> Task:
    test = tuple(
        Example(str(n), f"Is it {n}?", answer, choices=tuple(set(answers)))
        for n, answer in enumerate(answers)
    )
    return Task("is_it", (), (), test, template=Template(answer=" {answer}", choice=""))


def describe(model: PretrainedDecoder, answers: list[str], name: str, **options: Any) -> str | None:
    return describe_short_limit(METHODS[name](**options), model, make_task(answers))


def test_the_longest_right_answer_is_named(shallow: PretrainedDecoder):
    long = len(shallow.encode(" certainly not today", bos=False))
    answers = ANSWERS[-2:]
    for name in ("zero_shot", "few_shot", "chain_of_thought", "lora"):
        assert describe(shallow, answers, name, max_new_tokens=long) is None
        line = describe(shallow, answers, name, max_new_tokens=long - 1)
        assert line == (
            f"max_new_tokens: {long - 1} is too short for the right answer to 1 of 2 test "
            f"questions: in the words of the template it has up to {long}"
        )


def test_a_share_of_one_in_twenty_is_not_worth_a_sentence(shallow: PretrainedDecoder):
    assert describe(shallow, ANSWERS, "zero_shot", max_new_tokens=3) is None
    assert describe(shallow, ANSWERS[1:], "zero_shot", max_new_tokens=3) is not None


def test_the_words_of_the_template_count_and_reasoning_does_not(shallow: PretrainedDecoder):
    task, method = make_task(["no"]), METHODS["zero_shot"](max_new_tokens=3)
    assert describe_short_limit(method, shallow, task) is None
    wordy = replace(task, template=Template(answer=" It is my opinion: {answer}.", choice=""))
    assert describe_short_limit(method, shallow, wordy) is not None
    thought = replace(task.test[0], reasoning="One reason after the other. " * 9)
    assert describe_short_limit(method, shallow, replace(task, test=(thought,))) is None


def test_a_choice_by_likelihood_and_a_bare_question_need_no_tokens(shallow: PretrainedDecoder):
    by_likelihood = {"answer_by": "likelihood", "max_new_tokens": 1}
    assert describe(shallow, ANSWERS[-1:], "zero_shot", **by_likelihood) is None
    assert describe(shallow, [""], "zero_shot", max_new_tokens=1) is None


@pytest.fixture
def config(shallow_folder: Path, tmp_path: Path) -> dict[str, Any]:
    return {"decoder": str(shallow_folder), "task": write_task(tmp_path / "task")}


def test_compare_reports_it_first_and_in_the_results(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
):
    methods = {"zero_shot": {"max_new_tokens": 1}, "few_shot": {"max_new_tokens": 60}}
    found = compare(config | {"methods": methods}, tmp_path / "run")
    said = "max_new_tokens: 1 is too short for the right answer to 6 of 6 test questions"
    whole = " ".join(capsys.readouterr().out.split())
    assert 0 <= whole.find(f"zero_shot: {said}") < whole.find("zero_shot: answering")
    assert "few_shot: max_new_tokens" not in whole
    zero_shot, few_shot = found.measured_rungs
    assert zero_shot.warnings[0].startswith(said)
    assert not any("too short" in warning for warning in few_shot.warnings)


def test_tune_reports_it(config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture):
    training = {"steps": 1, "batch_size": 2, "warmup_steps": 0}
    method = {"name": "lora", "rank": 2, "max_new_tokens": 1, "training": training}
    tune(config | {"method": method}, tmp_path / "run")
    assert "lora: max_new_tokens: 1 is too short" in " ".join(capsys.readouterr().out.split())


def test_examples_that_a_training_leaves_out_are_counted(shallow: PretrainedDecoder):
    context = shallow.config.context_length

    def describe(dropped: int, kept: int, **by_task: int) -> str | None:
        details = {"examples": kept, "dropped_too_long": dropped, "examples_by_task": by_task}
        return describe_dropped(details, shallow)

    assert describe_dropped({}, shallow) is None
    assert describe(0, 5, empty=0) is None
    assert describe(5, 95, sums=95) is None
    said = f"6 of 100 training examples do not fit the context of {context} tokens"
    assert describe(6, 94, sums=94) == f"{said} and were left out"
    assert describe(1, 99, sums=99, texts=0) == (
        f"1 of 100 training examples do not fit the context of {context} tokens and were left out, "
        "and nothing is left of texts"
    )


def test_a_training_that_leaves_out_long_examples_says_so(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
):
    rows = Path(config["task"]["source"]["train"])
    long = {"question": "What is 1 + 1? " * 99, "answer": "2", "reasoning": "Count."}
    rows.write_text(rows.read_text() + json.dumps(long) + "\n")
    training = {"steps": 1, "batch_size": 2, "warmup_steps": 0}
    options = {"rank": 2, "max_new_tokens": 60, "training": training}
    found = compare(config | {"methods": {"lora": options}}, tmp_path / "run", progress=False)
    said = "1 of 13 training examples do not fit the context of"
    assert found.measured_rungs[0].warnings[0].startswith(said)
    tune(config | {"method": {"name": "lora"} | options}, tmp_path / "tuned")
    assert f"lora: {said}" in " ".join(capsys.readouterr().out.split())
