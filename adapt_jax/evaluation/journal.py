"""Predictions on disk as they come, so that an interrupted evaluation can continue."""

import json
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from adapt_jax.prompting.prediction import Prediction
from adapt_jax.tasks.example import Example
from adapt_jax.utils import files
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.locks import lock_file
from adapt_jax.utils.text_files import parse_json, read_json_lines

__all__ = ["FORMAT", "Journal"]

FORMAT = 3  # of the file; a journal of another format is not continued
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_PREDICTION = TypeAdapter(Prediction)


class Journal:
    """A file of predictions, one line each, in the order in which they came.

    The first line holds the format and the identity of the work. Each other line holds a prediction
    as JSON text and the checksum of this text, so that damage never becomes a result. A process
    that is killed at any moment leaves all predictions but the one that it was writing. A journal
    of other work is replaced.
    """

    def __init__(self, path: Path, identity: str):
        self.path = path
        self._head = {"journal": FORMAT, "identity": identity}
        self._appender: files.LineAppender | None = None
        self._is_empty = True

    def read(self, examples: Sequence[Example]) -> dict[int, Prediction]:
        """The predictions of an interrupted run, by the index of the example.

        What follows a damaged line is asked again; a last line that was cut off is one.
        """
        index_of = {example.id: index for index, example in enumerate(examples)}
        known: dict[int, Prediction] = {}
        try:
            lines = read_json_lines(self.path, constants=_NON_FINITE)
            if next(lines, (0, None))[1] != self._head:
                return {}
            for _, row in lines:
                prediction = _from_row(row)
                known[index_of[prediction.example_id]] = prediction
        except (UserError, ValidationError, KeyError, TypeError, ValueError):
            pass  # no file, or a damaged line
        return known

    @contextmanager
    def open(self, known: dict[int, Prediction]) -> Iterator["Journal"]:
        """Opens the file to add predictions to those that are known.

        A mistake that is found before the first prediction leaves no file.

        Raises:
            UserError: another process writes to it, or it cannot be written; what it held is
                still there.
        """
        with lock_file(self.path):
            lines = [json.dumps(self._head), *map(_to_line, known.values())]
            files.write_text(self.path, "".join(line + "\n" for line in lines))
            self._is_empty = not known
            try:
                with files.LineAppender(self.path) as self._appender:
                    yield self
            except UserError:
                if self._is_empty:
                    self.remove()
                raise
            finally:
                self._appender = None

    def add(self, prediction: Prediction) -> None:
        """Writes one more prediction, which is kept whatever happens next.

        Raises:
            UserError: the disk is full; the predictions before this one are kept.
        """
        assert self._appender is not None, "a journal is opened before predictions are added"
        self._appender.write(_to_line(prediction))
        self._is_empty = False

    def remove(self) -> None:
        """Removes the file, when its predictions are stored elsewhere."""
        self.path.unlink(missing_ok=True)


def _to_line(prediction: Prediction) -> str:
    text = json.dumps(asdict(prediction))  # ASCII, so that any text can be written
    return json.dumps({"crc32": zlib.crc32(text.encode("ascii")), "prediction": text})


def _from_row(row: Any) -> Prediction:
    """The prediction of a line.

    Raises:
        UserError, ValidationError, KeyError, TypeError, ValueError: the line is damaged.
    """
    text = str(row["prediction"])
    if zlib.crc32(text.encode("ascii")) != row["crc32"]:
        raise ValueError("the checksum is another")
    content = parse_json(text, "a prediction", constants=_NON_FINITE)
    return _PREDICTION.validate_python(content)
