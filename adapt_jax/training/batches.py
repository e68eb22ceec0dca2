"""From examples to batches: packed, with no attention across examples, or a row for each.

Axes: R rows, T tokens of a row, M targets.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any

import grain
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from adapt_jax.utils.errors import UserError

BUCKET = 64  # lengths of rows and numbers of targets are multiples of this
PART = 2048  # tokens of a part, at least, where a CPU's cache is to hold what is worked on


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

    ``target_at`` points into the R·T positions in row-major order, at the token *before* each
    target, because there its logits are; ``target_weight`` is 0 for the padding of M. A batch that
    is taken in parts has all of these arrays with the parts as one more axis in front.
    """

    tokens: Int[Array, "R T"]
    positions: Int[Array, "R T"]
    segments: Int[Array, "R T"]
    target_at: Int[Array, " M"]
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


def one_each(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """A row for each length, in their order."""
    return [[index] for index in range(len(lengths))]


PACKINGS: dict[str, Callable[[Sequence[int], int], list[list[int]]]] = {
    "best_fit": best_fit,
    "none": one_each,
}


@dataclass(frozen=True)
class Shape:
    """A static shape of a run's batches: R rows, T tokens of a row, M targets."""

    rows: int
    row_length: int
    targets: int


def pack(
    examples: Sequence[TrainingExample], shape: Shape, parts: int = 1, packing: str = "best_fit"
) -> tuple[Batch, list[TrainingExample]]:
    """One batch of a fixed shape, or one in each of ``parts``, and what there was no room for."""
    rows = laid_out(examples, shape.row_length, packing)
    room = parts * shape.rows
    left_over = [example for row in rows[room:] for example in row]
    filled = [_filled(hand, shape) for hand in dealt(rows[:room], parts)]
    left_over += [example for _, rest in filled for example in rest]
    if parts == 1:
        return filled[0][0], left_over
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(part for part, _ in filled)), left_over


def laid_out(
    examples: Sequence[TrainingExample], row_length: int, packing: str
) -> list[list[TrainingExample]]:
    """The examples in rows."""
    lengths = [len(example.tokens) for example in examples]
    return [[examples[index] for index in row] for row in PACKINGS[packing](lengths, row_length)]


