"""From examples to the arrays of a batch: packed into rows, or a row for each.

Axes: R rows, T tokens of a row, M targets.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Float, Int

__all__ = [
    "PACKINGS",
    "Batch",
    "BatchShape",
    "TrainingExample",
    "best_fit",
    "one_per_row",
    "pack",
    "pack_rows",
    "split_microbatches",
]


@dataclass(frozen=True)
class TrainingExample:
    """A tokenized text; the loss is taken on ``tokens[target_start:]``.

    ``weights`` are those of the last targets in the mean over all targets; 1, when not given.
    """

    id: str
    tokens: tuple[int, ...]
    target_start: int
    weights: tuple[float, ...] = ()

    @property
    def targets(self) -> int:
        """How many tokens carry loss; the first token of all is never predicted."""
        return len(self.tokens) - max(self.target_start, 1)

    @property
    def counts(self) -> bool:
        """Whether any token carries loss: there is a target whose weight is not 0."""
        given = self.weights[-self.targets :]
        return self.targets > 0 and (len(given) < self.targets or any(given))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Packed rows. Segments count from 1 in each row; 0 is padding. Positions restart.

    ``target_index`` points into the R·T positions in row-major order, at the token *before* each
    target, because there its logits are; ``target_weight`` is 0 for the padding of M. A batch that
    is taken in parts has all of these arrays with the parts as one more axis in front.
    """

    tokens: Int[Array, "R T"]
    positions: Int[Array, "R T"]
    segments: Int[Array, "R T"]
    target_index: Int[Array, " M"]
    target_id: Int[Array, " M"]
    target_weight: Float[Array, " M"]


def best_fit(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Packs lengths into rows: longest first, each where the least room is left over."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (what is left, row), least first
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = bisect_left(room, (lengths[index], 0))
        left, row = room.pop(fits) if fits < len(room) else (row_length, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        insort(room, (left - lengths[index], row))
    return rows


def one_per_row(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """A row for each length, in their order."""
    return [[index] for index in range(len(lengths))]


PACKINGS: dict[str, Callable[[Sequence[int], int], list[list[int]]]] = {
    "best_fit": best_fit,
    "none": one_per_row,
}


@dataclass(frozen=True)
class BatchShape:
    """A static shape of a run's batches: R rows, T tokens of a row, M targets."""

    rows: int
    row_length: int
    targets: int


def pack(
    examples: Sequence[TrainingExample],
    shape: BatchShape,
    num_microbatches: int = 1,
    packing: str = "best_fit",
) -> tuple[Batch, list[TrainingExample]]:
    """One batch of a fixed shape, or one per microbatch, and the examples that found no room."""
    rows = pack_rows(examples, shape.row_length, packing)
    room = num_microbatches * shape.rows
    left_over = [example for row in rows[room:] for example in row]
    filled = [
        _fill_batch(hand, shape) for hand in split_microbatches(rows[:room], num_microbatches)
    ]
    left_over += [example for _, rest in filled for example in rest]
    if num_microbatches == 1:
        return filled[0][0], left_over
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(part for part, _ in filled)), left_over


def pack_rows(
    examples: Sequence[TrainingExample], row_length: int, packing: str
) -> list[list[TrainingExample]]:
    """The examples in rows."""
    lengths = [len(example.tokens) for example in examples]
    return [[examples[index] for index in row] for row in PACKINGS[packing](lengths, row_length)]


def split_microbatches(
    rows: Sequence[list[TrainingExample]], num_microbatches: int
) -> list[list[list[TrainingExample]]]:
    """The rows in parts of as many, but for one, and of about as many targets.

    They are dealt by their targets, most first, each to the part that has fewest and has room.
    """
    if num_microbatches == 1:
        return [list(rows)]
    hands: list[list[list[TrainingExample]]] = [[] for _ in range(num_microbatches)]
    filled, most = [0] * num_microbatches, -(-len(rows) // num_microbatches)
    counts = [sum(example.targets for example in row) for row in rows]
    for index in sorted(range(len(rows)), key=lambda index: -counts[index]):
        least = min(
            (n for n in range(num_microbatches) if len(hands[n]) < most), key=lambda n: filled[n]
        )
        hands[least].append(rows[index])
        filled[least] += counts[index]
    return hands


def _fill_batch(
    rows: Sequence[list[TrainingExample]], shape: BatchShape
) -> tuple[Batch, list[TrainingExample]]:
    """A batch of such rows, and the examples for whose targets it had no room."""
    size = (shape.rows, shape.row_length)
    tokens, positions, segments = (np.zeros(size, np.int32) for _ in range(3))
    at, ids, weights = (np.zeros(shape.targets, kind) for kind in (np.int32, np.int32, np.float32))
    left_over, filled = [], 0
    for row, members in enumerate(rows):
        start = 0
        for segment, example in enumerate(members, 1):
            if filled + example.targets > shape.targets:
                left_over.append(example)
                continue
            stop = start + len(example.tokens)
            tokens[row, start:stop] = example.tokens
            positions[row, start:stop] = np.arange(len(example.tokens))
            segments[row, start:stop] = segment
            first = start + max(example.target_start, 1)
            span = slice(filled, filled + example.targets)
            at[span] = row * shape.row_length + np.arange(first, stop) - 1
            ids[span] = tokens[row, first:stop]
            weights[span] = 1.0
            if example.weights and example.targets:
                given = example.weights[-example.targets :]
                weights[span.stop - len(given) : span.stop] = given
            filled, start = filled + example.targets, stop
    return Batch(tokens, positions, segments, at, ids, weights), left_over  # type: ignore[arg-type]
