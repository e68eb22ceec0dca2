"""Task: what a decoder is adapted to. A task is a file; ``load_task`` reads it."""

import json
import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import field_validator

from adapt_jax.tasks.answers import PARSERS
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.sources import SOURCES, SPLITS, Row, Sizes, find
from adapt_jax.tasks.templates import CHAT, PLACEHOLDER, TEMPLATES, Template
from adapt_jax.utils.config import Strict, checked, read_yaml
from adapt_jax.utils.errors import UserError, nearest


@dataclass(frozen=True)
class Task:
    """Examples in three splits, how they are asked, and how an answer is read and graded.

    Demonstrations and training use ``train``, decisions ``development``; ``test`` only judges.
    ``parser`` is a name in ``answers.PARSERS``, ``scorer`` one in ``evaluation.scorers.SCORERS``;
    ``warnings`` says what was left out, and why.
    """

    name: str
    train: Sequence[Example]
    development: Sequence[Example]
    test: Sequence[Example]
    instruction: str = ""
    template: Template = Template()
    parser: str = "number"
    source: str = ""
    seed: int = 0
    warnings: tuple[str, ...] = ()
    scorer: str = "exact"

    @property
    def has_reasoning(self) -> bool:
        return any(example.reasoning for example in self.train)

    def grade(self, predicted: str | None, example: Example) -> bool:
        """Whether the answer is right: equal in canonical form. None (it abstained) is wrong."""
        if predicted is None:
            return False
        parse = PARSERS[self.parser]
        given = parse(predicted, example.choices)
        return given is not None and given == parse(example.answer, example.choices)


class Splits(Strict):
    """How many examples of each split: a number, or a fraction of the file. Left out: all of the
    split's own file; of one file, no development examples, and for training what is left."""

    train: int | float | None = None
    development: int | float | None = None
    test: int | float | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _is_a_size(cls, size: Any) -> Any:
        number = type(size) is int and size >= 0
        fraction = type(size) is float and 0 < size <= 1
        if not (size is None or number or fraction):
            raise ValueError("expected a number of examples, or a fraction such as 0.2")
        return size


class Fields(Strict):
    """Which field of a record is what. A text with ``{field}`` in it joins several fields."""

    question: str = "question"
    answer: str = "answer"
    reasoning: str | None = None
    choices: str | None = None
    id: str | None = None
    category: str | None = None


class InlineExample(Strict):
    """An example written in the task file itself."""

    question: str
    answer: str | int | float
    reasoning: str = ""


class TaskConfig(Strict):
    """The content of a task file, such as those in ``configs/tasks``.

    Attributes:
        source: ``name`` (one of ``sources.SOURCES``) and that source's own options.
        template: ``plain``; ``chat``, the decoder's own chat template; or fields of Template that
            are worded otherwise (of the chat's, where ``chat: true`` is among them).
        choices: fixed choices of every question: a list, or a JSON file that holds one;
            ``{choices}`` in the instruction names them all.
        answer_parser: name of the answer parser.
        scorer: name of what scores an answer: ``exact``, ``token_f1``, or one of your own.
        reasoning_pattern, answer_pattern: expressions with one group that cut the reasoning and
            the answer out of their fields (both out of the answer's, where reasoning has none).
        strip_pattern: expression whose matches are taken out of the reasoning.
        inline_examples: examples written here, first in the training split.
        seed: decides which examples of a file go to which split.
    """

    name: str
    source: dict[str, Any]
    fields: Fields = Fields()
    instruction: str = ""
    template: dict[str, str | list[str] | bool] | str = {}
    choices: list[str] | str | None = None
    answer_parser: str = "number"
    scorer: str = "exact"
    reasoning_pattern: str | None = None
    answer_pattern: str | None = None
    strip_pattern: str | None = None
    inline_examples: list[InlineExample] = []
    splits: Splits = Splits()
    seed: int = 0


