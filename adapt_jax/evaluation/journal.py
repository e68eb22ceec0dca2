"""Predictions on disk as they come, so that an interrupted evaluation can continue."""

import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from adapt_jax.prompting.prediction import Prediction
from adapt_jax.tasks.example import Example
from adapt_jax.utils import agreement, distributed, files
from adapt_jax.utils.bucket_mirror import append_lines
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.locks import lock_file
from adapt_jax.utils.text_files import parse_json, read_json_lines

__all__ = ["FORMAT", "Journal", "read_plain_prediction", "to_plain_prediction"]

FORMAT = 3  # of the file; a journal of another format is not continued
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_PREDICTION = TypeAdapter(Prediction)


class Journal:
    """A file of predictions, one line each, in the order in which they came.

    The first line holds the format and the identity of the work. Each other line holds a prediction
    as JSON text and the checksum of this text, so that damage never becomes a result. A process
    that is killed at any moment leaves all predictions but the one that it was writing. A journal
    of other work is replaced. Of several processes each writes a file of its own: process 0 this
    one, the others parts beside it. Any number of processes continues from all of them.
    """

    def __init__(self, path: Path, identity: str):
        self.path = path
        self._head = {"journal": FORMAT, "identity": identity}
        self._append: Callable[[str], None] | None = None
        self._is_empty = True

    def _list_parts(self) -> list[Path]:
        """The files of processes other than process 0."""
        return sorted(self.path.parent.glob(f"{self.path.stem}.process-*{self.path.suffix}"))

    def read(self, examples: Sequence[Example]) -> dict[int, Prediction]:
        """The predictions of an interrupted run, by the index of the example.

        What follows a damaged line is asked again; a last line that was cut off is one.
        """
        known: dict[int, Prediction] = {}
        for path in (*self._list_parts(), self.path):
            known |= self._read_file(path, examples)
        return known

    def _read_file(self, path: Path, examples: Sequence[Example]) -> dict[int, Prediction]:
        index_of = {example.id: index for index, example in enumerate(examples)}
        known: dict[int, Prediction] = {}
        try:
            lines = read_json_lines(path, constants=_NON_FINITE)
            if next(lines, (0, None))[1] != self._head:
                return {}
            for _, row in lines:
                prediction = _from_row(row)
                known[index_of[prediction.example_id]] = prediction
        except (UserError, ValidationError, KeyError, TypeError, ValueError):
            pass  # no file, or a damaged line
        return known

    def read_together(self, examples: Sequence[Example]) -> dict[int, Prediction]:
        """What process 0 reads, in all processes."""
        if distributed.num_processes() == 1:
            return self.read(examples)
        known = self.read(examples) if distributed.is_main_process() else {}
        rows: list[Any] = [[index, to_plain_prediction(one)] for index, one in known.items()]
        return {
            index: read_plain_prediction(row)
            for index, row in distributed.from_main("known predictions", rows)
        }

    @contextmanager
    def open(self, known: dict[int, Prediction]) -> Iterator["Journal"]:
        """Opens the file to add predictions to those that are known.

        A mistake that is found before the first prediction leaves no file.

        Raises:
            UserError: another process writes to it, or it cannot be written; what it held is
                still there.
        """
        with agreement.on_main("journal", lambda: lock_file(self.path)):
            agreement.run_on_main("journal begun", lambda: self._begin(known))
            path, index = self.path, distributed.process_index()
            if index:
                path = path.with_name(f"{path.stem}.process-{index}{path.suffix}")
            self._is_empty = not known
            try:
                with append_lines(path) as self._append:
                    if index:  # process 0 has begun its own, and removed the others
                        self._append(json.dumps(self._head))
                    yield self
            except UserError:
                if self._is_empty and distributed.is_main_process():
                    self.remove()
                raise
            finally:
                self._append = None

    def _begin(self, known: dict[int, Prediction]) -> None:
        """Writes what is known, which the parts of an earlier run are then no longer needed for."""
        lines = [json.dumps(self._head), *map(_to_line, known.values())]
        files.write_text(self.path, "".join(line + "\n" for line in lines))
        for part in self._list_parts():
            part.unlink(missing_ok=True)

    def add(self, prediction: Prediction) -> None:
        """Writes one more prediction, which is kept whatever happens next.

        Raises:
            UserError: the disk is full; the predictions before this one are kept.
        """
        assert self._append is not None, "a journal is opened before predictions are added"
        self._append(_to_line(prediction))
        self._is_empty = False

    def remove(self) -> None:
        """Removes the file and its parts, when the predictions are stored elsewhere."""
        for path in (self.path, *self._list_parts()):
            path.unlink(missing_ok=True)


def _to_line(prediction: Prediction) -> str:
    text = json.dumps(to_plain_prediction(prediction))  # ASCII, so that any text can be written
    return json.dumps({"crc32": zlib.crc32(text.encode("ascii")), "prediction": text})


def _from_row(row: Any) -> Prediction:
    """The prediction of a line.

    Raises:
        UserError, ValidationError, KeyError, TypeError, ValueError: the line is damaged.
    """
    text = str(row["prediction"])
    if zlib.crc32(text.encode("ascii")) != row["crc32"]:
        raise ValueError("the checksum is another")
    return read_plain_prediction(parse_json(text, "a prediction", constants=_NON_FINITE))


def to_plain_prediction(prediction: Prediction) -> dict[str, Any]:
    """A prediction as plain JSON."""
    return asdict(prediction)


def read_plain_prediction(content: Any) -> Prediction:
    """The prediction of plain JSON.

    Raises:
        ValidationError: it is none.
    """
    return _PREDICTION.validate_python(content)
