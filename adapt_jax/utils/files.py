"""The one way to write: a file or folder is written beside its place, then put there whole.

Whoever looks sees the old one or the new one, also after a crash at any moment.
"""

import ctypes
import errno
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from adapt_jax.utils.errors import UserError

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)


def check_target_file(path: Path) -> None:
    """Raises UserError where a file cannot be put at ``path``: a folder, a device, a pipe."""
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise UserError(f"{path}: is {what}; expected a file, or a new name")


def check_target_folder(path: Path) -> None:
    """Raises UserError where a folder cannot be put at ``path``, or it holds the working folder."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is no folder; choose another")
    target, here = path.resolve(), Path.cwd().resolve()
    if target == here or target in here.parents:
        raise UserError(f"{path}: is the working folder, or holds it; choose another")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole; through a symlink, into the file that it points to.

    Raises:
        UserError: ``path`` is a folder or a device.
        OSError: the disk is full or may not be written; the old file is as it was.
    """
    check_target_file(path)
    path = path.resolve()  # a symlink stays a symlink
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as problem:
        # the message names the file that was asked for, not the temporary one
        raise OSError(problem.errno, problem.strerror, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole, as UTF-8; half of a surrogate pair becomes U+FFFD."""
    write_bytes(path, replace_surrogates(text).encode("utf-8"))


def replace_surrogates(text: str) -> str:
    """The text with halves of surrogate pairs replaced by U+FFFD: UTF-8 cannot hold them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def write_json(path: Path, content: Any) -> None:
    """A JSON file; numbers that are no numbers become null, because JSON knows none."""
    write_text(path, json.dumps(drop_non_finite(content), indent=2, ensure_ascii=False) + "\n")


def drop_non_finite(content: Any) -> Any:
    """The content with nan and infinity replaced by None."""
    if isinstance(content, Mapping):
        return {key: drop_non_finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [drop_non_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def to_json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object per line."""
    lines = (json.dumps(drop_non_finite(row), ensure_ascii=False) + "\n" for row in rows)
    return replace_surrogates("".join(lines))


def replace_folder(folder: Path, write: Callable[[Path], None]) -> Path:
    """Puts a new folder in place, written by ``write`` into an empty one beside it.

    What stood there is exchanged in one step and removed afterwards; through a symlink, where it
    points to.

    Raises:
        UserError: ``folder`` is a file, or holds the working folder.
    """
    check_target_folder(folder)
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".new", dir=folder.parent))
    try:
        write(new)
        os.chmod(new, 0o755)  # mkdtemp's folders are private
        if not folder.exists():
            new.rename(folder)
        else:
            exchange(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)  # the old one, after an exchange
    return folder


def remove_unfinished(folder: Path) -> None:
    """Removes what a process that was killed in ``replace_folder`` or ``write_bytes`` left of
    ``folder``."""
    for left in folder.parent.glob(f".{folder.name}.*.new"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def exchange(one: Path, other: Path) -> None:
    """Exchanges two paths of one file system, atomically where the system can (Linux)."""
    if sys.platform == "linux":
        rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if rename is not None:
            paths = (AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other))
            if rename(*paths, RENAME_EXCHANGE) == 0:
                return
            if (code := ctypes.get_errno()) not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
                raise OSError(code, os.strerror(code), str(other))
    # elsewhere the old one steps aside under a name that ``remove_unfinished`` leaves alone
    aside = other.with_name(f"{other.name}.old")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)
