"""Parsers of dates, spans, last lines, expressions and JSON, and GSM8K as the harness reads it."""

import importlib.util
import json
import time
from pathlib import Path

import pytest

from adapt_jax.tasks.answers import PARSERS, answers_match, read_answer, read_gold
from adapt_jax.tasks.answers.cut_answers import read_cut_answer
from adapt_jax.tasks.templates import Template
from adapt_jax.utils.errors import UserError


def read(parser: str, text: str) -> str | None:
    return read_answer(parser, text, Template())


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2024-03-05", "2024-03-05"),
        ("It was signed on March 5, 2024.", "2024-03-05"),
        ("the 5th of March 2024", "2024-03-05"),
        ("5 Mar. 2024", "2024-03-05"),
        ("Sept 1st, 1939", "1939-09-01"),
        ("05.03.2024", "2024-03-05"),
        ("2024-03-05T10:30:00Z", "2024-03-05"),
        ("25/12/2024", "2024-12-25"),
        ("12/25/2024", "2024-12-25"),
        ("4/4/2024", "2024-04-04"),
        ("in March 2024", "2024-03"),
        ("03/04/2024", None),  # March or April
        ("between 2024-03-05 and 2024-03-06", None),
        ("2024-03-05, that is 5 March 2024", "2024-03-05"),
        ("2024-02-30", None),
        ("no date: 1.2.3.2024", None),
        ("in 2024", None),
    ],
)
def test_dates_have_one_form(text, date):
    assert read("date", f"The answer is {text}") == date


def test_a_gold_date_is_a_date_and_nothing_else():
    assert read_gold("date", "March 5, 2024.") == "2024-03-05"
    assert read_gold("date", "on March 5, 2024") is None and read_gold("date", "03/04/2024") is None


def test_spans_are_compared_as_squad_does():
    assert read("span", 'The answer is "the Eiffel Tower".') == "eiffel tower"
    assert answers_match("span", "eiffel tower", ["The Eiffel-Tower!", "Eiffel Tower"])
    assert not answers_match("span", "eiffel", ["Eiffel Tower"])
    assert read("span", "the") == "the" and read_gold("span", "a\nb") is None


def test_the_last_line_is_read():
    assert read("last_line", "Let me think.\n\n**Paris.**\n  ") == "paris"
    assert read("last_line", " \n") is None and read_gold("last_line", "a\nb") is None


def test_a_text_is_read_verbatim_also_where_it_was_cut_off():
    text = "  The Senate\npassed a Bill. "
    assert read("verbatim", text) == "The Senate\npassed a Bill."
    assert read_gold("verbatim", text) == "The Senate\npassed a Bill."
    assert read_cut_answer("verbatim", "The Senate pas", Template()) == "The Senate pas"
    assert read_cut_answer("free_text", "The Senate pas", Template()) is None


def test_a_regular_expression_reads_its_group():
    parser = r"regex:Score: ([0-9]+)"
    assert read(parser, "Well. Score: 7\nScore: 9") == "7"
    assert read(parser, "no score") is None
    assert read_gold(parser, "7") == "7" == read_gold(parser, "Score: 7")
    assert read_gold(parser, "7\n8") is None
    assert read("regex:[A-Z]{3}-[0-9]+", "see ABC-12") == "ABC-12"
    assert answers_match(parser, "7", ["7"]) and not answers_match(parser, "7", ["8"])


def test_an_expression_that_does_not_end_is_no_answer():
    started = time.perf_counter()
    assert read("regex:(?:a|a)+$b", "a" * 40) is None
    assert read(r"regex:(a+)+$", "a" * 40 + "b") in (None, "a" * 40)
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("regex:(", "is no regular expression"),
        ("regex:(a)(b)", "expected one group or none, found 2"),
        ("json:", "expected the name of a field"),
        ("json:a..b", "expected the name of a field"),
        ("regexp:a", "unknown answer parser 'regexp:a'.*regex:..., json:..."),
    ],
)
def test_a_wrong_argument_is_one_line(name, message):
    with pytest.raises(UserError, match=message):
        PARSERS.find(name, "task.yaml: answer_parser")


