"""Scored answers: what every kind of recorded result is read into."""

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapt_jax.utils.errors import UserError, nearest

__all__ = [
    "ReadOptions",
    "Run",
    "ScoredAnswer",
    "choose_metric",
    "find_cluster",
    "find_question",
    "normalize_question",
    "read_score",
]

# columns and fields that hold a question, the surest first
QUESTION_FIELDS = (
    *("question", "input", "inputs", "query", "problem", "goal", "prompt", "ctx", "context"),
    *("instruction", "premise", "sentence", "text", "passage"),
)
MAX_FLOAT = sys.float_info.max  # whole numbers of JSON may be larger
# how verdicts are written; C, I, P and N are those of inspect_ai (scorer/_metric.py)
_WRITTEN_SCORES = {
    **dict.fromkeys(("true", "t", "yes", "y", "correct", "right", "pass", "passed", "c"), 1.0),
    **dict.fromkeys(("false", "f", "no", "n", "incorrect", "wrong", "fail", "failed", "i"), 0.0),
    **dict.fromkeys("✓✔✅", 1.0),
    **dict.fromkeys("✗✘❌", 0.0),
    "p": 0.5,
}
_DECIMAL_COMMA = re.compile(r"-?(?:0,[0-9]+|[0-9]{1,3},[0-9]{1,2})")


@dataclass(frozen=True)
class ReadOptions:
    """What the user says about the files.

    Attributes:
        metrics: names of scores; of each file the first one that it has is taken.
        filter: of lm-evaluation-harness, such as ``strict-match``.
        id_field: the column of the ids in a table.
        cluster: the field that says which questions belong together.
    """

    metrics: tuple[str, ...] = ()
    filter: str | None = None
    id_field: str | None = None
    cluster: str | None = None


@dataclass(frozen=True)
class ScoredAnswer:
    """One question, and how good its answer was.

    Attributes:
        id: of the question, as its file writes it; empty where it writes none.
        question: its text, empty where the file holds none.
        digest: a hash of the question's record, which logs of one kind share.
        repeat: which of several answers to the question this is, such as an epoch.
        where: its place, for messages.
    """

    id: str
    score: float
    question: str = ""
    answer: str = ""
    expected: str = ""
    digest: str = ""
    cluster: str | None = None
    repeat: str = ""
    where: str = ""


@dataclass(frozen=True)
class Run:
    """The scored answers of one file, or of one folder.

    Attributes:
        metric: what the scores are.
        unscored: how many answers had no score and are left out.
        notes: what the reader should know, in sentences.
    """

    path: str
    kind: str
    metric: str
    answers: Sequence[ScoredAnswer]
    unscored: int = 0
    notes: tuple[str, ...] = ()


def read_score(value: Any, where: str, name: str) -> float | None:
    """A score as a number: verdicts are 1 and 0; None where there is none (null, NaN, empty).

    ``95 %`` is 0.95, and ``0,95`` with a decimal comma, too.

    Raises:
        UserError: it is neither a finite number nor a verdict.
    """
    if isinstance(value, str):
        text = value.strip()
        if not text or text.lower() in ("nan", "null", "none"):
            return None
        if text.lower() in _WRITTEN_SCORES:
            return _WRITTEN_SCORES[text.lower()]
        percent = text.endswith("%")
        text = text.removesuffix("%").strip()
        if _DECIMAL_COMMA.fullmatch(text):
            text = text.replace(",", ".")
        try:
            value = float(text) / 100 if percent else float(text)
        except ValueError:
            pass
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool | int | float) and abs(value) <= MAX_FLOAT:
        return float(value)
    raise UserError(f"{where}: {name}: expected a number or a verdict, found {value!r:.60}")


def choose_metric(names: Sequence[str], asked: Sequence[str], where: str) -> str:
    """The first asked metric that is there; by default the first that is there.

    Raises:
        UserError: none of the asked ones is there, or there is none at all.
    """
    for name in asked:
        if name in names:
            return name
    if asked:
        hint = nearest(asked[0], names)
        raise UserError(
            f"{where}: no metric {asked[0]!r}{hint}; it has: {', '.join(names) or 'none'}"
        )
    if not names:
        raise UserError(f"{where}: holds no score for each question")
    return names[0]


def find_question(values: Mapping[str, Any]) -> str:
    """The text of the question in a record; empty where no field is known to hold one."""
    lowered = {str(name).lower(): value for name, value in values.items()}
    for name in QUESTION_FIELDS:
        if isinstance(text := lowered.get(name), str) and text.strip():
            return text
    return ""


def find_cluster(records: Sequence[Mapping[str, Any]], name: str | None) -> str | None:
    """The value of a field in the first record that has it; a dotted name goes into objects."""
    if name is None:
        return None
    for record in records:
        value: Any = record
        for part in [name] if name in record else name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            return str(value)
    return None


def normalize_question(text: str) -> str:
    """A text that is equal for two records of the same question."""
    return " ".join(text.casefold().split())
