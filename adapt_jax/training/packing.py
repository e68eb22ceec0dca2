"""From training examples to the arrays of a batch: several in a row, or a row for each.

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
    "PackedRow",
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
    def num_targets(self) -> int:
        """How many tokens carry loss; the first token of all is never predicted."""
        return len(self.tokens) - max(self.target_start, 1)

    @property
    def has_weighted_target(self) -> bool:
        """Whether there is a target whose weight is not 0."""
        given = self.weights[-self.num_targets :]
        return self.num_targets > 0 and (len(given) < self.num_targets or any(given))


PackedRow = list[TrainingExample]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Packed rows. Segments count from 1 in each row; 0 is padding. Positions restart.

    ``target_index`` points into the R·T tokens in row-major order, at the token *before* each
    target, because its logits predict the target; ``target_weight`` is 0 for the padding of M. The
    arrays of microbatches have one more leading axis.
    """

    tokens: Int[Array, "R T"]
    positions: Int[Array, "R T"]
    segments: Int[Array, "R T"]
    target_index: Int[Array, " M"]
    target_id: Int[Array, " M"]
    target_weight: Float[Array, " M"]


@dataclass(frozen=True)
class BatchShape:
    """A static shape of a run's batches: R rows, T tokens of a row, M targets."""

    rows: int
    row_length: int
    targets: int


def best_fit(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Packs lengths into rows: longest first, each into the fullest row that it fits in.

    Returns:
        the indices of the lengths in each row.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens left, row), fewest left first
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = bisect_left(free, (lengths[index], 0))
        left, row = free.pop(fits) if fits < len(free) else (row_length, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        insort(free, (left - lengths[index], row))
    return rows


def one_per_row(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """A row for each length, in their order."""
    return [[index] for index in range(len(lengths))]


PACKINGS: dict[str, Callable[[Sequence[int], int], list[list[int]]]] = {
    "best_fit": best_fit,
    "none": one_per_row,
}


def pack_rows(
    examples: Sequence[TrainingExample], row_length: int, packing: str
) -> list[PackedRow]:
    """The examples in rows of at most ``row_length`` tokens; ``packing`` is a name in PACKINGS."""
    lengths = [len(example.tokens) for example in examples]
    return [[examples[index] for index in row] for row in PACKINGS[packing](lengths, row_length)]


def split_microbatches(rows: Sequence[PackedRow], num_microbatches: int) -> list[list[PackedRow]]:
    """The rows in microbatches of equal size, except for the last, and of about as many targets.

    Rows are taken by their targets, most first; each goes to the microbatch that has the fewest
    targets so far and is not full.
    """
    if num_microbatches == 1:
        return [list(rows)]
    microbatches: list[list[PackedRow]] = [[] for _ in range(num_microbatches)]
    filled, max_rows = [0] * num_microbatches, -(-len(rows) // num_microbatches)
    counts = [sum(example.num_targets for example in row) for row in rows]
    for index in sorted(range(len(rows)), key=lambda index: -counts[index]):
        open_ones = (n for n in range(num_microbatches) if len(microbatches[n]) < max_rows)
        emptiest = min(open_ones, key=lambda n: filled[n])
        microbatches[emptiest].append(rows[index])
        filled[emptiest] += counts[index]
    return microbatches


def pack(
    examples: Sequence[TrainingExample],
    shape: BatchShape,
    num_microbatches: int = 1,
    packing: str = "best_fit",
) -> tuple[Batch, list[TrainingExample]]:
    """A batch of a fixed shape, or stacked microbatches of it; and the examples with no room."""
    rows = pack_rows(examples, shape.row_length, packing)
    max_rows = num_microbatches * shape.rows
    left_over = [example for row in rows[max_rows:] for example in row]
    filled = [
        _fill_batch(rows, shape) for rows in split_microbatches(rows[:max_rows], num_microbatches)
    ]
    left_over += [example for _, rest in filled for example in rest]
    if num_microbatches == 1:
        return filled[0][0], left_over
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(batch for batch, _ in filled))
    return stacked, left_over


def _fill_batch(
    rows: Sequence[PackedRow], shape: BatchShape
) -> tuple[Batch, list[TrainingExample]]:
    """A batch of these rows, and the examples for whose targets it had no room."""
    size = (shape.rows, shape.row_length)
    tokens, positions, segments = (np.zeros(size, np.int32) for _ in range(3))
    target_index, target_id = (np.zeros(shape.targets, np.int32) for _ in range(2))
    target_weight = np.zeros(shape.targets, np.float32)
    left_over, filled = [], 0
    for row, members in enumerate(rows):
        start = 0
        for segment, example in enumerate(members, 1):
            if filled + example.num_targets > shape.targets:
                left_over.append(example)
                continue
            stop = start + len(example.tokens)
            tokens[row, start:stop] = example.tokens
            positions[row, start:stop] = np.arange(len(example.tokens))
            segments[row, start:stop] = segment
            first = start + max(example.target_start, 1)
            span = slice(filled, filled + example.num_targets)
            target_index[span] = row * shape.row_length + np.arange(first, stop) - 1
            target_id[span] = tokens[row, first:stop]
            target_weight[span] = 1.0
            if example.weights and example.num_targets:
                given = example.weights[-example.num_targets :]
                target_weight[span.stop - len(given) : span.stop] = given
            filled, start = filled + example.num_targets, stop
    arrays = (tokens, positions, segments, target_index, target_id, target_weight)
    return Batch(*arrays), left_over  # type: ignore[arg-type]
