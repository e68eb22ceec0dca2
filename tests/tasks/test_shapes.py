"""Shapes of rows that need no ``fields``, and conversations."""

import json
from pathlib import Path
from typing import Any

import pytest

from adapt_jax.tasks.loading import load_question_format, load_task
from adapt_jax.tasks.task import Task
from adapt_jax.utils.errors import UserError


def load(tmp_path: Path, rows: Any, name: str = "a.jsonl", **config: Any) -> Task:
    is_lines = name.endswith("jsonl")
    text = "".join(json.dumps(row) + "\n" for row in rows) if is_lines else json.dumps(rows)
    (tmp_path / name).write_text(text)
    return load_task({"name": "t", "source": name, "splits": {"test": 1.0}, **config}, tmp_path)


def chat(*turns: str, keys: tuple[str, str] = ("role", "content")) -> list[dict[str, str]]:
    return [dict(zip(keys, turn.split(": ", 1), strict=True)) for turn in turns]


@pytest.mark.parametrize(
    ("rows", "shape", "question", "parser"),
    [
        (
            [{"instruction": "Add.", "input": "1 1", "output": "It is two."}],
            "Alpaca", "Add.\n1 1", "free_text",
        ),
        ([{"instruction": "Add.", "input": "", "output": "4"}], "Alpaca", "Add.", "number"),
        ([{"instruction": "Why?", "output": "So."}], "instruction/output", "Why?", "free_text"),
        ([{"prompt": "Why?", "completion": "No."}], "prompt/completion", "Why?", "yes_no"),
        ([{"inputs": "Why?", "targets": "a\nb"}], "FLAN", "Why?", "free_text"),
        ([{"question": "3?", "answer": 3}], "question/answer", "3?", "number"),
        (
            [{"definition": "Add.", "id": "1", "input": "1 1", "output": "2", "task_name": "t"}],
            "natural-instructions", "Add.\n1 1", "number",
        ),
        (
            [{"conversations": chat("human: Hi?", "gpt: Yo.", keys=("from", "value"))}],
            "ShareGPT", "Hi?", "free_text",
        ),
        (
            [{"messages": chat("system: Be kind.", "user: Hi?", "assistant: Yo.")}],
            "chat messages", "Be kind.\n\nHi?", "free_text",
        ),
    ],
)  # fmt: skip
def test_a_known_shape_needs_no_fields(
    rows: Any, shape: str, question: str, parser: str, tmp_path: Path
) -> None:
    task = load(tmp_path, rows)
    assert task.test[0].question == question
    assert task.parser == parser
    assert task.summary is not None
    assert task.summary.describe_splits()[0].startswith(f"rows have the shape {shape}")
    config = {"name": "t", "source": str(tmp_path / "a.jsonl")}
    assert task.question_format is not None
    assert load_question_format(config).fields == task.question_format.fields


def test_a_task_file_of_natural_instructions_is_read(tmp_path: Path) -> None:
    content = {
        "Contributors": ["x"],
        "Definition": ["Say the opposite."],
        "Positive Examples": [{"input": "up", "output": "down", "explanation": "e"}],
        "Instances": [{"id": "i1", "input": "in", "output": ["out", "outside"]}],
    }
    (example,) = load(tmp_path, content, "task001.json").test
    assert example.question == "Say the opposite.\nin"
    assert example.accepted == ("out", "outside")


def test_a_conversation_of_several_turns_names_its_roles(tmp_path: Path) -> None:
    turns = ["system: Be kind.", "user: Hi?", "assistant: Yo.", "user: And?", "assistant: 7"]
    (example,) = load(tmp_path, [{"messages": chat(*turns, "user: Thanks")}]).test
    assert example.question == "Be kind.\n\nUser: Hi?\n\nAssistant: Yo.\n\nUser: And?"
    assert example.answer == "7"
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi?"}]}, *chat("assistant: 1")]
    assert load(tmp_path, [{"messages": parts}]).test[0].question == "Hi?"


TOOL_CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "sky", "arguments": '{"at": "Rome"}'},
}


@pytest.mark.parametrize(
    "row",
    [
        {
            "messages": [
                *chat("system: Use tools.", "user: Sun?"),
                {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": "clear"},
                *chat("assistant: Yes."),
            ]
        },
        {
            "conversations": chat(
                "system: Use tools.",
                "human: Sun?",
                'function_call: {"name": "sky", "arguments": {"at": "Rome"}}',
                "observation: clear",
                "gpt: Yes.",
                keys=("from", "value"),
            ),
            "tools": "[]",
        },
    ],
)
def test_calls_of_tools_and_their_results_are_turns(row: Any, tmp_path: Path) -> None:
    call = '{"name": "sky", "arguments": {"at": "Rome"}}'
    (example,) = load(tmp_path, [row]).test
    asked = ["Use tools.", "User: Sun?", f"Assistant: {call}", "Tool: clear"]
    assert example.question == "\n\n".join(asked)
    assert example.answer == "Yes."
    (turns,) = (value for key, value in row.items() if key != "tools")
    assert load(tmp_path, [{next(iter(row)): turns[:3]}]).test[0].answer == call


def test_no_input_is_lost_where_the_first_rows_have_none(tmp_path: Path) -> None:
    rows = [{"instruction": "Sing.", "output": "La"}] * 2
    rows += [{"instruction": "Add.", "input": "1 1", "output": "two"}]
    task = load(tmp_path, rows)
    assert {example.question for example in task.test} == {"Sing.", "Add.\n1 1"}
    with pytest.raises(UserError, match="line 1: no row has the field 'inputt' .* 'input'"):
        fields = {"question": "{instruction} {inputt}", "answer": "output"}
        load(tmp_path, rows, fields=fields, answer_parser="text")


def test_a_conversation_in_a_table_is_a_text_of_it(tmp_path: Path) -> None:
    turns = chat("user: Hi?", "assistant: Yo.")
    for text in (json.dumps(turns), str(turns)):
        (tmp_path / "c.csv").write_text('messages\n"{}"\n'.format(text.replace('"', '""')))
        (example,) = load_task(
            {"name": "t", "source": "c.csv", "splits": {"test": 1.0}}, tmp_path
        ).test
        assert (example.question, example.answer) == ("Hi?", "Yo.")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"instruction": "a", "output": "b", "prompt": "c", "completion": "d"},
            r"line 1: has the shapes instruction/output \(instruction, output\) and prompt/compl",
        ),
        ({"text": "a", "label": "b"}, r"line 1: no field 'question'; it has: text, label; `fi"),
        ({"messages": [{"role": "usr", "content": "a"}]}, "message 1: the role 'usr' is none of"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "message 1: the role .* is none of"),
        ({"messages": "[not a list"}, "no field .question"),
        ({"messages": chat("user: a")}, "line 1: field 'messages': no answer of the assistant"),
        ({"messages": chat("assistant: a")}, "the user says nothing before the answer"),
    ],
)  # fmt: skip
def test_a_shape_that_is_not_clear_is_refused(row: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, [row])


def test_a_text_that_names_a_number_is_no_number(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "Number 7\nis fine."}]
    assert load(tmp_path, rows).parser == "free_text"


def test_given_fields_are_those_that_count(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "output": "1", "prompt": "c", "completion": "2"}]
    task = load(tmp_path, rows, fields={"question": "prompt", "answer": "output"})
    assert (task.test[0].question, task.test[0].answer) == ("c", "1")
    assert task.summary is not None and task.summary.shape == ""
