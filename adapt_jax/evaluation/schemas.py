"""The JSON schemas of comparison.json, evaluation.json and `adapt-jax judge --json`.

python -m adapt_jax.evaluation.schemas docs/schemas
"""

import sys
from pathlib import Path

from pydantic import BaseModel

from adapt_jax.evaluation.judging.results import Judgement
from adapt_jax.evaluation.results import ComparisonResult, EvaluationFile
from adapt_jax.utils.files import write_json

__all__ = ["SCHEMAS", "write_schemas"]

SCHEMAS: dict[str, type[BaseModel]] = {
    "comparison.schema.json": ComparisonResult,
    "evaluation.schema.json": EvaluationFile,
    "judgement.schema.json": Judgement,
}


def write_schemas(folder: Path) -> None:
    """Writes the schemas, as JSON Schema 2020-12, into the folder."""
    for name, model in SCHEMAS.items():
        schema = model.model_json_schema(mode="serialization")
        dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        write_json(folder / name, dialect | schema)


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
