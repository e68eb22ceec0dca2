"""Template: the text in front of, around and after a question."""

from typing import Any

import pytest

from adapt_jax.tasks.example import Example
from adapt_jax.tasks.templates import Demonstration, Template
from adapt_jax.utils.errors import UserError

APPLES = Demonstration("How many apples are 2 and 3?", "5", "2 + 3 = 5.")
PEARS = Demonstration("How many pears are 4 and 4?", "8", "4 + 4 = 8.")


def test_prefix_question_and_answer_are_the_whole_text() -> None:
    template = Template()
    text = (
        template.prompt_prefix("Solve it.", [APPLES], reasoning=True)
        + template.format_question(PEARS.question)
        + template.format_answer(PEARS.answer, PEARS.reasoning)
    )
    assert text == (
        "Solve it.\n\n"
        "Q: How many apples are 2 and 3?\nA: 2 + 3 = 5. The answer is 5.\n\n"
        "Q: How many pears are 4 and 4?\nA: 4 + 4 = 8. The answer is 8."
    )


def test_a_prefix_without_reasoning_shows_bare_answers() -> None:
    prompt_prefix = Template().prompt_prefix("", [APPLES], reasoning=False)
    assert prompt_prefix == "Q: How many apples are 2 and 3?\nA: The answer is 5.\n\n"


def test_no_instruction_and_no_demonstration_is_an_empty_prefix() -> None:
    assert Template().prompt_prefix("", [], reasoning=True) == ""


def test_braces_of_a_question_are_left_alone() -> None:
    question = 'What is {answer} in {"a": {question}}?'
    assert Template().format_question(question) == f"Q: {question}\nA:"
    assert Template().format_answer("{reasoning}", "see {answer}") == (
        " see {answer} The answer is {reasoning}."
    )


def test_choices_stand_on_lines_below_the_question_in_demonstrations_too() -> None:
    asked = "Q: Which is red?\n(a) sky\n(b) blood\nA:"
    assert Template().format_question("Which is red?", ("sky", "blood")) == asked
    shown = Demonstration.of(Example("1", "Which is red?", "b", choices=("sky", "blood")))
    assert Template().prompt_prefix("", [shown], reasoning=False).startswith(asked)
    assert (
        Template(choice="").format_question("Which is red?", ("sky", "blood"))
        == "Q: Which is red?\nA:"
    )


def test_more_choices_than_letters_are_refused() -> None:
    many = [str(n) for n in range(27)]
    with pytest.raises(UserError, match="27 choices"):
        Template().format_question("Which?", many)
    assert Template(choice="").format_question("Which?", many) == "Q: Which?\nA:"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (" 2 + 3 = 5. The answer is 5.", ("2 + 3 = 5.", " 5.")),
        (" So the answer is 5.", ("So", " 5.")),
        ("The answer is the sum. The answer is 7.", ("The answer is the sum.", " 7.")),
        (" 5.", (" 5.", " 5.")),
    ],
)
def test_split_cuts_at_the_last_marker_in_any_letter_case(
    text: str, parts: tuple[str, str]
) -> None:
    assert Template().split_reasoning(text) == parts


def test_split_undoes_respond_for_other_wordings() -> None:
    template = Template(answer="\nA: {answer}", answer_with_reasoning="{reasoning}\nA: {answer}")
    assert template.split_reasoning(template.format_answer("5", "The area: 5.")) == (
        "The area: 5.",
        " 5",
    )
    assert template.split_reasoning("The area: 5") == ("The area: 5", "The area: 5")
    bare = Template(answer=" {answer}", answer_with_reasoning=" {reasoning} So: {answer}")
    assert bare.split_reasoning(bare.format_answer("5", "2 + 3")) == ("2 + 3", " 5")
    assert bare.split_reasoning(bare.format_answer("5")) == (" 5", " 5")


def test_stop_is_where_the_next_question_would_begin_unless_given() -> None:
    assert Template().stop == ("\n\nQ:",)
    assert Template(question="Question: {question}\n", separator="\n###\n").stop == (
        "\n###\nQuestion:",
    )
    assert Template(question="{question}\n").stop == ()
    assert Template(stop=("END",)).stop == ("END",)


@pytest.mark.parametrize(
    ("field", "wording", "message"),
    [
        ("question", "Q: {qestion}", r"template.question: unknown.*did you mean 'question'"),
        ("question", "Q:", r"template.question: lacks \{question\}"),
        (
            "answer_with_reasoning",
            " {answer}",
            r"template.answer_with_reasoning: lacks \{reasoning\}",
        ),
        ("answer", 5, r"template.answer: expected a text, found 5"),
        ("stop", True, r"template.stop: expected texts that are not empty, found True"),
        ("stop", "", r"template.stop: expected texts that are not empty, found ''"),
        ("stop", ["END", 5], r"template.stop: expected texts that are not empty, found \['END', 5"),
        ("chat", "yes", r"template.chat: expected true or false, found 'yes'"),
        ("chat_template_args", {"x": 1}, r"template.chat_template_args: belongs to `chat: true`"),
    ],
)
def test_a_wrong_wording_is_refused_by_the_name_of_its_field(
    field: str, wording: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Template(**{field: wording})
