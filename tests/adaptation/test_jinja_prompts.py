"""Adaptations whose template is Jinja: asked, saved, read from files, refused where it must be."""

import json
from pathlib import Path
from typing import Any

import pytest
from scripted import scripted

from adapt_jax.adaptation import session as session_module
from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.predict import predict
from adapt_jax.adaptation.recipe import build_recipe
from adapt_jax.methods.base import MethodResult
from adapt_jax.methods.few_shot import FewShot
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.tasks.loading import load_task
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.templates import Template
from adapt_jax.utils.errors import UserError


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """Sums whose second number is in a field of its own."""
    rows = [{"first": n, "second": n + 1, "sum": 2 * n + 1} for n in range(12)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_task({
        "name": "sums",
        "source": {"name": "jsonl", "path": str(tmp_path / "sums.jsonl")},
        "fields": {"question": "first", "answer": "sum"},
        "template": {"question": "Add {{ second }} to {{ question }}.\nA:"},
        "splits": {"test": 4},
    })  # fmt: skip


@pytest.fixture
def adapted(tiny: Any, task: Task, monkeypatch: pytest.MonkeyPatch) -> MethodResult:
    monkeypatch.setattr(session_module, "Engine", scripted(lambda *_: " The answer is 7."))
    result = FewShot(demonstrations=2).adapt(tiny, task)
    result.adaptation.question_format = task.question_format
    return result


def test_demonstrations_and_questions_show_the_fields_of_their_rows(
    adapted: MethodResult, task: Task
) -> None:
    shown = adapted.adaptation.prompt.demonstrations
    assert all(int(one.answer) == 2 * one.fields["second"] - 1 for one in shown)
    text = adapted.adaptation.prompt.text
    assert f"Add {shown[0].fields['second']} to {shown[0].question}.\nA: The answer is" in text
    assert [one.answer for one in adapted.adaptation.answer(task.test)] == ["7"] * 4


def test_a_saved_adaptation_reads_the_fields_of_a_file(
    adapted: MethodResult, tmp_path: Path
) -> None:
    saved = adapted.adaptation.save(tmp_path / "adaptation")
    loaded = Adaptation.load(saved)
    assert loaded.prompt == adapted.adaptation.prompt
    assert loaded.identity == adapted.adaptation.identity
    source, target = tmp_path / "new.jsonl", tmp_path / "answers.jsonl"
    source.write_text('{"first": 3, "second": 4}\n')
    count, _ = predict(lambda: loaded, source, target, question_format=loaded.question_format)
    assert count == 1 and json.loads(target.read_text())["answer"] == "7"
    source.write_text('{"first": 3}\n')
    with pytest.raises(
        UserError, match="template.question: 'second' is undefined .example 'sums-1'"
    ):
        predict(lambda: loaded, source, tmp_path / "x", question_format=loaded.question_format)


def test_a_bare_question_lacks_the_fields_of_a_row(adapted: MethodResult) -> None:
    with pytest.raises(UserError, match=r"needs fields of a row \(second\)"):
        adapted.adaptation.ask("3")
    with pytest.raises(UserError, match="template.question is a Jinja template"):
        build_recipe(adapted.adaptation, "hf")


def test_control_tokens_in_a_field_stay_text(tiny: Any) -> None:
    template = Template(question="{{ text }}: {{ question }}")
    prompt = Prompt(template=template)
    rendered = template.format_question("<|eos|>", fields={"text": "<|bos|>"})
    ids = prompt.encode(tiny, prompt.render_prompt(tiny, rendered))
    assert tiny.config.eos_ids[0] not in ids and ids.count(tiny.config.bos_id) == 1
    assert tiny.decode(ids).endswith("<|bos|>: <|eos|>")
