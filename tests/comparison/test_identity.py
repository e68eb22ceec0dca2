"""A result's identity: every input that counts changes it, and nothing else does."""

import dataclasses
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from helpers import write_task

from adapt_jax.comparison.rung import rung_folders
from adapt_jax.comparison.setup import RunInputs
from adapt_jax.evaluation import scorers
from adapt_jax.evaluation.scorers import SCORERS
from adapt_jax.methods.registry import METHODS
from adapt_jax.pretrained.loading import load_pretrained
from adapt_jax.prompting import voting
from adapt_jax.tasks import answers
from adapt_jax.tasks.loading import load_task
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.templates import CHAT
from adapt_jax.training.config import TrainingConfig
from adapt_jax.utils.config import validate
from adapt_jax.utils.registry import load_plugin


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return load_task(write_task(tmp_path / "task"))


def identify(
    model: Any, task: Task, method: str = "few_shot", seed: int = 0, **options: Any
) -> str:
    methods = {method: validate(METHODS[method], options, method)}
    return rung_folders(Path("out"), methods, RunInputs(task, model, None), seed)[method].identity


CHANGES: dict[str, Callable[[Task], Task]] = {
    "a test question": lambda task: dataclasses.replace(
        task, test=[dataclasses.replace(task.test[0], question="What?"), *task.test[1:]]
    ),
    "a gold answer": lambda task: dataclasses.replace(
        task, test=[dataclasses.replace(task.test[0], answer="77"), *task.test[1:]]
    ),
    "a training example": lambda task: dataclasses.replace(task, train=task.train[1:]),
    "a reasoning": lambda task: dataclasses.replace(
        task, train=[dataclasses.replace(task.train[0], reasoning="So."), *task.train[1:]]
    ),
    "the instruction": lambda task: dataclasses.replace(task, instruction="Do it."),
    "the template": lambda task: dataclasses.replace(
        task, template=dataclasses.replace(task.template, question="{question}\n")
    ),
    "the parser": lambda task: dataclasses.replace(task, parser="text"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_the_task_says_counts(tiny, task: Task, change):
    assert identify(tiny, change(task)) != identify(tiny, task)


def test_what_is_said_about_the_task_does_not_count(tiny, task: Task):
    other = dataclasses.replace(task, warnings=("odd",), summary=None)
    assert identify(tiny, other) == identify(tiny, task)


def test_seed_and_options_count(tiny, task: Task):
    before = identify(tiny, task)
    assert identify(tiny, task, seed=1) != before
    assert identify(tiny, task, demonstrations=2) != before
    assert identify(tiny, task, "zero_shot") != before
    assert identify(tiny, task, demonstrations=8) == before  # the default


@pytest.mark.parametrize(
    "training", [{"checkpoint_every": 7}, {"keep_checkpoints": 5}, {"trackers": ["tensorboard"]}]
)
def test_how_a_training_is_saved_and_logged_does_not_count(tiny, task: Task, training):
    for method in ("prompt_tuning", "lora", "fine_tuning", "instruction_tuning"):
        changed = identify(tiny, task, method, training=training)
        assert changed == identify(tiny, task, method)


OTHER_TRAINING: dict[str, Any] = {
    "steps": 7,
    "batch_size": 3,
    "learning_rate": 0.5,
    "schedule": "linear",
    "warmup_steps": 1,
    "optimizer": "sgd",
    "beta2": 0.5,
    "weight_decay": 0.1,
    "clip_norm": 2.0,
    "packing": "none",
    "row_length": 64,
    "validate_every": 5,
    "metric": "accuracy",
    "patience": 2,
    "gradient_accumulation_steps": 2,
    "remat": "layers",
    "compute_dtype": "bfloat16",
    "frozen_dtype": "bfloat16",
    "label_smoothing": 0.1,
    "z_loss": 0.1,
}


def test_every_other_option_of_a_training_counts(tiny, task: Task):
    no_effect = TrainingConfig.no_effect
    assert OTHER_TRAINING.keys() | no_effect == TrainingConfig.model_fields.keys()
    identities = {identify(tiny, task, "lora")}
    for name, value in OTHER_TRAINING.items():
        # patience and the metric belong to validations
        given = {"validate_every": 9, name: value} if name in ("patience", "metric") else {}
        identities.add(identify(tiny, task, "lora", training=given or {name: value}))
    assert len(identities) == len(OTHER_TRAINING) + 1


def test_tolerance_template_arguments_and_context_length_count(
    tiny, task: Task, tmp_path: Path, make_tiny_llama
):
    before = identify(tiny, task)
    assert identify(tiny, dataclasses.replace(task, relative_tolerance=1e-3)) != before
    arguments = [{}, {"enable_thinking": False}, {"date": "2026-01-01"}]
    templates = [dataclasses.replace(CHAT, chat_template_args=one) for one in arguments]
    changed = {identify(tiny, dataclasses.replace(task, template=one)) for one in templates}
    assert len(changed | {before}) == 4
    folder = make_tiny_llama(tmp_path / "short")
    assert identify(load_pretrained(folder, context_length=64), task) != before


def test_the_version_of_the_library_that_reads_mathematics_counts():
    pytest.importorskip("math_verify")
    assert version("math-verify") in answers.PARSERS["math"].version


def test_the_scorer_counts(tiny, task: Task):
    other = dataclasses.replace(task, scorer="token_f1")
    assert identify(tiny, other) != identify(tiny, task)


@pytest.mark.parametrize(
    ("extension", "method"),
    [
        (answers.PARSERS["number"], "few_shot"),
        (scorers.SCORERS["exact"], "few_shot"),
        (voting.VOTES["distinct"], "self_consistency"),
    ],
)
def test_versions_of_parser_scorer_and_vote_count(tiny, task, monkeypatch, extension, method):
    before = identify(tiny, task, method)
    monkeypatch.setattr(extension, "version", 99, raising=False)
    assert identify(tiny, task, method) != before


def test_the_code_of_a_plugin_counts(tiny, task: Task, tmp_path: Path):
    plugin = tmp_path / "identity_plugin.py"
    code = (
        "from adapt_jax.evaluation.scorers import SCORERS, Score\n"
        "@SCORERS.register('always')\n"
        "def always(predicted, example, task):\n"
        "    return Score(1.0, True)\n"
    )
    plugin.write_text(code)
    load_plugin(str(plugin))
    try:
        task = dataclasses.replace(task, scorer="always")
        before = identify(tiny, task)
        assert identify(tiny, task) == before
        plugin.write_text(code.replace("1.0", "0.5"))
        assert identify(tiny, task) != before
    finally:
        del SCORERS._entries["always"]


def test_the_content_of_a_named_folder_counts_and_its_path_does_not(
    tiny, task: Task, tmp_path: Path, monkeypatch
):
    def write(folder: Path, text: str) -> Path:
        (folder / "inner").mkdir(parents=True, exist_ok=True)
        (folder / "inner" / "weights").write_text(text)
        return folder

    one, other = write(tmp_path / "one", "1"), write(tmp_path / "other", "1")
    before = identify(tiny, task, "prompt_tuning", init=str(one))
    assert identify(tiny, task, "prompt_tuning", init=str(other)) == before
    monkeypatch.chdir(tmp_path)
    assert identify(tiny, task, "prompt_tuning", init="one") == before
    write(one, "2")
    assert identify(tiny, task, "prompt_tuning", init="one") != before
    (one / "inner" / "more").write_text("")
    assert identify(tiny, task, "prompt_tuning", init=str(other)) == before


def test_the_content_of_a_named_file_counts(tiny, task: Task, tmp_path: Path):
    file = tmp_path / "mixture.jsonl"
    file.write_text("1")
    before = identify(tiny, task, "instruction_tuning", mixture=str(file))
    file.write_text("2")
    assert identify(tiny, task, "instruction_tuning", mixture=str(file)) != before


def test_the_weights_count_and_where_they_lie_does_not(
    tiny, task: Task, tmp_path: Path, make_tiny_llama
):
    assert identify(load_pretrained(make_tiny_llama(tmp_path / "same")), task) == identify(
        tiny, task
    )
    other = load_pretrained(make_tiny_llama(tmp_path / "other", seed=1))
    assert identify(other, task) != identify(tiny, task)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("tokenizer_config.json", "<|pad|>", "<|bos|>"),
        ("config.json", '"rope_theta": 10000.0', '"rope_theta": 20000.0'),
        ("chat_template.jinja", "", "{{ messages[0]['content'] }}"),
        ("generation_config.json", "", '{"eos_token_id": [1, 5]}'),
    ],
)
def test_the_other_files_of_the_decoder_count(
    tiny, task: Task, tmp_path: Path, make_tiny_llama, file: str, old: str, new: str
):
    folder = make_tiny_llama(tmp_path / "changed")
    path = folder / file
    path.write_text(path.read_text().replace(old, new) if path.exists() else new)
    assert identify(load_pretrained(folder), task) != identify(tiny, task)
