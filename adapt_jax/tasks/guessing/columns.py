"""Which column of unknown data is what: names that others use, checked against the values."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from adapt_jax.tasks.fields.values import is_scores, parse_choices, to_plain_value
from adapt_jax.tasks.sources.rows import Row

__all__ = [
    "ANSWER_NAMES",
    "QUESTION_NAMES",
    "Column",
    "find_answers",
    "find_choice_columns",
    "find_named",
    "find_nested_records",
    "fold_name",
    "list_columns",
]

QUESTION_NAMES = """question query problem prompt input inputs instruction text sentence utterance
message ticket description ticket_description content body review tweet comment complaint
customer_message request ctx premise context passage article document abstract statement claim
question_text question_stem stem title subject headline""".split()
# that can be nothing but the answer, and those that may as well describe the question
SURE_ANSWER_NAMES = """final_answer final_decision answer short_answer short_answers answerkey
answer_key gold gold_answer target targets label_text label_name class_name label labels
correct_answer best_answer correct correct_option correct_choice answer_idx answer_index answer_id
ground_truth groundtruth output outputs completion response expected expected_answer
target_scores answers cop""".split()
OTHER_ANSWER_NAMES = """category class intent sentiment department topic queue priority type tag
rating stars score polarity verdict solution summary highlights translation chosen""".split()
ANSWER_NAMES = [*SURE_ANSWER_NAMES, *OTHER_ANSWER_NAMES]
# of what is no right answer, though the last word of the name says answer
NO_ANSWER = re.compile(r"(?:in|un|not_)correct|wrong|false|worst|bad|model|pred|generated|rejected")
# two columns that make one question together
QUESTION_PAIRS = (
    ("premise", "hypothesis"),
    ("premise", "question"),
    ("sentence1", "sentence2"),
    ("text1", "text2"),
    ("question1", "question2"),
    ("contexts", "question"),
    ("context", "question"),
    ("passage", "question"),
    ("paragraph", "question"),
    ("article", "question"),
    ("story", "question"),
    ("subject", "body"),
    ("ticket_subject", "ticket_description"),
    ("title", "text"),
    ("title", "description"),
    ("instruction", "input"),
    ("instruction", "context"),
)
REASONING_NAMES = """reasoning rationale explanation exp solution cot chain_of_thought thought
thoughts steps long_answer""".split()
CHOICE_NAMES = """choices options endings candidates alternatives answer_choices
target_scores""".split()
LABEL_NAMES = "label labels letters key keys".split()
TEXT_NAMES = "text texts span spans content value option choice".split()
CHOICE_STEMS = "option options choice ending sol op opt answer ans alternative candidate mc".split()


SCALARS = (str, int, float, bytes, Decimal, date)


@dataclass(frozen=True, eq=False)
class Column:
    """A column, or a value within a structured one, of the first rows.

    Attributes:
        path: as ``fields`` addresses it, such as ``choices.text``.
        values: of all rows; None where it is missing.
    """

    path: str
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The last part of the path, folded."""
        return fold_name(self.path.rpartition(".")[2])

    def is_always(self, kind: Callable[[Any], bool]) -> bool:
        """Whether all values that are there are of a kind, and most are there."""
        there = [value for value in self.values if value not in (None, "", [])]
        return len(there) > 0.5 * len(self.values) and all(map(kind, there))

    @property
    def is_scalar(self) -> bool:
        """Whether it holds texts, numbers or truth values."""
        return self.is_always(lambda value: isinstance(value, SCALARS))

    @property
    def is_list_of_texts(self) -> bool:
        """Whether it holds lists of texts or numbers, or these where there is but one."""
        return any(isinstance(value, list) for value in self.values) and self.is_always(
            lambda value: all(
                isinstance(one, SCALARS) for one in (value if isinstance(value, list) else [value])
            )
        )

    @property
    def is_text_if_there(self) -> bool:
        """Whether all values that are there are texts; there may be but one."""
        there = [value for value in self.values if value not in (None, "", [])]
        return bool(there) and all(isinstance(value, str) for value in there)

    @property
    def mean_length(self) -> float:
        """Mean number of characters."""
        lengths = [len(str(value)) for value in self.values if value is not None]
        return sum(lengths) / max(len(lengths), 1)


def fold_name(name: str) -> str:
    """A column's name in lower case, words joined by underscores."""
    parts = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\s\-]+", "_", parts).lower()


def list_columns(rows: Sequence[Row]) -> list[Column]:
    """All columns of the rows, those within objects by their dotted paths after their object."""
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    columns: list[Column] = []
    for name in names:
        values = [_plain(row.values.get(name)) for row in rows]
        if fold_name(name) in CHOICE_NAMES:
            values = [_plain(parse_choices(value)) for value in values]
        columns += _expand(name, values, depth=3)
    return columns


def _plain(value: Any) -> Any:
    value = to_plain_value(value)
    if isinstance(value, tuple):
        value = list(value)
    return value