def test_a_field_of_json_is_read():
    text = 'Sure:\n```json\n{"steps": ["{", "}"], "result": {"value": 18.0, "unit": "m"}}\n```'
    assert read("json:result.value", text) == "18"
    assert read("json:result.unit", text) == "m"
    assert read("json:steps.1", text) == "}"
    assert read("json:value", text) is None  # of the outer object
    assert read("json:value", '{broken, {"value": true}') == "true"
    assert read("json:value", '{"value": NaN}') is None
    assert read("json:value", "[" * 100_000) is None
    # what is cut off, or no JSON, counts as one thing: an inner object is not the answer
    assert read("json:value", '{"a": {"value": 3}, "b": ') is None
    assert read("json:value", '{"a": {"value": 3}, oops}') is None
    assert read_gold("json:value", '{"value": 18}') == "18" == read_gold("json:value", "18.0")
    assert read_gold("json:value", "Saint Louis") == "Saint Louis"
    assert answers_match("json:value", "18", ["18.0"])


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("So 16 - 3 = 13.\n#### 13", "13", "13"),
        ("#### 1,234.50", "1234.50", "1234.50"),
        ("#### $18", None, "18"),  # strict knows no dollar sign
        ("It costs $18.", None, "18"),
        ("#### 18. I checked it 2 times.", "18", "2"),
        ("It is 5...", None, "5.."),  # dots look like a number
        ("#### 4 apples and $.", "4", ""),
        ("no number", None, None),
        ("#### 5\nQuestion: what is 9?", "5", "5"),
        ("The answer is 7", None, "7"),
        ("-3", None, "-3"),
    ],
)
def test_gsm8k_is_read_as_the_harness_does(text, strict, flexible):
    assert read("gsm8k_strict", text) == strict
    assert read("gsm8k_flexible", text) == flexible


def test_gsm8k_golds_are_strict():
    assert read_gold("gsm8k_strict", "16 - 3 = 13\n#### 1,013") == "1013"
    assert read_gold("gsm8k_flexible", "$18.") == "18"
    assert read_gold("gsm8k_strict", "about 18") is None


@pytest.mark.skipif(not importlib.util.find_spec("lm_eval"), reason="needs lm-eval")
def test_gsm8k_agrees_with_the_harness_on_all_recorded_solutions(shared: Path):
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    filters = {
        "gsm8k_strict": RegexFilter(r"#### (\-?[0-9\.\,]+)"),
        "gsm8k_flexible": RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1),
    }
    ignored = [",", "\\$", "(?s).*#### ", "\\.$"]
    texts, golds = [], []
    path = shared / "data" / "gsm8k" / "example_model_solutions.jsonl"
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        gold = row["ground_truth"].replace("\nA: ", "\n#### ")  # as the data set itself writes it
        for value in (value for value in row.values() if isinstance(value, dict)):
            # with the mark of the data set in every second one, or strict finds none
            mark = "\n#### " if len(texts) % 2 else "\nA: "
            texts.append(value["solution"].replace("\nA: ", mark))
            golds.append(gold)
    assert len(texts) == 5276
    agreed = right = 0
    for parser, extract in filters.items():
        found = [one[0] for one in extract.apply([[text] for text in texts], [{}] * len(texts))]
        for text, extracted, gold in zip(texts, found, golds, strict=True):
            expected = exact_match_hf_evaluate([extracted], [gold], ignored, ignore_case=True)
            answer = read(parser, text)
            is_right = answer is not None and answers_match(parser, answer, [gold])
            agreed += is_right == bool(expected["exact_match"])
            right += is_right
    assert agreed == 2 * 5276 and right > 1000