def dealt(rows: Sequence[list[TrainingExample]], parts: int) -> list[list[list[TrainingExample]]]:
    """The rows in parts of as many, but for one, and of about as many targets.

    They are dealt by their targets, most first, each to the part that has fewest and has room.
    """
    if parts == 1:
        return [list(rows)]
    hands: list[list[list[TrainingExample]]] = [[] for _ in range(parts)]
    held, most = [0] * parts, -(-len(rows) // parts)
    counts = [sum(example.targets for example in row) for row in rows]
    for index in sorted(range(len(rows)), key=lambda index: -counts[index]):
        least = min((n for n in range(parts) if len(hands[n]) < most), key=lambda n: held[n])
        hands[least].append(rows[index])
        held[least] += counts[index]
    return hands


def _filled(
    rows: Sequence[list[TrainingExample]], shape: Shape
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


class Batches:
    """The batches of a run, in a seeded order whose position can be saved and restored (Grain)."""

    def __init__(
        self,
        examples: Sequence[TrainingExample],
        batch_size: int,
        steps: int,
        *,
        seed: int,
        row_length: int | None = None,
        shape: Shape | None = None,
        row_multiple: int = 1,
        parts: int | None = 1,
        packing: str = "best_fit",
    ):
        """Shuffles ``examples`` in every epoch; a step takes ``batch_size`` of them.

        Which examples a step takes, and their order, does not depend on how they are laid out.

        Args:
            row_length: T, at most. When not given it is that of the longest example (packed: 256,
                or more, whatever leaves the least to compute).
            shape: the batch shape, for endless sources; what does not fit in it is dropped. When
                not given, the shapes that the batches of the run fit in are worked out.
            row_multiple: R and M are multiples of this (the devices that share rows and targets).
            parts: a step's rows are dealt to so many batches of the shape; None: as many as make
                parts of PART tokens and more (one, where the shape is given).
            packing: a name in PACKINGS. Packed, all batches have one shape; unpacked, the shape of
                a batch is that of the bucket of its longest example.

        Raises:
            UserError: when there is no example, or a batch without a target.
        """
        if len(examples) == 0:
            raise UserError("there is no example to train on")
        self.dropped = 0
        data = grain.MapDataset.source(examples)  # type: ignore[arg-type]
        if shape is None:
            data = data.shuffle(seed=seed)
        epochs = -(-steps * batch_size // len(examples))  # endless would overflow Grain's length
        self._data = data.repeat(epochs).batch(batch_size, batch_fn=list)
        self._packing = packing
        if shape is not None:
            self.parts, self.shapes = parts or 1, [shape]
        else:
            members = [self._data[step] for step in range(steps)]
            self.parts = _parts_for(members, row_length) if parts is None else parts
            self.shapes = _shapes_for(members, row_length, row_multiple, self.parts, packing)
        self._iterator = iter(self._data.map(self._pack).to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))  # fmt: skip

    @property
    def shape(self) -> Shape:
        """The largest shape of the run, into which each of its batches fits."""
        return self.shapes[-1]

    def _pack(self, examples: list[TrainingExample]) -> tuple[Batch, int]:
        longest = max(len(example.tokens) for example in examples)
        fits = (shape for shape in self.shapes if shape.row_length >= longest)
        shape = next(fits, self.shape)
        batch, left_over = pack(examples, shape, self.parts, self._packing)
        return batch, len(left_over)

    def __next__(self) -> Batch:
        batch, left_over = next(self._iterator)
        self.dropped += left_over  # here, and not in _pack, which is ahead of who takes the batches
        return batch

    def members(self, step: int) -> list[TrainingExample]:
        """The examples of a step (from 0), wherever the iterator stands."""
        return self._data[step]

    def get_state(self) -> dict[str, Any]:
        """Where the iterator stands and what was dropped until there, as plain JSON."""
        return {"order": self._iterator.get_state(), "dropped": self.dropped}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a saved position."""
        self._iterator.set_state(state["order"])
        self.dropped = state["dropped"]


def _parts_for(batches: list[list[TrainingExample]], row_length: int | None) -> int:
    """As many parts as have PART tokens, and a row, or more."""
    sizes = [[len(example.tokens) for example in batch] for batch in batches]
    least = max(PART, row_length or max(map(max, sizes)))
    return max(max(map(sum, sizes)) // least, 1)


def _shapes_for(
    batches: list[list[TrainingExample]],
    row_length: int | None,
    row_multiple: int,
    parts: int,
    packing: str,
) -> list[Shape]:
    """The smallest shapes into which each part of each of the run's batches packs without a rest.

    They grow in each number. Packed there is one, unpacked one for each bucket that is used.
    """
    lengths = [max(len(example.tokens) for example in batch) for batch in batches]
    longest = max(lengths)
    if row_length is not None and longest > row_length:
        raise UserError(f"row_length {row_length}: an example has {longest} tokens")
    if not any(example.counts for batch in batches for example in batch):
        raise UserError("no example has a target token")
    for step, batch in enumerate(batches, 1):
        if not any(example.counts for example in batch):
            names = ", ".join(example.id for example in batch[:8])
            raise UserError(f"step {step}: no example of its batch has a target token ({names})")

    def fitting(size: int) -> Shape:
        """The shape with rows of ``size``, for all batches without a longer example."""
        inside = [batch for batch, n in zip(batches, lengths, strict=True) if n <= size]
        hands = [hand for batch in inside for hand in dealt(laid_out(batch, size, packing), parts)]
        rows = max(len(hand) for hand in hands)
        targets = max(sum(example.targets for row in hand for example in row) for hand in hands)
        return Shape(up(rows, row_multiple), size, up(targets, lcm(BUCKET, row_multiple)))

    if packing == "none":
        most = row_length or up(longest, BUCKET)
        return [fitting(size) for size in sorted({bucket(n, most) for n in lengths})]
    least = max(up(longest, BUCKET), 256)
    sizes = [row_length] if row_length else [least + n * BUCKET for n in range(4)]
    return [min((fitting(size) for size in sizes), key=_cost)]


def _cost(shape: Shape) -> float:
    """What a shape has to be computed for, in places; longer rows have more to attend to.

    A step with rows of 512 tokens takes 7 % longer than one of as many places in rows of 384 (15
    million parameters, CPU).
    """
    return shape.rows * shape.row_length * (1 + shape.row_length / 1500)


def bucket(length: int, most: int) -> int:
    """A length rounded up to BUCKET, twice that, four times that and so on, but ``most``."""
    return min(BUCKET << max(-(-length // BUCKET) - 1, 0).bit_length(), most)


def up(number: int, multiple: int) -> int:
    """Rounded up to a multiple."""
    return -(-number // multiple) * multiple
