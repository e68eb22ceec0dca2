"""The batches of a run: their order, and the static shapes that they fit in."""

from collections.abc import Sequence
from math import lcm
from typing import Any

import grain

from adapt_jax.decoders.prefix import round_up
from adapt_jax.training.packing import (
    Batch,
    BatchShape,
    PackedRow,
    TrainingExample,
    pack,
    pack_rows,
    split_microbatches,
)
from adapt_jax.utils.cpu import MIN_MICROBATCH_TOKENS
from adapt_jax.utils.errors import UserError

__all__ = ["Batches", "round_to_bucket"]

BUCKET = 64  # lengths of rows and numbers of targets are multiples of this
MIN_PACKED_ROW = 256  # tokens; shorter rows would leave more padding
NUM_ROW_LENGTHS = 4  # that are compared, when packed
MAX_NAMED = 8  # examples in a message


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

        Which examples a step takes, and their order, does not depend on how they are packed.

        Args:
            row_length: T, at most. When not given it is that of the longest example (packed: 256,
                or more, whatever leaves the least to compute).
            shape: the batch shape, for endless sources; what does not fit in it is dropped. When
                not given, it is chosen so that every batch of the run fits.
            row_multiple: R and M are multiples of this (the devices that share rows and targets).
            num_microbatches: a step's rows are split into this many batches of the shape; None: as
                many as have MIN_MICROBATCH_TOKENS or more (one, where the shape is given).
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
            steps_examples = [self._data[step] for step in range(steps)]
            _check_lengths(steps_examples, row_length)
            _check_targets(steps_examples)
            self.num_microbatches = num_microbatches or _count_microbatches(
                steps_examples, row_length
            )
            self.shapes = _choose_shapes(
                steps_examples, row_length, row_multiple, self.num_microbatches, packing
            )
        reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        self._iterator = iter(self._data.map(self._pack).to_iter_dataset(reading))

    @property
    def shape(self) -> BatchShape:
        """The largest shape of the run, into which each of its batches fits."""
        return self.shapes[-1]

    def _pack(self, examples: list[TrainingExample]) -> tuple[Batch, int]:
        longest = _find_longest(examples)
        shape = next((shape for shape in self.shapes if shape.row_length >= longest), self.shape)
        batch, left_over = pack(examples, shape, self.num_microbatches, self._packing)
        return batch, len(left_over)

    def __next__(self) -> Batch:
        batch, left_over = next(self._iterator)
        self.dropped += left_over  # not in _pack, which runs ahead of the training
        return batch

    def examples_of(self, step: int) -> list[TrainingExample]:
        """The examples of a step (from 0), wherever the iterator is."""
        return self._data[step]

    def get_state(self) -> dict[str, Any]:
        """The iterator's position and what was dropped before it, as plain JSON."""
        return {"order": self._iterator.get_state(), "dropped": self.dropped}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a saved position."""
        self._iterator.set_state(state["order"])
        self.dropped = state["dropped"]


def _find_longest(examples: list[TrainingExample]) -> int:
    return max(len(example.tokens) for example in examples)


def _check_lengths(steps: list[list[TrainingExample]], row_length: int | None) -> None:
    """Raises UserError where an example is longer than a row."""
    longest = max(map(_find_longest, steps))
    if row_length is not None and longest > row_length:
        raise UserError(f"row_length {row_length}: an example has {longest} tokens")


def _check_targets(steps: list[list[TrainingExample]]) -> None:
    """Raises UserError where a step has nothing to learn from: its loss would be 0 / 0."""
    without = [
        number
        for number, examples in enumerate(steps, 1)
        if not any(example.has_weighted_target for example in examples)
    ]
    if len(without) == len(steps):
        raise UserError("no example has a target token")
    if without:
        names = ", ".join(example.id for example in steps[without[0] - 1][:MAX_NAMED])
        raise UserError(f"step {without[0]}: no example of its batch has a target token ({names})")


def _count_microbatches(steps: list[list[TrainingExample]], row_length: int | None) -> int:
    """The most microbatches that still have MIN_MICROBATCH_TOKENS and one row each."""
    least = max(MIN_MICROBATCH_TOKENS, row_length or max(map(_find_longest, steps)))
    tokens = max(sum(len(example.tokens) for example in examples) for examples in steps)
    return max(tokens // least, 1)


def _choose_shapes(
    steps: list[list[TrainingExample]],
    row_length: int | None,
    row_multiple: int,
    num_microbatches: int,
    packing: str,
) -> list[BatchShape]:
    """The smallest shapes into which every microbatch of the run packs with nothing left over.

    They grow in each number. Packed there is one, unpacked one for each bucket that is used.
    """
    longest = max(map(_find_longest, steps))

    def smallest(size: int) -> BatchShape:
        """The shape with rows of ``size``, for all steps without a longer example."""
        microbatches: list[list[PackedRow]] = []
        for examples in steps:
            if _find_longest(examples) <= size:
                rows = pack_rows(examples, size, packing)
                microbatches += split_microbatches(rows, num_microbatches)
        num_rows = max(map(len, microbatches))
        targets = max(
            sum(example.num_targets for row in microbatch for example in row)
            for microbatch in microbatches
        )
        multiple = lcm(BUCKET, row_multiple)
        return BatchShape(round_up(num_rows, row_multiple), size, round_up(targets, multiple))

    if packing == "none":
        most = row_length or round_up(longest, BUCKET)
        sizes = {round_to_bucket(_find_longest(examples), most) for examples in steps}
        return [smallest(size) for size in sorted(sizes)]
    if row_length:
        return [smallest(row_length)]
    least = max(round_up(longest, BUCKET), MIN_PACKED_ROW)
    return [min((smallest(least + n * BUCKET) for n in range(NUM_ROW_LENGTHS)), key=_estimate_cost)]


def _estimate_cost(shape: BatchShape) -> float:
    """Tokens that a shape computes; those of longer rows attend to more and count more.

    A step with rows of 512 tokens takes 7 % longer than one of as many tokens in rows of 384 (15
    million parameters, CPU).
    """
    return shape.rows * shape.row_length * (1 + shape.row_length / 1500)


def round_to_bucket(length: int, most: int) -> int:
    """A length rounded up to 64, 128, 256 and so on, but to ``most`` at most."""
    return min(BUCKET << max(-(-length // BUCKET) - 1, 0).bit_length(), most)
