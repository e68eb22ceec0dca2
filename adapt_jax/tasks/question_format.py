"""How a task reads questions from a file. It is saved with an adaptation, for other files."""

import re
from collections.abc import Mapping
from typing import Any

from adapt_jax.tasks.example import Example
from adapt_jax.tasks.fields.example_reader import ExampleReader, Fields
from adapt_jax.tasks.sources.rows import FileOptions, Row
from adapt_jax.utils.config import Strict

__all__ = ["QuestionFormat"]


class QuestionFormat(Strict):
    """The part of a task file that questions without answers are read by.

    Attributes:
        name: of the task, for the ids of rows.
        fields: which field of a row is what.
        choices: fixed choices of every question.
        file_options: how a file is read.
        row_fields: further fields that the template names.
    """

    name: str
    fields: Fields = Fields()
    choices: list[str] = []
    file_options: FileOptions = FileOptions()
    row_fields: list[str] = []

    def read(self, row: Row) -> Example:
        """The row as a question.

        Raises:
            UserError: a field is absent, empty or structured.
        """
        reader = ExampleReader(
            self.fields,
            "text",
            name=self.name,
            choices=tuple(self.choices),
            row_fields=self.row_fields,
        )
        return reader.read_question(row)

    def with_columns_of(self, values: Mapping[str, Any]) -> "QuestionFormat":
        """Also reads the columns ``id`` and ``choices`` where the task itself has neither."""
        found: dict[str, str] = {}
        if self.fields.id is None and values.get("id") not in (None, ""):
            found["id"] = "id"
        if self.fields.choices is None and not self.choices and values.get("choices"):
            found["choices"] = "choices"
        return self.model_copy(update={"fields": self.fields.model_copy(update=found)})

    def list_columns(self) -> list[str]:
        """The fields that a question is made of."""
        asked = self.fields.messages or self.fields.question
        question = re.findall(r"\{([^{}]+)\}", asked) or [asked]
        choices = self.fields.choices
        named = [choices] if isinstance(choices, str) else choices or []
        return [*question, *named, *filter(None, [self.fields.id])]

    def suits(self, values: Mapping[str, Any]) -> bool:
        """Whether rows with these values, of all of them together, have all of these fields."""
        return all(
            name in values or name.partition(".")[0] in values for name in self.list_columns()
        )