def load_task(config: str | Path | Mapping[str, Any], folder: str | Path | None = None) -> Task:
    """A task from its YAML file, or from the mapping such a file holds.

    Relative paths are looked for in ``folder`` (by default the file's own), then in the working
    directory. A question that also stands in a later split is dropped, and noted.

    Raises:
        UserError: naming the file and line or key, and what was expected there.
    """
    where = "task"
    if not isinstance(config, Mapping):
        where, folder = str(config), folder or Path(config).parent
        config = read_yaml(config)
    settings = checked(TaskConfig, config, where)
    folder = Path(folder or ".")
    options = dict(settings.source)
    source = str(options.pop("name", None))
    _known(source, SOURCES, f"{where}: source.name")
    _known(settings.answer_parser, PARSERS, f"{where}: answer_parser")
    sizes: Sizes = settings.splits.model_dump()
    reader = _Reader(settings, _fixed_choices(settings.choices, folder), where)
    rows = SOURCES[source](options, seed=settings.seed, folder=folder, sizes=sizes)
    examples = {split: [reader.example(row, split) for row in rows[split]] for split in rows}
    divided = _divide(examples, sizes, settings.seed, where)
    divided["train"] = reader.inline_examples() + divided["train"]
    warnings = _drop_leaks(divided)
    _unique_ids(divided, where)
    for split in SPLITS:
        asked = sizes[split] != 0 and (split in rows or sizes[split] is not None)
        if not divided[split] and (split == "test" or asked):
            why = f" ({'; '.join(warnings)})" if warnings else ""
            raise UserError(f"{where}: the {split} split is empty{why}")
    return Task(
        settings.name,
        **divided,
        instruction=settings.instruction.replace("{choices}", ", ".join(reader.choices)),
        template=_template(settings.template, where),
        parser=settings.answer_parser,
        source=source,
        seed=settings.seed,
        warnings=warnings,
        scorer=settings.scorer,
    )


def _known(name: str, table: Mapping[str, Any], where: str) -> None:
    if name not in table:
        hint = nearest(name, table)
        raise UserError(f"{where}: {name!r} is none of {', '.join(table)}{hint}")


def _template(wording: Mapping[str, Any] | str, where: str) -> Template:
    if isinstance(wording, str):
        _known(wording, TEMPLATES, f"{where}: template")
        return TEMPLATES[wording]
    for key in wording:
        _known(key, Template.__dataclass_fields__, f"{where}: template")
    try:
        return replace(CHAT if wording.get("chat") is True else Template(), **wording)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _fixed_choices(choices: list[str] | str | None, folder: Path) -> tuple[str, ...]:
    if not isinstance(choices, str):
        return tuple(choices or ())
    path = find(choices, folder)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, list):
        raise UserError(f"{path}: expected a JSON list of choices")
    return tuple(map(str, content))


class _Reader:
    """Makes an Example of a Row, by the fields and patterns of a task file."""

    def __init__(self, settings: TaskConfig, choices: tuple[str, ...], where: str) -> None:
        self.settings, self.choices, self.where = settings, choices, where
        self.patterns: dict[str, re.Pattern[str]] = {}
        for key in ("reasoning_pattern", "answer_pattern", "strip_pattern"):
            try:
                pattern = re.compile(getattr(settings, key) or "", re.DOTALL)
            except re.error as error:
                raise UserError(f"{where}: {key}: not a regular expression ({error})") from None
            if key != "strip_pattern" and pattern.pattern and pattern.groups != 1:
                raise UserError(f"{where}: {key}: expected one group, found {pattern.groups}")
            self.patterns[key] = pattern

    def example(self, row: Row | Example, split: str) -> Example:
        if isinstance(row, Example):
            return row
        lot = self.settings.name if split == "all" else split
        names = self.settings.fields
        choices = self.choices
        if names.choices:
            choices = tuple(map(_as_text, _as_list(_value(row, names.choices))))
        reasoning = ""
        if names.reasoning or self.settings.reasoning_pattern:
            reasoning = _field(row, names.reasoning or names.answer)
            reasoning = self._cut("reasoning_pattern", reasoning, row.where)
        answer = self._cut("answer_pattern", _filled(row, names.answer), row.where)
        return Example(
            _field(row, names.id) if names.id else f"{lot}-{row.number}",
            _filled(row, names.question),
            self._gold(answer, choices, row.where),
            self._tidy(reasoning),
            choices,
            _field(row, names.category) if names.category else "",
        )

    def inline_examples(self) -> list[Example]:
        examples = []
        for n, item in enumerate(self.settings.inline_examples, start=1):
            answer = self._gold(
                str(item.answer), self.choices, f"{self.where}: inline_examples.{n}"
            )
            examples.append(
                Example(f"inline-{n}", item.question.strip(), answer, item.reasoning, self.choices)
            )
        return examples

    def _cut(self, key: str, text: str, where: str) -> str:
        pattern = self.patterns[key]
        if not pattern.pattern:
            return text
        if not (found := pattern.search(text)):
            raise UserError(f"{where}: {key} {pattern.pattern!r} is not found in {text[-40:]!r}")
        return (found[1] or "").strip()

    def _tidy(self, reasoning: str) -> str:
        pattern = self.patterns["strip_pattern"]
        return (pattern.sub("", reasoning) if pattern.pattern else reasoning).strip()

    def _gold(self, answer: str, choices: tuple[str, ...], where: str) -> str:
        """The answer as demonstrations show it: numbers in canonical form, others as written."""
        parser = self.settings.answer_parser
        canonical = PARSERS[parser](answer, choices)
        if canonical is None:
            of = f" among {len(choices)} choices" if choices else ""
            raise UserError(f"{where}: the answer {answer!r} cannot be read as {parser!r}{of}")
        return canonical if parser == "number" else answer


