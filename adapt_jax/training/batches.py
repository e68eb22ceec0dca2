"""The batches of a run: their order, and the static shapes that they fit in."""

from collections.abc import Sequence
from math import lcm
from typing import Any

import grain

from adapt_jax.training.packing import (
    Batch,
    BatchShape,
    TrainingExample,
    pack,
    pack_rows,
    split_microbatches,
)
from adapt_jax.utils.errors import UserError

__all__ = ["Batches"]

BUCKET = 64  # lengths of rows and numbers of targets are multiples of this
PART = 2048  # tokens of a part, at least, where a CPU's cache is to hold what is worked on


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
        shape: BatchShape | None = None,
        row_multiple: int = 1,
        num_microbatches: int | None = 1,
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
            self.num_microbatches, self.shapes = num_microbatches or 1, [shape]
        else:
            members = [self._data[step] for step in range(steps)]
            self.num_microbatches = (
                _choose_num_microbatches(members, row_length)
                if num_microbatches is None
                else num_microbatches
            )
            self.shapes = _shapes_for(
                members, row_length, row_multiple, self.num_microbatches, packing
            )
        self._iterator = iter(self._data.map(self._pack).to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))  # fmt: skip

    @property
    def shape(self) -> BatchShape:
        """The largest shape of the run, into which each of its batches fits."""
        return self.shapes[-1]

    def _pack(self, examples: list[TrainingExample]) -> tuple[Batch, int]:
        longest = max(len(example.tokens) for example in examples)
        fits = (shape for shape in self.shapes if shape.row_length >= longest)
        shape = next(fits, self.shape)
        batch, left_over = pack(examples, shape, self.num_microbatches, self._packing)
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


def _choose_num_microbatches(batches: list[list[TrainingExample]], row_length: int | None) -> int:
    """As many parts as have PART tokens, and a row, or more."""
    sizes = [[len(example.tokens) for example in batch] for batch in batches]
    least = max(PART, row_length or max(map(max, sizes)))
    return max(max(map(sum, sizes)) // least, 1)


def _shapes_for(
    batches: list[list[TrainingExample]],
    row_length: int | None,
    row_multiple: int,
    num_microbatches: int,
    packing: str,
) -> list[BatchShape]:
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

    def fitting(size: int) -> BatchShape:
        """The shape with rows of ``size``, for all batches without a longer example."""
        inside = [batch for batch, n in zip(batches, lengths, strict=True) if n <= size]
        hands = [
            hand
            for batch in inside
            for hand in split_microbatches(pack_rows(batch, size, packing), num_microbatches)
        ]
        rows = max(len(hand) for hand in hands)
        targets = max(sum(example.targets for row in hand for example in row) for hand in hands)
        return BatchShape(up(rows, row_multiple), size, up(targets, lcm(BUCKET, row_multiple)))

    if packing == "none":
        most = row_length or up(longest, BUCKET)
        return [fitting(size) for size in sorted({bucket(n, most) for n in lengths})]
    least = max(up(longest, BUCKET), 256)
    sizes = [row_length] if row_length else [least + n * BUCKET for n in range(4)]
    return [min((fitting(size) for size in sizes), key=_cost)]


def _cost(shape: BatchShape) -> float:
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
