"""From the rows of a source to examples, in bounded memory."""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from adapt_jax.tasks.example import Example
from adapt_jax.tasks.fields.example_reader import ExampleReader
from adapt_jax.tasks.fields.values import AbsentField, Missing, RepeatedChoice
from adapt_jax.tasks.sources import SPLITS, Row, Sizes
from adapt_jax.tasks.splits import content_key
from adapt_jax.utils.errors import UserError, nearest

__all__ = ["MAX_EXAMPLES", "ExamplesRead", "read_examples"]

MAX_EXAMPLES = 200_000  # that are kept of a file to train on, where no size asks for more


@dataclass
class ExamplesRead:
    """The examples of every split, and what became of the rows.

    Attributes:
        examples: by split, in the order of their source.
        places: file and line of each example, by its ``id(...)`` in Python.
        columns: the fields of all rows, where a template names some.
        rows: how many there were.
        skipped: rows without a question or an answer.
        repeated: rows that have a choice twice.
        not_kept: rows beyond what is kept.
    """

    examples: dict[str, list[Example]] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)
    rows: int = 0
    skipped: int = 0
    repeated: int = 0
    not_kept: int = 0


def read_examples(
    reader: ExampleReader,
    rows: Mapping[str, Iterable[Row | Example]],
    sizes: Sizes,
    seed: int,
    skip_missing: bool,
) -> ExamplesRead:
    """Reads every row once and keeps as many as the splits can use.

    Of a source to train on (and to divide) at most MAX_EXAMPLES are kept, or as many as the
    sizes ask for: those that are first by ``content_key``, a random sample which depends on no
    order. So the memory does not grow with the rows. Of other rows only the question is read. A
    test or development split of its own is kept whole.

    Raises:
        UserError: naming file and line of a row that cannot be read, or that lacks its question or
            answer where these are not skipped.
    """
    result = ExamplesRead()
    joined, where = reader.fields.list_joined(), ""
    for split, source in rows.items():
        pool = _Pool(_find_capacity(split, rows, sizes), seed)
        absent: AbsentField | None = None
        for row in source:
            result.rows += 1
            if (reader.row_fields or joined) and isinstance(row, Row):
                result.columns |= row.values.keys()
                where = where or row.where
            try:
                if not isinstance(row, Row):
                    pool.add(row, "")
                # a question that is not kept is not read further, which saves most of the time
                elif pool.wants(row, reader):
                    pool.add(reader.read(row, split), row.where)
            except Missing as missing:
                if isinstance(missing, AbsentField):
                    absent = absent or missing
                if missing is absent and not (pool.total or skip_missing):
                    raise  # of the very first row: the field's name may be wrong
                if not skip_missing:
                    raise UserError(f"{missing}; skip_missing: true leaves such rows out") from None
                is_repeated = isinstance(missing, RepeatedChoice)
                result.skipped += not is_repeated
                result.repeated += is_repeated
        if absent and not pool.total:
            raise absent
        kept = pool.list_kept()
        result.examples[split] = [example for example, _ in kept]
        result.places |= {id(example): place for example, place in kept}
        result.not_kept += pool.total - len(kept)
    if where and (wrong := [one for one in joined if one.partition(".")[0] not in result.columns]):
        hint = nearest(wrong[0], result.columns)
        raise UserError(f"{where}: no row has the field {wrong[0]!r} of `fields`{hint}")
    return result


def _find_capacity(split: str, rows: Mapping[str, object], sizes: Sizes) -> int | None:
    """How many examples of a source are kept at most; None keeps all."""
    if split not in ("all", "train"):
        return None
    taken = [one for one in SPLITS if one in (split, "train") or one not in rows]
    wanted = sum(size for one in taken if isinstance(size := sizes[one], int))
    return max(wanted, MAX_EXAMPLES)


class _Pool:
    """At most ``capacity`` examples, those of the smallest content keys."""

    def __init__(self, capacity: int | None, seed: int) -> None:
        self.capacity, self.seed, self.total = capacity, seed, 0
        # (-key, number, example, place); a heap once it is full
        self._entries: list[tuple[int, int, Example, str]] = []
        self._is_full = False

    def wants(self, row: Row, reader: ExampleReader) -> bool:
        """Whether the example of a row would be kept; one that is not is counted here.

        Raises:
            UserError: as ``reader.read_question``.
        """
        if self.capacity is None or len(self._entries) < self.capacity:
            return True
        self._make_heap()
        wanted = -content_key(reader.read_question(row), self.seed) > self._entries[0][0]
        self.total += not wanted
        return wanted

    def add(self, example: Example, place: str) -> None:
        self.total += 1
        if self.capacity is None or len(self._entries) < self.capacity:
            self._entries.append((0, self.total, example, place))
            return
        self._make_heap()
        entry = (-content_key(example, self.seed), self.total, example, place)
        if entry[0] > self._entries[0][0]:
            heapq.heapreplace(self._entries, entry)

    def _make_heap(self) -> None:
        """Keys are computed only once there is a choice."""
        if not self._is_full:
            self._entries = [
                (-content_key(example, self.seed), number, example, place)
                for _, number, example, place in self._entries
            ]
            heapq.heapify(self._entries)
            self._is_full = True

    def list_kept(self) -> list[tuple[Example, str]]:
        """The examples and their places, in the order in which they came."""
        ordered = sorted(self._entries, key=lambda entry: entry[1])
        return [(example, place) for _, _, example, place in ordered]