def _value(row: Row, name: str) -> Any:
    if name not in row.values:
        has = ", ".join(map(str, row.values))
        raise UserError(f"{row.where}: no field {name!r}; it has: {has}{nearest(name, row.values)}")
    return row.values[name]


def _field(row: Row, name: str) -> str:
    """A field as text; a ``name`` with ``{field}`` in it is a text that joins several."""
    if "{" in name:
        return PLACEHOLDER.sub(lambda match: _as_text(_value(row, match[1])), name)
    return _as_text(_value(row, name))


def _filled(row: Row, name: str) -> str:
    if not (text := _field(row, name)):
        raise UserError(f"{row.where}: field {name!r} is empty")
    return text


def _as_list(value: Any) -> list[Any]:
    value = value.tolist() if hasattr(value, "tolist") else value  # NumPy, from tfds
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _as_text(value: Any) -> str:
    """A field's value as text: lists by lines, true and false as yes and no."""
    value = value.tolist() if hasattr(value, "tolist") else value
    match value:
        case None:
            return ""
        case bytes():
            return value.decode("utf-8").strip()
        case bool():
            return "yes" if value else "no"
        case float() if math.isfinite(value):  # 0.6666666667 was 2/3 before it was a float
            simple = Fraction(value).limit_denominator(100)
            near = abs(simple - Fraction(value)) <= 1e-9 * min(1, abs(value))
            return str(simple if near else value)
        case list() | tuple():
            return "\n".join(map(_as_text, value))
    return str(value).strip()


def _divide(
    examples: Mapping[str, list[Example]], sizes: Sizes, seed: int, where: str
) -> dict[str, list[Example]]:
    """The three splits. Those without a file of their own are cut from the training file or the
    only one, the test split first, so that its questions hang on the seed and its size alone."""
    origin = "all" if "all" in examples else "train"
    rest = list(examples.get(origin, ()))
    if any(sizes[split] is not None for split in SPLITS):
        random.Random(seed).shuffle(rest)
    total = len(rest)
    if origin == "all" and sizes["test"] is None:
        raise UserError(
            f"{where}: splits.test: expected how many of the {total} examples are for the test "
            "(a number, or a fraction such as 0.2)"
        )
    divided: dict[str, list[Example]] = {}
    for split in reversed(SPLITS):
        size = sizes[split]
        if split in examples and split != origin:
            pool = list(examples[split])
            count = _count(size, len(pool), len(pool), f"{where}: splits.{split}")
            if count < len(pool):
                random.Random(seed).shuffle(pool)
            divided[split] = pool[:count]
        else:
            size = size if size is not None or split == "train" else 0
            count = _count(size, total, len(rest), f"{where}: splits.{split}")
            divided[split], rest = rest[:count], rest[count:]
    return divided


def _count(size: int | float | None, total: int, left: int, where: str) -> int:
    count = left if size is None else round(size * total) if isinstance(size, float) else size
    if count > left:
        raise UserError(f"{where}: asks for {count} examples, there are {left}")
    return count


def _unique_ids(divided: Mapping[str, list[Example]], where: str) -> None:
    counts = Counter(example.id for split in divided.values() for example in split)
    for id, count in counts.most_common(1):
        if count > 1:  # draws and predictions are told apart by id
            raise UserError(f"{where}: fields.id: the id {id!r} stands {count} times")


def _drop_leaks(divided: dict[str, list[Example]]) -> tuple[str, ...]:
    """Drops, in place, the questions that a later split holds too (white space and case folded)."""
    warnings = []
    later: set[str] = set()
    for split in reversed(SPLITS):
        folded = [
            " ".join(" ".join((e.question, *e.choices)).lower().split()) for e in divided[split]
        ]
        kept = [e for e, key in zip(divided[split], folded, strict=True) if key not in later]
        if dropped := len(folded) - len(kept):
            warnings.append(f"{dropped} {split} questions dropped: they stand in a later split too")
        divided[split] = kept
        later.update(folded)
    return tuple(warnings)