def _expand(path: str, values: Sequence[Any], depth: int) -> list[Column]:
    column = Column(path, tuple(values))
    found = [column]
    if not depth:
        return found
    if column.is_always(lambda value: isinstance(value, dict)) and not column.is_always(is_scores):
        keys = _common_keys(value for value in values if isinstance(value, dict))
        for key in keys:
            inner = [
                _plain(value.get(key)) if isinstance(value, dict) else None for value in values
            ]
            found += _expand(f"{path}.{key}", inner, depth - 1)
    elif column.is_always(
        lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value)
    ):
        keys = _common_keys(one for value in values for one in value or ())
        for key in keys:
            lists = [[_plain(one.get(key)) for one in value or ()] for value in values]
            found.append(Column(f"{path}.{key}", tuple(lists)))
    return found


def _common_keys(objects: Iterable[Mapping[str, Any]]) -> list[str]:
    """Keys that all objects have; none where there are too many to be columns."""
    common: dict[str, None] | None = None
    for one in objects:
        keys = dict.fromkeys(map(str, one))
        common = keys if common is None else {key: None for key in common if key in keys}
    return list(common or {}) if len(common or {}) <= 30 else []


def find_named(columns: Sequence[Column], names: Sequence[str]) -> list[Column]:
    """The columns with these names, in the order of the names; shorter paths first."""
    found = []
    for name in names:
        named = [column for column in columns if column.name == name]
        found += sorted(named, key=lambda column: column.path.count("."))
    return found


def find_answers(columns: Sequence[Column]) -> list[Column]:
    """The columns that may be the answer, by their names, the likeliest first.

    Texts within an answer (``answers.text``) come before other names, then columns whose last word
    is such a name (``Ticket Type``). Lists are last.
    """
    within = [
        one
        for one in columns
        if one.name in TEXT_NAMES and _is_answer_object(fold_name(one.path.rpartition(".")[0]))
    ]
    found: dict[Column, None] = dict.fromkeys(within)
    for names in (SURE_ANSWER_NAMES, OTHER_ANSWER_NAMES):
        exact = [one for one in find_named(columns, names) if "." not in one.path]
        by_last_word = [
            one
            for name in names
            for one in columns
            if one.name.rpartition("_")[2] == name and "_" in one.name and "." not in one.path
        ]
        sure = [one for one in by_last_word if one.name not in REASONING_NAMES]
        found |= dict.fromkeys([*exact, *(one for one in sure if not NO_ANSWER.match(one.name))])
    nested = find_named(columns, ANSWER_NAMES)
    found |= dict.fromkeys(nested)
    return sorted(found, key=lambda one: one.is_list_of_texts and one not in within)


def _is_answer_object(name: str) -> bool:
    return name in ("final_answer", "answer", "answers", "answers_spans", "answer_spans")


def find_choice_columns(columns: Sequence[Column]) -> tuple[str | list[str] | None, str | None]:
    """The columns of the choices, and of the names that answers use for them."""
    for column in find_named(columns, CHOICE_NAMES):
        inside = [one for one in columns if one.path.startswith(column.path + ".")]
        texts = [one for one in find_named(inside, TEXT_NAMES) if one.is_list_of_texts]
        labels = [one for one in find_named(inside, LABEL_NAMES) if one.is_list_of_texts]
        if texts:
            return texts[0].path, labels[0].path if labels else None
        is_several = column.is_always(
            lambda value: isinstance(value, list | dict) and len(value) >= 2
        )
        if is_several and (column.is_list_of_texts or column.is_always(_is_choice_object)):
            return column.path, None
    series = _find_series(columns)
    # beside its choices a row has a question and an answer
    return (series if series and len(columns) >= len(series) + 2 else None), None


def _is_choice_object(value: Any) -> bool:
    """Whether an object holds scores by texts, or texts by letters."""
    if is_scores(value):
        return True
    return isinstance(value, dict) and all(
        len(key) == 1 and isinstance(one, str) for key, one in value.items()
    )


def _find_series(columns: Sequence[Column]) -> list[str] | None:
    """Columns with one choice each, such as A to D, option_a, ending0 or sol1."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for column in columns:
        match = re.fullmatch(r"(?:(.*?)_?)?([a-e]|[0-9])", column.name)
        stem = (match[1] or "") if match else ""
        if match and column.is_scalar and (stem in CHOICE_STEMS or not stem):
            parent = column.path.rpartition(".")[0]
            groups.setdefault((parent, stem), []).append((match[2], column.path))
    for (_, stem), group in groups.items():
        marks = [mark for mark, _ in sorted(group)]
        start = ord(marks[0])
        # two columns a and b may be anything
        if len(marks) >= (2 if stem else 3) and [ord(mark) for mark in marks] == list(
            range(start, start + len(marks))
        ):
            return [path for _, path in sorted(group)]
    return None


def find_nested_records(rows: Sequence[Row]) -> str | None:
    """The dotted path of lists of records that hold questions, such as ``paragraphs.qas``."""

    def search(value: Any, path: str, depth: int) -> str | None:
        if not isinstance(value, dict) or not depth:
            return None
        for key, inner in value.items():
            if isinstance(inner, list) and inner and all(isinstance(one, dict) for one in inner):
                inside = f"{path}{key}"
                names = {fold_name(str(name)) for name in inner[0]}
                if names & {"question", "input", "query"} and len(names) > 1:
                    return inside
                if found := search(inner[0], f"{inside}.", depth - 1):
                    return found
        return None

    names = {fold_name(name) for name in rows[0].values}
    if names & {"question", "query"} or names >= {"input", "output"}:
        return None
    return search(rows[0].values, "", 3)
