"""From a row of a file to an Example: which field is what, as which text.

Text and numbers stay as their file writes them. What is missing (null, NaN, empty) is missing.
Structured values are addressed by a dotted path (``choices.text``) or refused. Gold answers are
read strictly.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

import regex
from pydantic import BeforeValidator

from adapt_jax.tasks.answers import read_gold, shorten_parser_name
from adapt_jax.tasks.answers.choices import name_option
from adapt_jax.tasks.answers.decimal_comma import has_decimal_comma
from adapt_jax.tasks.answers.json_schema import SCHEMA_KIND
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.fields.conversations import read_conversation
from adapt_jax.tasks.fields.row_fields import list_paths, read_row_fields
from adapt_jax.tasks.fields.values import (
    Missing,
    RepeatedChoice,
    is_scores,
    read_choices,
    read_required,
    read_text,
    read_texts,
    read_value,
    to_plain_value,
    to_text,
)
from adapt_jax.tasks.language.letters import LETTERS
from adapt_jax.tasks.sources.rows import Row, find_duplicate
from adapt_jax.utils.config import Strict
from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.errors import UserError, nearest
from adapt_jax.utils.patterns import BoundedPatterns

__all__ = ["ExampleReader", "Fields", "InlineExample", "Text"]


def _to_written_text(value: Any) -> Any:
    """A scalar of a YAML file as the text that it is written as."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


Text = Annotated[str, BeforeValidator(_to_written_text)]


MAX_TEXT_LENGTH = 2_000_000  # characters


class Fields(Strict):
    """Which field of a record is what.

    A text with ``{field}`` in it joins several fields. ``choices.text`` addresses a value within
    a structured one, ``choices.0`` one of a list. ``choices`` is a list, an object (of texts by
    their letters, or of scores by the texts), or a list of fields with one choice each.
    ``choice_labels`` is a list beside ``choices``, in which the answer is found
    (``label: [A, B, C, D]``). ``messages`` is a conversation in the place of question and answer,
    see ``conversations.py``.
    """

    question: str = "question"
    answer: str = "answer"
    messages: str | None = None
    reasoning: str | None = None
    choices: str | list[str] | None = None
    choice_labels: str | None = None
    id: str | None = None
    category: str | None = None

    def list_joined(self) -> list[str]:
        """The fields that are joined with others, of which a row may lack some."""
        named = [self.question, self.answer, self.reasoning, self.category]
        return [part for one in named if one and "{" in one for part in list_paths(one)]


class InlineExample(Strict):
    """An example written in the task file itself."""

    question: Text
    answer: Text
    reasoning: Text = ""


