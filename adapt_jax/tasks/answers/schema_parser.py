"""The answer parser of a JSON Schema, as a task file names it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from adapt_jax.tasks.answers.json_answers import name_schema_parser
from adapt_jax.utils.config import Strict, find_path, validate
from adapt_jax.utils.text_files import read_json

__all__ = ["load_parser"]


class JsonSchemaParser(Strict):
    """``answer_parser: {name: json_schema, schema: ..., field: ...}``.

    Attributes:
        schema: the JSON Schema of the answer, or a JSON file that holds it.
        field: the path of the answer in what the schema describes, such as ``result.label``; the
            whole by default.
    """

    name: Literal["json_schema"]
    json_schema: dict[str, Any] | bool | str = Field(alias="schema")  # pydantic's models have one
    field: str | None = None


def load_parser(config: Mapping[str, Any], folder: Path, where: str) -> str:
    """The name of an answer parser that a task file describes by options.

    Raises:
        UserError: a wrong key, or no JSON Schema.
    """
    where = f"{where}: answer_parser"
    settings = validate(JsonSchemaParser, config, where)
    schema: Any = settings.json_schema
    if isinstance(schema, str):
        path = find_path(schema, folder)
        schema, where = read_json(path), str(path)
    return name_schema_parser(schema, settings.field, where)
