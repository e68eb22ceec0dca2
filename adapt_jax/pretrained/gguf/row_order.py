"""Orders of rows: llama.cpp keeps those of some tensors in another one, undone as they are read.

A read is a function (first, stop) -> these rows. Each one here reads no more than it needs.
"""

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["ReadGroups", "ReadRows", "group_rows", "interleave", "reorder_heads", "separate_pairs"]

ReadRows = Callable[[int, int], np.ndarray]
ReadGroups = Callable[[int, int], np.ndarray]  # of groups of rows: [groups, rows, ...]


def group_rows(read: ReadRows, start: int, size: int) -> ReadGroups:
    """Rows from ``start`` on as groups of this size."""

    def read_groups(first: int, stop: int) -> np.ndarray:
        rows = read(start + first * size, start + stop * size)
        return rows.reshape(stop - first, size, *rows.shape[1:])

    return read_groups


def interleave(parts: Sequence[ReadGroups], size: int) -> ReadRows:
    """The first group of every part, then the second of every part, and so on.

    Args:
        size: the rows of one group of all parts.
    """

    def read_rows(first: int, stop: int) -> np.ndarray:
        begin, end = first // size, -(-stop // size)
        groups = np.concatenate([read(begin, end) for read in parts], axis=1)
        rows = groups.reshape(-1, *groups.shape[2:])
        return rows[first - begin * size : stop - begin * size]

    return read_rows


def reorder_heads(
    read: ReadRows, start: int, size: int, key_heads: int, value_heads: int
) -> ReadRows:
    """Rows of value heads side by side where they share a key head.

    llama.cpp has the first value head of every key head, then the second of every one, and so on.

    Args:
        start: the row at which the value heads begin; those before it stay.
        size: the rows of a head.
    """
    shared_by = value_heads // key_heads

    def read_head(head: int) -> np.ndarray:
        key_head, number = divmod(head, shared_by)
        place = start + (number * key_heads + key_head) * size
        return read(place, place + size)

    def read_rows(first: int, stop: int) -> np.ndarray:
        if stop <= start or first == stop:
            return read(first, stop)
        begin, end = max(first - start, 0) // size, -(-(stop - start) // size)
        offset = start + begin * size  # of the first head that is read
        heads = np.concatenate([read_head(head) for head in range(begin, end)])
        wanted = heads[max(first, start) - offset : stop - offset]
        return np.concatenate([read(first, start), wanted]) if first < start else wanted

    return read_rows


def separate_pairs(read: ReadRows, size: int) -> ReadRows:
    """Rows of heads of this size as in checkpoints: the first feature of every pair comes first."""

    def read_rows(first: int, stop: int) -> np.ndarray:
        begin, end = first // size, -(-stop // size)
        heads = read(begin * size, end * size)
        by_pair = heads.reshape(end - begin, size // 2, 2, *heads.shape[1:])
        rows = by_pair.swapaxes(1, 2).reshape(heads.shape)
        return rows[first - begin * size : stop - begin * size]

    return read_rows
