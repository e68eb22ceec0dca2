"""From examples to batches: packed, with no attention across examples, or a row for each.

Axes: R rows, T tokens of a row, M targets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from adapt_jax.errors import UserError

BUCKET = 64  # lengths of rows and numbers of targets are multiples of this


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
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = [row for row in range(len(rows)) if room[row] >= lengths[index]]
        if fits:
            row = min(fits, key=lambda row: room[row])
        else:
            row = len(rows)
            rows.append([])
            room.append(row_length)
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows


def one_each(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """A row for each length, in their order."""
    return [[index] for index in range(len(lengths))]


PACKINGS: dict[str, Callable[[Sequence[int], int], list[list[int]]]] = {
    "best_fit": best_fit,
    "none": one_each,
}


def pack(
    examples: Sequence[TrainingExample],
    rows: int,
    row_length: int,
    targets: int,
    packing: str = "best_fit",
) -> tuple[Batch, list[TrainingExample]]:
    """One batch of a fixed shape, and the examples for which it had no room."""
    shape = (rows, row_length)
    tokens, positions, segments = (np.zeros(shape, np.int32) for _ in range(3))
    at, ids, weights = (np.zeros(targets, kind) for kind in (np.int32, np.int32, np.float32))
    packed = PACKINGS[packing]([len(example.tokens) for example in examples], row_length)
    left_over = [examples[index] for row in packed[rows:] for index in row]
    filled = 0
    for row, members in enumerate(packed[:rows]):
        start = 0
        for segment, index in enumerate(members, 1):
            example = examples[index]
            if filled + example.targets > targets:
                left_over.append(example)
                continue
            stop = start + len(example.tokens)
            tokens[row, start:stop] = example.tokens
            positions[row, start:stop] = np.arange(len(example.tokens))
            segments[row, start:stop] = segment
            first = start + max(example.target_start, 1)
            span = slice(filled, filled + example.targets)
            at[span] = row * row_length + np.arange(first, stop) - 1
            ids[span] = tokens[row, first:stop]
            weights[span] = 1.0
            if example.weights and example.targets:
                given = example.weights[-example.targets :]
                weights[span.stop - len(given) : span.stop] = given
            filled, start = filled + example.targets, stop
    return Batch(tokens, positions, segments, at, ids, weights), left_over  # type: ignore[arg-type]


@dataclass(frozen=True)
class Shape:
    """A static shape of a run's batches: R rows, T tokens of a row, M targets."""

    rows: int
    row_length: int
    targets: int


def pack_parts(
    examples: Sequence[TrainingExample], shape: Shape, parts: int, packing: str = "best_fit"
) -> tuple[Batch, list[TrainingExample]]:
    """``pack``, or as many of it as there are parts, one above the other."""
    packed = [
        pack(members, shape.rows, shape.row_length, shape.targets, packing)
        for members in dealt(examples, parts, packing)
    ]
    left_over = [example for _, rest in packed for example in rest]
    if parts == 1:
        return packed[0][0], left_over
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(part for part, _ in packed)), left_over


def dealt(
    examples: Sequence[TrainingExample], parts: int, packing: str = "best_fit"
) -> list[list[TrainingExample]]:
    """The examples in parts of about as many tokens (unpacked: as many rows).

    They are dealt longest first, each to the part that has least.
    """
    if parts == 1:
        return [list(examples)]
    hands: list[list[TrainingExample]] = [[] for _ in range(parts)]
    sizes = [0] * parts
    for example in sorted(examples, key=lambda example: -len(example.tokens)):
        least = sizes.index(min(sizes))
        hands[least].append(example)
        sizes[least] += 1 if packing == "none" else len(example.tokens)
    return hands


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
        parts: int = 1,
        packing: str = "best_fit",
    ):
        """Shuffles ``examples`` in every epoch; a step takes ``batch_size`` of them.

        Which examples a step takes, and their order, does not depend on how they are laid out.

        Args:
            row_length: T, at most; the longest example (packed: or 256, whichever is more), when
                not given.
            shape: the batch shape, for endless sources; what does not fit in it is dropped. When
                not given, the shapes that the batches of the run fit in are worked out.
            row_multiple: R is a multiple of this (the devices that share the rows).
            parts: a step's examples are packed into so many batches of the shape.
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
        self._parts, self._packing = parts, packing
        given = (self._data, steps, row_length, row_multiple, parts, packing)
        self.shapes = [shape] if shape is not None else _shapes_for(*given)
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
        batch, left_over = pack_parts(examples, shape, self._parts, self._packing)
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


def _shapes_for(
    data: Any,
    steps: int,
    row_length: int | None,
    row_multiple: int,
    parts: int,
    packing: str,
) -> list[Shape]:
    """The smallest shapes into which each part of each of the run's batches packs without a rest.

    They grow in each number. Packed there is one, unpacked one for each bucket that is used.
    """
    batches = [data[step] for step in range(steps)]
    lengths = [max(len(example.tokens) for example in batch) for batch in batches]
    longest = max(lengths)
    shortest = 256 if packing == "best_fit" else BUCKET
    row_length = row_length or max(up(longest, BUCKET), shortest)
    if longest > row_length:
        raise UserError(f"row_length {row_length}: an example has {longest} tokens")
    if not any(example.counts for batch in batches for example in batch):
        raise UserError("no example has a target token")
    for step, batch in enumerate(batches, 1):
        if not any(example.counts for example in batch):
            names = ", ".join(example.id for example in batch[:8])
            raise UserError(f"step {step}: no example of its batch has a target token ({names})")
    buckets = {row_length if packing == "best_fit" else bucket(n, row_length) for n in lengths}
    shapes = []
    for size in sorted(buckets):
        inside = [batch for batch, n in zip(batches, lengths, strict=True) if n <= size]
        hands = [hand for batch in inside for hand in dealt(batch, parts, packing)]
        rows = max(len(PACKINGS[packing]([len(e.tokens) for e in hand], size)) for hand in hands)
        targets = max(sum(example.targets for example in hand) for hand in hands)
        shapes.append(Shape(up(rows, row_multiple), size, up(targets, BUCKET)))
    return shapes


def bucket(length: int, most: int) -> int:
    """A length rounded up to BUCKET, twice that, four times that and so on, but ``most``."""
    return min(BUCKET << max(-(-length // BUCKET) - 1, 0).bit_length(), most)


def up(number: int, multiple: int) -> int:
    """Rounded up to a multiple."""
    return -(-number // multiple) * multiple
