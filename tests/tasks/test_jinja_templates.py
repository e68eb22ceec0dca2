"""Templates of tasks in Jinja: what they see, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from adapt_jax.tasks.example import Example
from adapt_jax.tasks.loading import load_question_format, load_task
from adapt_jax.tasks.sources.readers import read_rows
from adapt_jax.tasks.templates import Demonstration, Template
from adapt_jax.utils import jinja_text
from adapt_jax.utils.errors import UserError

ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
ROWS = [
    {"premise": "It rains.", "hypothesis": "It is wet.", "label": "yes", "score": 2.5},
    {"premise": "It snows.", "hypothesis": "It is hot & <dry>.", "label": "no", "score": 2.5},
    {"premise": "It hails.", "hypothesis": "It is loud.", "label": "yes", "hint": "Think!"},
]
QUESTION = "{{ premise }}\nTrue or not: {{ question }}"


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    """A file of pairs of sentences; `2.50` is written so in it."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).replace("2.5", "2.50")
    (tmp_path / "pairs.jsonl").write_text(lines)
    return tmp_path / "task.yaml"


def write(path: Path, **changes: Any) -> Path:
    task = {
        "name": "pairs",
        "source": {"name": "jsonl", "path": "pairs.jsonl"},
        "fields": {"question": "hypothesis", "answer": "label"},
        "answer_parser": "yes_no",
        "splits": {"test": 1},
        **changes,
    }
    path.write_text(json.dumps(task))
    return path


def test_fields_of_a_row_are_there_by_name_and_nothing_is_escaped(task_file: Path) -> None:
    template = {"question": "{{ premise }} ({{ score | default(hint) }})\n{{ question }}\nA:"}
    task = load_task(write(task_file, template=template))
    asked = {task.template.format_example(one) for one in (*task.train, *task.test)}
    assert asked == {
        "It rains. (2.50)\nIt is wet.\nA:",
        "It snows. (2.50)\nIt is hot & <dry>.\nA:",
        "It hails. (Think!)\nIt is loud.\nA:",
    }


