"""From examples to packed batches: no padding per example, no attention across examples.

Axes: R rows, T tokens of a row, M targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grain
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from adapt_jax.errors import UserError


@dataclass(frozen=True)
class TrainingExample:
    """A tokenized text; the loss is taken on ``tokens[target_start:]``."""

    id: str
    tokens: tuple[int, ...]
    target_start: int

    @property
    def targets(self) -> int:
        """How many tokens carry loss; the first token of all is never predicted."""
        return len(self.tokens) - max(self.target_start, 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Packed rows. Segments count from 1 in each row; 0 is padding. Positions restart.

    ``target_at`` points into the R·T positions in row-major order, at the token *before* each
    target, because there its logits are; ``target_weight`` is 0 for the padding of M.
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


def pack(
    examples: Sequence[TrainingExample], rows: int, row_length: int, targets: int
) -> tuple[Batch, list[TrainingExample]]:
    """One batch of a fixed shape, and the examples for which it had no room."""
    shape = (rows, row_length)
    tokens, positions, segments = (np.zeros(shape, np.int32) for _ in range(3))
    at, ids, weights = (np.zeros(targets, kind) for kind in (np.int32, np.int32, np.float32))
    packed = best_fit([len(example.tokens) for example in examples], row_length)
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
            filled, start = filled + example.targets, stop
    return Batch(tokens, positions, segments, at, ids, weights), left_over  # type: ignore[arg-type]


@dataclass(frozen=True)
class Shape:
    """The static shape of every batch of a run: R rows, T tokens of a row, M targets."""

    rows: int
    row_length: int
    targets: int


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
    ):
        """Shuffles ``examples`` in every epoch; a step takes ``batch_size`` of them.

        Args:
            row_length: T; the longest example or 256, whichever is more, when not given.
            shape: the batch shape, for endless sources; what does not fit in it is dropped. When
                not given, the shape that every batch of the run fits in is worked out.
            row_multiple: R is a multiple of this (the devices that share the rows).

        Raises:
            UserError: when there is no example, or none has a target.
        """
        if len(examples) == 0:
            raise UserError("there is no example to train on")
        self.dropped = 0
        data = grain.MapDataset.source(examples)  # type: ignore[arg-type]
        if shape is None:
            data = data.shuffle(seed=seed)
        epochs = -(-steps * batch_size // len(examples))  # endless would overflow Grain's length
        self._data = data.repeat(epochs).batch(batch_size, batch_fn=list)
        self.shape = shape or _shape_for(self._data, steps, row_length, row_multiple)
        self._iterator = iter(self._data.map(self._pack).to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))  # fmt: skip

    def _pack(self, examples: list[TrainingExample]) -> tuple[Batch, int]:
        batch, left_over = pack(
            examples, self.shape.rows, self.shape.row_length, self.shape.targets
        )
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


def _shape_for(data: Any, steps: int, row_length: int | None, row_multiple: int) -> Shape:
    """The smallest shape into which each of the run's batches packs without a rest."""
    members = [data[step] for step in range(steps)]
    longest = max(len(example.tokens) for batch in members for example in batch)
    row_length = row_length or max(-(-longest // 64) * 64, 256)
    if longest > row_length:
        raise UserError(f"row_length {row_length}: an example has {longest} tokens")
    rows = max(len(best_fit([len(e.tokens) for e in batch], row_length)) for batch in members)
    targets = max(sum(example.targets for example in batch) for batch in members)
    if targets == 0:
        raise UserError("no example has a target token")
    return Shape(-(-rows // row_multiple) * row_multiple, row_length, -(-targets // 64) * 64)
