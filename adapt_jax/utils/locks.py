"""Locks: two processes never write into one folder or file.

The operating system frees a lock when its process ends, killed or not.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from adapt_jax.utils.errors import UserError

__all__ = ["lock_file", "lock_folder"]


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds the folder for this process, by a file ``.lock`` in it; makes the folder if need be.

    Raises:
        UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _hold(folder / ".lock", folder):
        yield


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Holds a file for this process, by a file ``.NAME.lock`` beside it.

    Raises:
        UserError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _hold(path.with_name(f".{path.name}.lock"), path):
        yield


@contextmanager
def _hold(place: Path, what: Path) -> Iterator[None]:
    try:
        lock = FileLock(place, timeout=0).acquire()
    except Timeout:
        raise UserError(
            f"{what}: another process is writing there; wait for it, or choose another place"
        ) from None
    with lock:
        try:
            yield
        finally:
            # still held: whoever opened the file meanwhile finds it unlinked, and tries again
            if os.name == "posix":
                place.unlink(missing_ok=True)
