"""Text files that grow line by line, such as journals and logs."""

import fcntl
import os
from pathlib import Path
from typing import Any

from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import check_target_file, replace_surrogates, report_write_errors

__all__ = ["LineAppender"]


class LineAppender:
    """Appends lines to a text file; a line is on the disk as soon as it is written.

    A line that cannot be written whole, because the disk is full, is taken away again: the file
    always ends with a whole line. So a run that is killed or fails can go on from the file. To be
    used in a ``with`` statement.
    """

    def __init__(self, path: str | Path):
        """Opens the file, which may be new; an unfinished last line is cut off.

        Raises:
            UserError: it cannot be written, or another process appends to it.
        """
        self.path, target = path, check_target_file(path)
        self._target = target
        with report_write_errors(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(target, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise UserError(f"{path}: another process is writing it") from None
        except OSError:  # some network file systems have no locks
            pass
        self._size = _count_whole_line_bytes(self._file)
        os.ftruncate(self._file, self._size)

    def write(self, line: str) -> None:
        """Appends a line, given without its line break.

        Raises:
            UserError: the disk is full; the lines before are kept.
        """
        content = (replace_surrogates(line) + "\n").encode("utf-8")
        try:
            with report_write_errors(self.path):
                written = 0
                while written < len(content):
                    written += os.pwrite(self._file, content[written:], self._size + written)
        except BaseException:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(content)

    def sync(self) -> None:
        """Returns when the lines would also survive a loss of power."""
        os.fsync(self._file)

    def close(self) -> None:
        """Closes the file; one without any line is removed."""
        if self._size == 0:
            self._target.unlink(missing_ok=True)
        os.close(self._file)

    def __enter__(self) -> "LineAppender":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _count_whole_line_bytes(file: int) -> int:
    """Bytes of an open file up to the end of its last whole line."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - (1 << 16))
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
