"""Patterns that a user or a file brings: wrong ones are a line, and slow ones end."""

import re

import pytest

from adapt_jax.utils import patterns
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.patterns import BoundedPatterns

SLOW = r"(a|a)*$"


@pytest.mark.parametrize("action", ["search", "fullmatch", "remove"])
def test_a_pattern_that_takes_too_long_is_refused(
    action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "MAX_MATCH_SECONDS", 0.1)
    matcher = BoundedPatterns("task.yaml: answer_pattern")
    with pytest.raises(UserError, match=r"^task.yaml: answer_pattern: .* takes too long"):
        getattr(matcher, action)(SLOW, "a" * 60 + "b")


def test_all_matches_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "MAX_MATCH_SECONDS", 0.1)
    matcher = BoundedPatterns("x", total_seconds=0.1)
    assert matcher.search("b", "abc")
    with pytest.raises(UserError, match="takes too long"):
        matcher.search(SLOW, "a" * 60 + "b")
    with pytest.raises(UserError, match="takes too long"):
        matcher.search("b", "abc")


@pytest.mark.parametrize("pattern", ["(", "[", "*", "(?P<a>x)(?P<a", "a{2,1}", "\\", "(" * 20_000])
def test_what_is_no_pattern_is_one_short_line(pattern: str) -> None:
    with pytest.raises(UserError, match="is no regular expression") as caught:
        BoundedPatterns("x").compile(pattern)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"^(.*?)\s*####", "one, two #### 3"),
        (r"####\s*(.+)$", "one, two #### 3"),
        (r"<<[^>]*>>", "48/2 = <<48/2=24>>24 and <<1+1=2>>2"),
        (r"^(.*?)(?:\.0)?$", "43.0"),
        (r"(?<=is )(\S+)", "it is B."),
        (r"\bfoo\b|\d+(?!x)", "foo 12x 13"),
        (r"(?i)ANSWER: (\w)", "answer: b"),
    ],
)
def test_patterns_mean_what_they_mean_in_python(pattern: str, text: str) -> None:
    matcher = BoundedPatterns("x")
    expected, found = re.search(pattern, text), matcher.search(pattern, text)
    assert expected is not None and found is not None
    assert found.span() == expected.span() and found.groups() == expected.groups()
    assert matcher.remove(pattern, text) == re.sub(pattern, "", text)
    assert (matcher.fullmatch(pattern, text) is None) == (re.fullmatch(pattern, text) is None)
