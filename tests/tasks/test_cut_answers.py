"""Answers in texts that were cut off: a complete one is read, the beginning of one is not."""

import pytest

from adapt_jax.tasks.answers import PARSERS, read_answer
from adapt_jax.tasks.answers.cut_answers import read_cut_answer
from adapt_jax.tasks.templates import Template

PLAIN = Template()
UNMARKED = Template(answer="{answer}", answer_with_reasoning="{reasoning}{answer}")
PLACES = ("New", "New York", "Paris")
COLOURS = ("sky", "blood", "grass")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        *(("5. Then", "5"), ("5, since two and thr", "5"), ("5.\n\nQ", "5"), ("5.\tAnd", "5")),
        *(("5. ", "5"), ("5 apples", "5"), ("5 apples.", "5"), ("18%", "18"), ("(18)", "18")),
        *(("\\boxed{18}", "18"), ("**18**", "18"), ("$5$", "5"), ("$\\frac{18}{5}$", "3.6")),
        *(("twenty, wh", "20"), ("5\n\nQ: Joe has 3", "5"), ("$18, which is", "18")),
        *(("5, because 3", "5"), ("5. T", "5")),
        *(("", None), ("1", None), ("1 0", None), ("-", None), ("5.", None), ("5,", None)),
        *(("5 ", None), ("5 m", None), ("5 t", None), ("5 o", None), ("5 and", None)),
        *(("5 apples an", None), ("3 1", None), ("5 feet", None), ("18 =", None)),
        *(("twenty t", None), ("\\boxed{18", None), ("\\frac{1}", None), ("5; ", None)),
        *(("5. No wait, the answer i", None), ("5. The answer is", None)),
    ],
)
def test_numbers(text: str, answer: str | None) -> None:
    assert read_cut_answer("number", f" 2 + 3. The answer is {text}", PLAIN) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        *(
            ("New York.", "New York"),
            ("New.", "New"),
            ("Paris.\n", "Paris"),
            ("Paris, no", "Paris"),
        ),
        *(("New", None), ("New Yor", None), ("New York", None), ("New ", None), ("Par", None)),
    ],
)
def test_labels_of_which_one_begins_another(text: str, answer: str | None) -> None:
    assert read_cut_answer("label", f" The answer is {text}", PLAIN, PLACES) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        *(("(A)", "a"), ("(A).", "a"), ("sky.", "a"), ("B. blo", "b"), ("(B) blood, becau", "b")),
        *(("A", None), ("A o", None), ("(A) or", None), ("(A) bl", None), ("sk", None)),
    ],
)
def test_choices(text: str, answer: str | None) -> None:
    assert read_cut_answer("choice", f" The answer is {text}", PLAIN, COLOURS) == answer


@pytest.mark.parametrize(
    ("parser", "text", "answer"),
    [
        *(("yes_no", "yes.", "yes"), ("yes_no", "no, be", "no"), ("yes_no", "no", None)),
        *(("yes_no", "no o", None), ("yes_no", "yes an", None), ("yes_no", "yes/", None)),
        *(("text", "Paris.\n\nQ", "paris"), ("text", "Paris", None), ("text", "St.", None)),
        *(("free_text", "Paris.", None), ("free_text", "Paris.\n\nQ", None)),
        *(("label", "Paris.\n\nQ", "paris"), ("label", "Paris.", None)),  # no labels are known
    ],
)
def test_other_parsers(parser: str, text: str, answer: str | None) -> None:
    assert read_cut_answer(parser, f" The answer is {text}", PLAIN) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        *(("$3$", "$3$"), ("\\boxed{3}", "$3$"), ("$\\frac{1}{2}$.\n\nQ", "$\\frac{1}{2}$")),
        *(("$\\frac{1}{2} + x", None), ("\\boxed{3", None), ("$3$ o", None)),
    ],
)
def test_mathematics(text: str, answer: str | None) -> None:
    pytest.importorskip("math_verify")
    assert read_cut_answer("math", f" The answer is {text}", PLAIN) == answer


@pytest.mark.parametrize(
    ("parser", "text", "answer"),
    [
        *(("label", "New\n\nText:", "New"), ("label", "Paris. I think", "Paris")),
        *(("label", "New", None), ("label", "Par", None), ("choice", "(B) bl", "b")),
        # without a marker the last number of the whole text is the answer
        *(("number", "5.\n\nQ", None), ("number", "5 and 6.", None)),
    ],
)
def test_a_template_without_a_marker(parser: str, text: str, answer: str | None) -> None:
    choices = PLACES if parser == "label" else COLOURS if parser == "choice" else ()
    assert read_cut_answer(parser, text, UNMARKED, choices) == answer


@pytest.mark.parametrize(
    ("parser", "choices", "text"),
    [
        ("number", (), "180 apples, as 12 * 15 = 180.\n\nQ: Joe has 7."),
        ("number", (), "$1,234.50 in total. So"),
        ("number", (), "5 million five hundred thousand."),
        ("number", (), "3 1/2 cups. Done."),
        ("number", (), "between 5 and 7, say 6. Yes."),
        ("number", (), "12 + 5 = 17 apples. That is all."),
        ("number", (), "\\boxed{\\frac{18}{5}}. The end"),
        ("number", (), "10^{3} metres. The end"),
        ("number", (), "twenty-one apples. The end"),
        ("number", (), "-3.25 degrees. The end"),
        ("number", (), "7 or 8. The end"),
        ("number", (), "1 234 567 people. The end"),
        ("label", PLACES, "New York. It is large."),
        ("label", PLACES, "Paris, France. It is large."),
        ("label", (), "New York\n\nText: another"),
        ("choice", COLOURS, "(B) blood, because it is red."),
        ("choice", COLOURS, "A or B. Both are right."),
        ("choice", COLOURS, "B. blood.\n\nQ: What is green?"),
        ("choice", COLOURS, "the blood of a dragon"),
        ("yes_no", (), "yes and no. It depends."),
        ("yes_no", (), "no one knows. So no."),
        ("text", (), "Paris in France.\n\nQ: Why?"),
        ("span", (), "the capital, a city\n\nQ: Why?"),
        ("free_text", (), "Paris in France.\n\nQ: Why?"),
        ("last_line", (), "Paris\nin France.\n\nQ: Why?"),
        ("date", (), "3 May 2021.\n\nQ: Why?"),
        ("date", (), "11/22/2001. It is a Thursday"),
        ("json:answer", (), '{"answer": "New York"}\nQ: Why?'),
        (r"regex:(\d+)", (), "180 apples. Then 7"),
    ],
)
def test_the_beginning_of_an_answer_is_never_another_answer(
    parser: str, choices: tuple[str, ...], text: str
) -> None:
    whole = f" The answer is {text}"
    read = {read_cut_answer(parser, whole[:n], PLAIN, choices) for n in range(len(whole) + 1)}
    assert read <= {None, read_answer(parser, whole, PLAIN, choices)}, read


def test_a_parser_of_a_plugin_reads_what_its_last_word_does_not_change() -> None:
    @PARSERS.register("first_word_of_test")
    def first_word(text: str, choices: object) -> str | None:
        return text.split()[0] if text.split() else None

    try:
        read = lambda text: read_cut_answer("first_word_of_test", text, PLAIN)  # noqa: E731
        assert read(" The answer is one tw") == "one"
        assert read(" The answer is one") is None and read(" The answer is one.") is None
    finally:
        del PARSERS._entries["first_word_of_test"]
