"""Answers on disk as they come: what lets an interrupted evaluation go on where it stood."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapt_jax.prompting.prediction import Prediction
from adapt_jax.prompting.voting import Vote
from adapt_jax.sampling.types import Candidate
from adapt_jax.tasks.task import Example
from adapt_jax.utils.errors import UserError


class Journal:
    """A file of answers, a line each, in the order in which they came; its first line says whose.

    Killed at any moment it holds all answers but the one that was being written. A journal of
    other work (``identity``) that stands there is written anew.
    """

    def __init__(self, path: Path, identity: str):
        self.path, self.head = path, json.dumps({"journal": identity})

    def read(self, examples: Sequence[Example]) -> dict[int, Prediction]:
        """What was answered before, by the index of the example; a line cut short is left out."""
        try:
            head, *lines = self.path.read_text(encoding="utf-8").split("\n")[:-1] or [""]
        except (OSError, UnicodeDecodeError):
            return {}
        index_of = {example.id: index for index, example in enumerate(examples)}
        known: dict[int, Prediction] = {}
        try:
            for line in lines if head == self.head else ():
                answered = _from_row(json.loads(line))
                known[index_of[answered.example_id]] = answered
        except (ValueError, KeyError, TypeError, AttributeError):
            pass  # what follows a damaged line is asked again
        return known

    @contextmanager
    def write(self, known: dict[int, Prediction]) -> Iterator["Journal"]:
        """Opens the file to add answers to those that are known.

        A mistake that is found before the first answer leaves no file behind.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.with_name(f".{self.path.name}.new")
        lines = [self.head, *(_to_line(answered) for answered in known.values())]
        whole.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        whole.replace(self.path)
        self.empty = not known
        try:
            with self.path.open("a", encoding="utf-8") as self.file:
                yield self
        except UserError:
            if self.empty:
                self.remove()
            raise

    def add(self, answered: Prediction) -> None:
        """One more answer, kept from now on whatever happens."""
        self.empty = False
        self.file.write(_to_line(answered) + "\n")
        self.file.flush()

    def remove(self) -> None:
        """Takes the file away: what it held has found its place."""
        self.path.unlink(missing_ok=True)


def _to_line(answered: Prediction) -> str:
    return json.dumps(asdict(answered), ensure_ascii=False)


def _from_row(row: dict[str, Any]) -> Prediction:
    candidates = tuple(
        Candidate(**one | {"token_ids": tuple(one["token_ids"])}) for one in row["candidates"]
    )
    vote = Vote(**row["vote"] | {"tied_answers": tuple(row["vote"]["tied_answers"])})
    return Prediction(**row | {"candidates": candidates, "vote": vote})