class ExampleReader:
    """Makes an Example of a row.

    Args:
        fields: which field is what.
        parser: name of the answer parser, by which gold answers are checked.
        name: of the task, for ids of undivided rows.
        choices: fixed choices of every question.
        answer_index: the number of the first choice where answers are indices, ``none`` where
            they are never indices, None where the file does not say.
        patterns: expressions with one group for ``reasoning_pattern`` and ``answer_pattern``; one
            whose matches are removed from the reasoning for ``strip_pattern``.
        row_fields: names of fields that the templates see, see ``templates.Template.row_fields``.
        where: the task file, for messages.

    Raises:
        UserError: a pattern is not an expression, has not one group, or takes too long to match.
    """

    def __init__(
        self,
        fields: Fields,
        parser: str,
        *,
        name: str = "",
        choices: tuple[str, ...] = (),
        answer_index: Literal[0, 1, "none"] | None = None,
        patterns: Mapping[str, str | None] = {},
        row_fields: Collection[str] = (),
        where: str = "task",
    ) -> None:
        self.name, self.fields, self.parser, self.where = name, fields, parser, where
        self.choices, self.answer_index = choices, answer_index
        self.row_fields = row_fields
        shown = {fields.choices} if isinstance(fields.choices, str) else set()
        answers = (fields.answer, fields.reasoning, fields.messages)
        hidden = {path for field in answers for path in list_paths(field)}
        self.hidden_fields = hidden - shown  # from templates: they hold the answer
        self.matchers = {key: BoundedPatterns(f"{where}: {key}") for key in patterns}
        self.patterns = {
            key: _compile(key, pattern, self.matchers[key])
            for key, pattern in patterns.items()
            if pattern
        }

    @property
    def _reads_schema(self) -> bool:
        """Whether an answer may be an object, which the parser reads as JSON."""
        return shorten_parser_name(self.parser) == SCHEMA_KIND

    def read(self, row: Row | Example, split: str) -> Example:
        """The row as an example of a split ("all" before the division).

        Raises:
            Missing: the question or the answer is missing, or a choice occurs twice.
            UserError: a field is absent or structured, or the answer is not read as a whole.
        """
        if isinstance(row, Example):
            return row
        fields = self.fields
        choices, names = self._read_choices(row)
        reasoning = ""
        if fields.reasoning or "reasoning_pattern" in self.patterns:
            reasoning = read_text(row, fields.reasoning or fields.answer)
            if reasoning:
                reasoning = self._cut("reasoning_pattern", reasoning, row.where)
                reasoning = self._strip(reasoning)
        if fields.messages:
            question, reply = read_conversation(row, fields.messages)
            if not reply:
                raise Missing(f"{row.where}: field {fields.messages!r}: no answer of the assistant")
            found = [self._resolve(reply, choices, names, row.where)]
        else:
            question = read_required(row, fields.question)
            found = self._read_answers(row, choices, names)
        answer, *aliases = found
        _check_length((question, answer, reasoning), row.where)
        return Example(
            id=self._read_id(row, split),
            question=question,
            answer=answer,
            reasoning=reasoning,
            choices=choices,
            category=read_text(row, fields.category) if fields.category else "",
            aliases=tuple(aliases),
            fields=self._read_row_fields(row),
        )

    def read_question(self, row: Row) -> Example:
        """The row as an unlabelled question, with the id that it has in an undivided file.

        Raises:
            Missing: the question is missing.
            UserError: a field is absent or structured.
        """
        choices, _ = self._read_choices(row)
        if self.fields.messages:
            question, _ = read_conversation(row, self.fields.messages)
        else:
            question = read_required(row, self.fields.question)
        _check_length((question,), row.where)
        return Example(
            id=self._read_id(row, "all"),
            question=question,
            choices=choices,
            fields=self._read_row_fields(row),
        )

    def read_inline(self, items: Sequence[InlineExample]) -> list[Example]:
        """The examples of the task file itself.

        Raises:
            UserError: a question is empty, or an answer is not read as a whole.
        """
        examples = []
        for number, item in enumerate(items, start=1):
            where = f"{self.where}: inline_examples.{number}"
            if not item.question.strip():
                raise UserError(f"{where}: question is empty")
            answer = self._check(item.answer.strip(), self.choices, where)
            examples.append(
                Example(
                    f"inline-{number}",
                    item.question.strip(),
                    answer,
                    item.reasoning.strip(),
                    self.choices,
                )
            )
        return examples

    def _read_row_fields(self, row: Row) -> dict[str, Any] | None:
        return read_row_fields(row, self.row_fields, self.hidden_fields)

    def _read_id(self, row: Row, split: str) -> str:
        if not self.fields.id:
            return f"{self.name if split == 'all' else split}-{row.number}"
        if not (id := read_text(row, self.fields.id)):
            raise UserError(f"{row.where}: field {self.fields.id!r} is empty")
        return id

    def _read_choices(self, row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The choices of a row's question, and the names that its answers use for them."""
        if not self.fields.choices:
            return self.choices, ()
        choices, names = read_choices(row, self.fields.choices)
        if len(choices) < 2:
            raise UserError(
                f"{row.where}: field {self.fields.choices!r}: expected a list of two or more "
                f"choices, found {len(choices)}"
            )
        if "" in choices:
            raise UserError(f"{row.where}: field {self.fields.choices!r}: a choice is empty")
        if (twice := find_duplicate(choices)) is not None:
            raise RepeatedChoice(f"{row.where}: the choice {twice!r:.80} occurs twice")
        if not self.fields.choice_labels:
            return choices, names
        names = read_texts(row, self.fields.choice_labels)
        if len(names) != len(choices):
            raise UserError(
                f"{row.where}: {len(choices)} choices, but {len(names)} labels in "
                f"{self.fields.choice_labels!r}"
            )
        return choices, names

    def _read_answers(
        self, row: Row, choices: tuple[str, ...], names: tuple[str, ...]
    ) -> list[str]:
        """All accepted answers of a row, checked."""
        if "{" in self.fields.answer:
            found: list[Any] = [read_required(row, self.fields.answer)]
        else:
            value = to_plain_value(read_value(row, self.fields.answer))
            if isinstance(value, dict) and self._reads_schema:
                value = json.dumps(value, ensure_ascii=False)
            if is_scores(value):
                return self._read_scores(value, choices, row.where)
            found = list(value) if isinstance(value, list | tuple) else [value]
        answers: list[str] = []
        for value in found:
            if isinstance(to_plain_value(value), list | tuple):
                raise UserError(
                    f"{row.where}: field {self.fields.answer!r} is a list of lists; expected texts"
                )
            text = to_text(value, row.where, self.fields.answer)
            if self.parser == "yes_no":  # true and false, also as tables write them
                text = {"true": "yes", "false": "no"}.get(text.lower(), text)
            if text:
                text = self._cut("answer_pattern", text, row.where)
                answers.append(self._resolve(text, choices, names, row.where))
        if not answers:
            raise Missing(f"{row.where}: field {self.fields.answer!r} is empty")
        return list(dict.fromkeys(answers))

    def _read_scores(
        self, scores: Mapping[str, float], choices: tuple[str, ...], where: str
    ) -> list[str]:
        """The texts of highest score, as BIG-bench writes its answers (target_scores)."""
        highest = max(scores.values())
        best = [text.strip() for text, score in scores.items() if score == highest]
        if highest <= 0 or len(best) == len(scores) > 1:
            raise UserError(f"{where}: field {self.fields.answer!r}: no choice has a higher score")
        if self.parser == "choice" and all(text in choices for text in best):
            return [name_option(choices.index(text), choices) for text in best]
        return [self._check(text, choices, where) for text in best]

    def _resolve(
        self, text: str, choices: tuple[str, ...], names: tuple[str, ...], where: str
    ) -> str:
        """An answer that may be an index or a name of a choice, as the choice's letter or text."""
        index: int | None = None
        if names and (text in names or self.fields.choice_labels):
            if text not in names:
                raise UserError(
                    f"{where}: the answer {text!r:.80} is none of {_format_names(names)}"
                )
            index = names.index(text)
        elif isinstance(self.answer_index, int) and choices:
            base = self.answer_index
            if not re.fullmatch(r"[0-9]{1,6}", text) or not base <= int(text) < base + len(choices):
                raise UserError(
                    f"{where}: the answer {text!r:.80} is no index of a choice; "
                    f"expected {base} to {base + len(choices) - 1}"
                )
            index = int(text) - base
        if index is None:
            self._refuse_ambiguous_index(text, choices, where)
            return self._check(text, choices, where)
        if self.parser == "choice" and len(choices) <= len(LETTERS):
            return name_option(index, choices)
        return self._check(choices[index], choices, where)

    def _refuse_ambiguous_index(self, text: str, choices: tuple[str, ...], where: str) -> None:
        """A number that is both the text of a choice and an index of another one is ambiguous."""
        if self.parser != "choice" or self.answer_index == "none" or text not in choices:
            return
        if re.fullmatch(r"[0-9]{1,6}", text) and int(text) <= len(choices):
            raise UserError(
                f"{where}: the answer {text!r} is a choice, and may be the index of another; "
                "set answer_index to 0 or 1 for indices, to none for texts"
            )

    def _check(self, answer: str, choices: tuple[str, ...], where: str) -> str:
        """The answer as the file writes it.

        Raises:
            UserError: the parser does not read the whole of it as one answer.
        """
        if read_gold(self.parser, answer, choices) is not None:
            return answer
        hint = ""
        if choices:
            hint = f"; the choices are {_format_names(choices)}{nearest(answer, choices)}"
            if re.fullmatch(r"[0-9]{1,6}", answer):
                hint += "; answer_index: 0 or 1 says that answers are indices"
        elif self.parser == "number":
            hint = "; one number and perhaps a unit is expected, other answers are read by another"
            hint += " answer_parser" + ": decimal_comma" * has_decimal_comma(answer)
        elif self.parser == "text" and "\n" in answer:
            hint = "; it has several lines, which answer_parser: free_text reads"
        raise UserError(
            f"{where}: the answer {answer!r:.100} cannot be read as "
            f"{shorten_parser_name(self.parser)!r}{hint}"
        )

    def _cut(self, key: str, text: str, where: str) -> str:
        """The text that the group of a pattern matches."""
        if key not in self.patterns:
            return text
        pattern = self.patterns[key]
        if not (found := self.matchers[key].search(pattern, text)):
            shown = display_text(repr(pattern.pattern), 100)
            raise UserError(f"{where}: {key} {shown} is not found in {text[-40:]!r}")
        return (found[1] or "").strip()

    def _strip(self, reasoning: str) -> str:
        if "strip_pattern" in self.patterns:
            matcher = self.matchers["strip_pattern"]
            reasoning = matcher.remove(self.patterns["strip_pattern"], reasoning)
        return reasoning.strip()


def _check_length(texts: Sequence[str], where: str) -> None:
    """Raises UserError for a text that no decoder can read."""
    longest = max(map(len, texts))
    if longest > MAX_TEXT_LENGTH:
        raise UserError(
            f"{where}: a text of {longest:,} characters; at most {MAX_TEXT_LENGTH:,} can be used"
        )


def _compile(key: str, pattern: str, matcher: BoundedPatterns) -> Any:
    compiled = matcher.compile(pattern, regex.DOTALL)
    if key != "strip_pattern" and compiled.groups != 1:
        raise UserError(f"{matcher.where}: expected one group, found {compiled.groups}")
    return compiled


def _format_names(names: Sequence[str]) -> str:
    listed = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
    return listed if len(listed) <= 200 else listed[:197] + "..."