def test_a_field_that_a_row_lacks_is_an_error_unless_the_template_asks(task_file: Path) -> None:
    with pytest.raises(UserError, match=r"task.yaml: template.question: 'hint' is undefined"):
        load_task(write(task_file, template={"question": "{{ hint }} {{ question }}"}))
    kind = "{{ question }}{% if hint is defined %} {{ hint }}{% endif %}"
    task = load_task(write(task_file, template={"question": kind}))
    asked = sorted(task.template.format_example(one) for one in (*task.train, *task.test))
    assert asked == ["It is hot & <dry>.", "It is loud. Think!", "It is wet."]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("{{ premis }}", "no row has a field 'premis'; did you mean 'premise'"),
        ("{{ label }} {{ question }}", "the field 'label' holds the answer"),
        ("{{ row.label }}", "has no attribute 'label'"),
        ("{{ answer }} {{ question }}", "'answer' would be given away"),
        ("{{ question.__class__ }}", "unsafe"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}{{ question }}", "unsafe"),
        ("{{ question }}{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{{ 'a' * 3000000000 }}{{ question }}", "more than 1 GiB"),
        ("{% if %}{{ question }}", "Expected an expression"),
        ("{{ 'Why?' }}", "names neither question nor a field of its row"),
        ("{% include '/etc/passwd' %}{{ question }}", "no loader"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line_with_file_and_key(
    question: str, message: str, task_file: Path
) -> None:
    with pytest.raises(UserError, match=f"task.yaml: .*template.question: .*{message}") as caught:
        load_task(write(task_file, template={"question": question}))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("key", ["question", "answer", "instruction"])
def test_a_template_that_does_not_end_is_refused(
    key: str, task_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jinja_text, "MAX_CPU_SECONDS", 0.2)
    wording = ENDLESS + f"{{{{ {key} }}}}"
    path = write(task_file, template={key: wording}, instruction="Say yes or no.")
    with pytest.raises(UserError, match=f"task.yaml: template.{key}: it does not end within 0.2"):
        load_task(path).template.prompt_prefix("Say.", (), False)


def test_all_fields_are_there_as_row_without_the_answer_in_any_depth(task_file: Path) -> None:
    row = {"a name": "Joe", "instances": [{"input": "2", "output": "4"}], "instruction": "Double"}
    (task_file.parent / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    task = load_task(
        write(
            task_file,
            fields={"question": "instruction", "answer": "instances.0.output"},
            template={"question": "{{ row['a name'] }}: {{ row | tojson }}"},
            answer_parser="number",
        )
    )
    assert task.test[0].answer == "4"
    assert task.template.format_example(task.test[0]) == (
        'Joe: {"a name": "Joe", "instances": [{"input": "2"}], "instruction": "Double"}'
    )


def test_choices_are_listed_once() -> None:
    example = Example("1", "Which?", "b", choices=("sky", "blood"))
    listed = Template(question="{{ question }}\nA:").format_example(example)
    assert listed == "Which?\n(a) sky\n(b) blood\nA:"
    own = "{{ question }}{% for one in choices %} {{ loop.index }}. {{ one }}{% endfor %}"
    assert Template(question=own).format_example(example) == "Which? 1. sky 2. blood"


def test_demonstrations_show_the_fields_of_their_rows() -> None:
    template = Template(question="{{ premise }} {{ question }}\nA:")
    shown = Demonstration.of(Example("1", "Wet?", "yes", fields={"premise": "It rains."}))
    assert template.prompt_prefix("", [shown], False) == (
        "It rains. Wet?\nA: The answer is yes.\n\n"
    )
    with pytest.raises(UserError, match=r"needs fields of a row \(premise\), which"):
        template.format_question("Wet?")


def test_answers_in_jinja_are_found_again() -> None:
    template = Template(
        answer=" {% if answer %}So it is {{ answer | trim }}!{% endif %}",
        answer_with_reasoning=" {{ reasoning }}{{ ' So it is ' }}{{ answer }}!",
    )
    text = template.format_answer("yes", "It rains.")
    assert text == " It rains. So it is yes!"
    assert template.split_reasoning(text) == ("It rains.", " yes!")
    assert template.remove_closing(" yes!") == "yes"
    assert template.answer_opening() == " So it is "
    assert template.format_answer("yes") == " So it is yes!"
    with pytest.raises(UserError, match="template.answer: expected {{ answer }} once"):
        Template(answer="{{ answer }}{{ answer }}")
    with pytest.raises(UserError, match=r"template.answer: unknown placeholder \{reasoning\}"):
        Template(answer="{{ reasoning }}{{ answer }}")


def test_the_stop_string_and_the_space_before_an_answer_follow_from_the_words() -> None:
    template = Template(question="Q: {{ question }}\nA: ", answer="{answer}")
    assert template.stop == ("\n\nQ:",) and template.question == "Q: {{ question }}\nA:"
    assert template.format_answer("5") == " 5"
    ends_in_space = Template(question="Q: {{ question }}{{ ' ' }}")
    assert ends_in_space.format_question("Why?") == "Q: Why?"


def test_line_breaks_stay_as_they_are_written() -> None:
    text = "{% if true %}\n{{ question }}\n{% endif %}\n"
    assert Template(question=text).format_question("Why?") == "\nWhy?\n\n"


def test_braces_of_latex_are_no_jinja() -> None:
    template = Template(answer=r" \boxed{{answer}}")
    assert template.format_answer("5") == r" \boxed{5}"


def test_text_of_a_user_is_no_template() -> None:
    for question in ("{{ question.__class__ }}", "{% for %}", "{answer}", "</s><|im_end|>"):
        shown = Template(question="Q: {{ question }}").format_question(question)
        assert shown == f"Q: {question}"


def test_a_file_of_questions_is_read_with_the_fields_of_the_template(task_file: Path) -> None:
    path = write(task_file, template={"question": QUESTION})
    read = load_question_format(path)
    assert read.row_fields == ["premise"]
    rows = read_rows(task_file.parent / "pairs.jsonl")
    asked = load_task(path).template.format_example(read.read(rows[0]))
    assert asked == "It rains.\nTrue or not: It is wet."


# Several templates of a task


def test_further_templates_word_otherwise_what_they_name(task_file: Path) -> None:
    templates = ["{{ premise }} So {{ question }}", {"answer": " {answer}", "instruction": "Hm.\n"}]
    task = load_task(write(task_file, templates=templates))
    first, second = task.templates
    assert first.answer == task.template.answer and second.question == task.template.question
    assert {first.format_example(one) for one in task.train} <= {
        f"{row['premise']} So {row['hypothesis']}" for row in ROWS
    }
    assert second.prompt_prefix("", (), False) == "Hm.\n"
    assert second.format_answer("yes") == " yes"


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        (["{{ question }}", "Say it."], r"templates.2.question: lacks \{question\}"),
        (
            [{"qestion": "{question}"}],
            "templates.1: 'qestion' is none.*did you mean 'question'",
        ),
        ([{"chat": "true"}], "templates.1.chat: belongs to the task's own template"),
        (["{{ premis }} {{ question }}"], "no row has a field 'premis'"),
        (["{{ question / 2 }}"], "templates.1.question: unsupported operand"),
    ],
)
def test_a_further_template_that_cannot_be_used_is_named(
    templates: list[Any], message: str, task_file: Path
) -> None:
    with pytest.raises(UserError, match=f"task.yaml: .*{message}"):
        load_task(write(task_file, templates=templates))
