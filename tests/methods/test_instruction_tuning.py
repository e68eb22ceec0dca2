"""Instruction tuning: mixtures of tasks, the forms of examples, and kinds that are held out."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from training_cases import ITEMS, TASK

from adapt_jax.methods.instruction_examples import (
    WORDINGS,
    Forms,
    Part,
    list_wordings,
    tokenize_parts,
)
from adapt_jax.methods.instruction_tuning import InstructionTuning
from adapt_jax.methods.task_mixtures import Share, compute_counts, draw_examples, hold_out
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.templates import CHAT, Template
from adapt_jax.utils.errors import UserError

TRAINING = {"steps": 3, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 0}


def write_tasks(folder: Path) -> list[str]:
    """Three small tasks in files: sums, colours as free text, and yes or no."""
    rows = {
        "doubles": [{"question": f"Double {n}.", "answer": 2 * n} for n in range(12)],
        "colours": [
            {
                "instruction": f"Name a colour for {n}.",
                "instances": [{"input": "", "output": "Red"}],
            }
            for n in range(6)
        ],
        "parity": [{"question": f"Is {n} even?", "answer": n % 2 == 0} for n in range(20)],
    }
    changes: dict[str, dict[str, Any]] = {
        "doubles": {},
        "colours": {
            "fields": {
                "question": "{instruction}\n{instances.0.input}",
                "answer": "{instances.0.output}",
            },
            "answer_parser": "free_text",
            "scorer": "token_f1",
            "template": {"answer": " {answer}", "answer_with_reasoning": " {reasoning} {answer}"},
        },
        "parity": {"answer_parser": "yes_no", "instruction": "Say yes or no."},
    }
    for name, values in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in values)
        (folder / f"{name}.jsonl").write_text(lines)
        task = {
            "name": name,
            "source": {"name": "jsonl", "path": f"{name}.jsonl"},
            "splits": {"test": 2},
            **changes[name],
        }
        (folder / f"{name}.yaml").write_text(json.dumps(task))
    return [str(folder / f"{name}.yaml") for name in rows]


def texts(model: Any, parts: list[Part], forms: Forms, seed: int = 0, **options: Any) -> list[str]:
    """Each example as text, with | before its target."""
    found = tokenize_parts(model, Prompt(), parts, forms, seed, **options)
    return [
        model.decode(one.tokens[: one.target_start])
        + "|"
        + model.decode(one.tokens[one.target_start :])
        for one in found.examples
    ]


# Shares


def test_examples_are_in_proportion_to_sizes_up_to_the_cap() -> None:
    shares = [Share(3000), Share(500), Share(20)]
    assert compute_counts(shares, 1.0, None) == [3000, 500, 20]
    assert compute_counts(shares, 1.0, 352) == [300, 50, 2]


def test_a_temperature_evens_the_sizes_out_and_a_rate_multiplies_a_share() -> None:
    assert compute_counts([Share(100), Share(4)], 2.0, 60) == [50, 10]
    assert compute_counts([Share(100), Share(4)], 1000.0, 60) == [30, 30]
    assert compute_counts([Share(100), Share(100, 3.0)], 1.0, 200) == [50, 150]
    assert compute_counts([Share(0), Share(10)], 1.0, 7) == [0, 7]
    assert sum(compute_counts([Share(1)] * 3, 1.0, 100)) == 100


def test_every_example_is_drawn_before_one_is_drawn_again() -> None:
    drawn = draw_examples(TASK, ITEMS, 2 * len(ITEMS) + 3, seed=0)
    counts = Counter(one.question for one in drawn)
    assert len({one.id for one in drawn}) == len(drawn) == 35
    assert sorted(counts.values()) == [2] * 13 + [3] * 3
    assert draw_examples(TASK, ITEMS[::-1], 5, seed=0) == draw_examples(TASK, ITEMS, 5, seed=0)
    assert draw_examples(TASK, ITEMS, 5, seed=1) != draw_examples(TASK, ITEMS, 5, seed=0)


def test_a_kind_is_a_task_or_a_category() -> None:
    kinds = [replace(one, category=f"kind {n % 2}") for n, one in enumerate(ITEMS)]
    task, other = replace(TASK, train=kinds, test=()), Task("other", ITEMS[:4], (), ITEMS[4:9])
    trained, evaluated = hold_out([task, other], ["other", "kind 1"], 3, seed=0)
    assert [one.name for one in trained] == ["sums"]
    assert {one.category for one in trained[0].train} == {"kind 0"}
    assert [{example.category for example in one.test} for one in evaluated] == [
        {"kind 1"},
        {"other"},
    ]
    assert [len(one.test) for one in evaluated] == [3, 3] and not evaluated[0].train
    with pytest.raises(UserError, match="no task or category 'othr'.*did you mean 'other'"):
        hold_out([task, other], ["othr"], 3, seed=0)
    with pytest.raises(UserError, match="nothing is left to train on"):
        hold_out([other], ["other"], 3, seed=0)


# Forms


def test_a_task_keeps_its_instruction_and_uses_its_own_templates() -> None:
    general = list_wordings(TASK)
    assert {instruction for _, instruction in general} == {"Solve the problem."}
    assert {template.question for template, _ in general} == {one for _, one in WORDINGS}
    bare = list_wordings(replace(TASK, instruction=""))
    assert {instruction for _, instruction in bare} == {one for one, _ in WORDINGS}
    own = Template(question="{{ question }} Well?")
    assert list_wordings(replace(TASK, templates=(own,))) == [
        (TASK.template, TASK.instruction),
        (own, TASK.instruction),
    ]
    assert list_wordings(replace(TASK, template=CHAT)) == [(CHAT, TASK.instruction)]


def test_the_form_of_an_example_depends_on_seed_and_id_alone(tiny: Any) -> None:
    forms = Forms(few_shot_share=0.4, max_demonstrations=2, inversion_share=0.2)
    parts = [Part(TASK, ITEMS, ITEMS), Part(replace(TASK, name="b"), ITEMS[:5], ITEMS)]
    parts[1] = replace(parts[1], examples=[replace(one, id=f"b-{one.id}") for one in ITEMS[:5]])
    shown = texts(tiny, parts, forms)
    turned = [replace(one, examples=one.examples[::-1], pool=ITEMS[::-1]) for one in parts[::-1]]
    assert texts(tiny, turned, forms) == shown
    assert texts(tiny, parts, forms, seed=1) != shown
    # one example fewer changes no other one
    fewer = [replace(parts[0], examples=ITEMS[1:]), parts[1]]
    assert set(texts(tiny, fewer, forms)) < set(shown)


def test_demonstrations_are_other_examples_and_only_as_many_as_fit(tiny: Any) -> None:
    forms = Forms(few_shot_share=1.0, max_demonstrations=3, reasoning=False)
    parts = [Part(replace(TASK, templates=(Template(),)), ITEMS, ITEMS)]
    shown = texts(tiny, parts, forms)
    counts = Counter(one.count("\n\nQ:") for one in shown)
    assert set(counts) == {2, 3, 4}
    for text in shown:
        before, _, asked = text.rpartition("Q: ")
        assert asked.partition("\n")[0] not in before
        assert text.endswith(".") and text.count("|") == 1
    plain = tokenize_parts(tiny, Prompt(), parts, Forms(reasoning=False), 0)
    limit = max(len(one.tokens) for one in plain.examples) + 1
    short = tokenize_parts(tiny, Prompt(), parts, forms, 0, max_length=limit)
    assert not short.too_long and len(short.examples) == len(ITEMS)


def test_inversion_gives_the_answer_and_asks_for_the_question(tiny: Any) -> None:
    shown = texts(tiny, [Part(TASK, ITEMS, ITEMS)], Forms(inversion_share=1.0))
    for text, item in zip(shown, sorted(ITEMS, key=lambda one: one.id), strict=True):
        given, target = text.split("|")
        assert target == f" {item.question}" and f": {item.answer}\n" in given
        assert "It belongs to this: Solve the problem." in given


def test_reasoning_stays_in_the_mixture_whatever_the_task_of_the_run_has(tiny: Any) -> None:
    bare = [Example(f"bare-{n}", f"Is {n} odd?", "yes") for n in range(4)]
    parts = [Part(Task("bare", bare, (), ()), bare, bare), Part(TASK, ITEMS, ITEMS)]
    shown = texts(tiny, parts, Forms())
    assert sum("Jane starts with" in one.partition("|")[2] for one in shown) == len(ITEMS)


# The method


def test_the_embedded_mixture_holds_kinds_out(tiny: Any) -> None:
    method = InstructionTuning(
        training=TRAINING, examples_per_category=4, eval_size=3, held_out=["owner", "reverse"]
    )
    before = jax.tree.map(np.asarray, nnx.state(tiny.decoder))
    tuned = method.adapt(tiny, TASK)
    after = nnx.state(tuned.adaptation.model.decoder)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), before, after)))
    [held_out] = tuned.held_out
    assert Counter(one.category for one in held_out.test) == {"owner": 3, "reverse": 3}
    assert held_out.parser == "text"
    assert tuned.details["held_out"] == ["owner", "reverse"] and json.dumps(tuned.details)
    assert tuned.adaptation.prompt.instruction == TASK.instruction
    parts = method._build_parts(tiny, TASK, 0)
    assert not {one.category for part in parts for one in part.examples} & {"owner", "reverse"}
    assert tuned.details["examples"] == len(TASK.train) + 13 * 4
    default = InstructionTuning(examples_per_category=1, eval_size=1)
    [found] = default.held_out_tasks(tiny, TASK, 0)
    assert {one.category for one in found.test} == {
        *("owner", "reverse", "smaller", "sequence", "digits")
    }


def test_a_local_file_of_instructions_is_a_mixture(tiny: Any, tmp_path: Path) -> None:
    rows = [
        {"instruction": "Say it again.", "input": word, "output": word, "category": kind}
        for kind in ("repeat", "echo")
        for word in (f"word {kind} {n}" for n in range(4))
    ]
    rows.append({"instruction": TASK.test[0].question, "output": "8"})
    file = tmp_path / "mixture.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    method = InstructionTuning(mixture=str(file), held_out=["echo"], eval_size=2)
    [part, other] = method._build_parts(tiny, TASK, 0)
    assert len(part.examples) == 12
    assert len(other.examples) == 4  # the task's own test question was left out
    [held_out] = method.held_out_tasks(tiny, TASK, 0)
    assert [one.category for one in held_out.test] == ["echo", "echo"]
    assert held_out.test[0].question.startswith("Say it again.\nword")
    file.write_text('{"instruction": "a", "output": "b"}\n{"instruction": "a", "outptu": "b"}')
    with pytest.raises(UserError, match="line 2: expected a text in field 'output'"):
        method._build_parts(tiny, TASK, 0)


def test_unknown_mixtures_and_kinds_are_reported(tiny: Any) -> None:
    with pytest.raises(UserError, match="did you mean 'arithmetic'"):
        InstructionTuning(mixture="aritmetic")._build_parts(tiny, TASK, 0)
    with pytest.raises(UserError, match="no task or category 'ownr'.*did you mean 'owner'"):
        InstructionTuning(held_out=["ownr"])._build_parts(tiny, TASK, 0)
    with pytest.raises(UserError, match="no such file"):
        InstructionTuning(mixture="nowhere.jsonl")._build_parts(tiny, TASK, 0)
    with pytest.raises(UserError, match="no such file"):
        InstructionTuning(tasks=["nowhere.yaml"]).list_inputs()
    with pytest.raises(ValueError, match="add up to more than 1"):
        InstructionTuning(few_shot_share=0.8, inversion_share=0.4)


def test_a_mixture_of_tasks_has_rates_and_caps_and_leaves_a_task_out(
    tiny: Any, tmp_path: Path
) -> None:
    doubles, colours, parity = write_tasks(tmp_path)
    method = InstructionTuning(
        tasks=[doubles, {"task": colours, "rate": 2}, {"task": parity, "cap": 5}],
        max_examples_per_task=8,
        held_out=["colours"],
        eval_size=2,
        training=TRAINING,
        max_new_tokens=4,
    )
    parts = {part.task.name: part for part in method._build_parts(tiny, TASK, 0)}
    sizes = {name: len(part.examples) for name, part in parts.items()}
    assert sizes == {"sums": 8, "doubles": 8, "parity": 5}
    assert len(parts["parity"].pool) == 18  # demonstrations may be any of its examples
    tuned = method.adapt(tiny, TASK)
    [held_out] = tuned.held_out
    assert (held_out.scorer, held_out.parser, len(held_out.test)) == ("token_f1", "free_text", 2)
    assert held_out.test[0].question.startswith("Name a colour for")
    assert tuned.details["held_out"] == ["colours"] and tuned.details["examples"] == 21
    assert tuned.details["examples_by_task"] == {"sums": 8, "doubles": 8, "parity": 5}
    with pytest.raises(UserError, match="a task named 'doubles' is in the mixture"):
        InstructionTuning(tasks=[doubles, doubles]).list_inputs()


def test_the_tasks_of_the_run_itself_can_be_left_out(tiny: Any, tmp_path: Path) -> None:
    doubles, _, parity = write_tasks(tmp_path)
    tasks = [doubles, parity]
    method = InstructionTuning(tasks=tasks, held_out=["sums"], training=TRAINING, eval_size=2)
    asked = replace(TASK, train=())
    assert method.build_prompt(tiny, asked, 0).instruction == TASK.instruction
    assert [one.name for one in method.held_out_tasks(tiny, asked, 0)] == ["sums"]
    parts = method._build_parts(tiny, asked, 0)
    assert {part.task.name: len(part.examples) for part in parts} == {"doubles": 10, "parity": 18}


def test_the_inputs_of_the_method_are_the_data_of_its_tasks(tmp_path: Path) -> None:
    from adapt_jax.utils.hashing import identity

    tasks = write_tasks(tmp_path)
    before = identity(InstructionTuning(tasks=tasks).list_inputs())
    assert identity(InstructionTuning(tasks=tasks).list_inputs()) == before
    data = tmp_path / "doubles.jsonl"
    data.write_text(data.read_text().replace("Double 3.", "Twice 3."))
    assert identity(InstructionTuning(tasks=tasks).list_inputs()) != before
