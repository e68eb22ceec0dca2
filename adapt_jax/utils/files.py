"""The one way to write: a file or folder is written beside its target, then put in its place.

Whoever looks at the target sees the old content or the new one, also after this process was killed.
A target is checked before the work whose result it shall hold begins (``check_target_file``,
``check_target_folder``, ``check_output_folder``). Symbolic links are written through. A full or
read-only disk raises UserError in one line and leaves no partial file.
"""

import ctypes
import errno
import fcntl
import json
import math
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from adapt_jax.utils.bucket import BucketPath, is_address, to_path
from adapt_jax.utils.bucket_copy import upload_file, upload_folder
from adapt_jax.utils.errors import UserError

__all__ = [
    "check_output_folder",
    "check_target_file",
    "check_target_folder",
    "exchange",
    "remove_unfinished",
    "replace_file",
    "replace_folder",
    "replace_surrogates",
    "report_write_errors",
    "to_json_lines",
    "try_to_write",
    "write_bytes",
    "write_json",
    "write_text",
]

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)
NEW, OLD = ".adapt_jax-new-", ".adapt_jax-old-"  # how temporary names begin
OTHER_ADDRESS = re.compile(r"(s3|hdfs|https?):/")  # Path makes one stroke of two
TOKEN_BYTES = 4  # of randomness in a temporary name
MAX_NAME_BYTES = 200  # of a file's name; file systems hold 255, and temporary names are longer


def check_target_file(path: str | Path) -> Path:
    """Checks that a file can be written at ``path``, and follows symbolic links.

    Returns:
        where the file will be written.

    Raises:
        UserError: a folder, a device or a pipe is there, or its folder cannot be made or written.
    """
    target = _resolve(path)
    if isinstance(target, BucketPath):
        return _check_bucket_target(target, "a file", target.is_dir())
    if target.exists() and not target.is_file():
        what = "a folder" if target.is_dir() else "no regular file"
        raise UserError(f"{path}: is {what}; expected a file, or a new name")
    if target.exists() and not os.access(target, os.W_OK):
        raise UserError(f"{path}: may not be written")
    _check_parent(path, target.parent)
    return target


def check_output_folder(path: str | Path) -> Path:
    """Checks that files can be written into the folder ``path``, which may be new.

    Raises:
        UserError: something else is there, or it cannot be made or written.
    """
    target = _resolve(path)
    if isinstance(target, BucketPath):
        return _check_bucket_target(target, "a folder", target.is_file())
    if target.exists() and not target.is_dir():
        raise UserError(f"{path}: is a file; expected a folder for the results")
    _check_parent(path, target)
    return target


def check_target_folder(path: str | Path, marker: str | None = None) -> Path:
    """Checks that the whole folder ``path`` can be put in place, and follows symbolic links.

    Args:
        marker: the name of a file; a folder that holds it is replaced. Any other folder has to be
            new or empty.

    Returns:
        where the folder will be written.

    Raises:
        UserError: something else is there, it is or holds the working folder, or its parent cannot
            be written.
    """
    target = _resolve(path)
    if target.exists() and not target.is_dir():
        raise UserError(f"{path}: is a file; choose a new folder")
    if isinstance(target, BucketPath):
        may_replace = marker is not None and (target / marker).is_file()
        if not may_replace and target.is_dir():
            but = f", and no {marker}" if marker else ""
            raise UserError(f"{path}: is not empty{but}; choose a new folder")
        return target
    here = Path.cwd()
    if target == here or target in here.parents:
        raise UserError(f"{path}: is the working folder, or holds it; choose another folder")
    if os.path.ismount(target):
        raise UserError(
            f"{path}: is a mount point, which cannot be replaced; choose a folder in it"
        )
    may_replace = marker is not None and (target / marker).is_file()
    if target.exists() and not may_replace and any(target.iterdir()):
        but = f", and no {marker}" if marker else ""
        raise UserError(f"{path}: is not empty{but}; choose a new folder")
    _check_parent(path, target.parent)
    return target


def _resolve(path: str | Path) -> Path:
    """The path without symbolic links.

    Raises:
        UserError: it is unusable, or the address of a bucket.
    """
    if address := OTHER_ADDRESS.match(str(path)):
        raise UserError(
            f"{str(path)[:200]}: {address[1]} is no file system of this machine; mount the bucket "
            "(such as with Mountpoint for S3) and give the folder"
        )
    if is_address(path):
        return to_path(path)
    try:
        target = Path(path).expanduser().resolve()
        target.exists()  # raises where the name is too long for the file system
    except (OSError, ValueError, RuntimeError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise UserError(f"{str(path)[:200]!r}: no usable path ({reason})") from None
    return target


def _check_bucket_target(target: BucketPath, expected: str, is_other: bool) -> BucketPath:
    """Raises UserError where something else has that address."""
    if is_other:
        found = "a folder" if expected == "a file" else "a file"
        raise UserError(f"{target}: is {found}; expected {expected}, or a new name")
    return target


def _check_parent(path: str | Path, parent: Path) -> None:
    """Raises UserError where ``parent`` is no folder that can be made and written."""
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(f"{path}: {parent} is a file; expected a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{path}: the folder {parent} may not be written")


@contextmanager
def report_write_errors(path: str | Path) -> Iterator[None]:
    """Turns the operating system's errors into a UserError that names ``path``."""
    try:
        yield
    except OSError as problem:
        file = str(problem.filename or path)
        ours = str(path).startswith(file) or NEW in file
        # a temporary name tells the user nothing; another file's name does
        reason = (problem.strerror if ours else None) or str(problem)
        raise UserError(f"{path}: cannot be written ({reason})") from problem


@contextmanager
def try_to_write(folder: Path) -> Iterator[None]:
    """What is written into the folder may fail, which is no error; no empty folder is left then."""
    try:
        yield
    except (OSError, UserError):
        with suppress(OSError):
            folder.rmdir()


def replace_file(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Puts a file in place that ``write`` writes at the temporary path which it is given.

    The temporary path ends with the name of the file, so its suffix is the same.

    Raises:
        UserError: ``path`` cannot hold a file, or the disk is full or read-only; what was there
            stays as it was.
    """
    target = check_target_file(path)
    if isinstance(target, BucketPath):
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder) / target.name)
            upload_file(Path(folder) / target.name, target)
        return
    with report_write_errors(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(target)
        with _make_temporary(target, is_folder=False) as new:
            write(new)
            if target.exists():
                shutil.copymode(target, new)
            os.replace(new, target)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a whole file; see ``replace_file``."""
    replace_file(path, lambda new: new.write_bytes(content))


def write_text(path: str | Path, text: str) -> None:
    """Writes a whole text file as UTF-8; half of a surrogate pair becomes U+FFFD."""
    write_bytes(path, replace_surrogates(text).encode("utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Writes a whole JSON file; NaN and infinity become null, because JSON has neither."""
    write_text(path, json.dumps(_drop_non_finite(content), indent=2, ensure_ascii=False) + "\n")


def to_json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object per line."""
    lines = (json.dumps(_drop_non_finite(row), ensure_ascii=False) + "\n" for row in rows)
    return replace_surrogates("".join(lines))


def replace_surrogates(text: str) -> str:
    """The text with halves of surrogate pairs replaced by U+FFFD: UTF-8 cannot hold them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _drop_non_finite(content: Any) -> Any:
    """The content with NaN and infinity replaced by None."""
    if isinstance(content, Mapping):
        return {key: _drop_non_finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_drop_non_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def replace_folder(
    path: str | Path, write: Callable[[Path], Any], *, marker: str | None = None
) -> None:
    """Puts a folder in place that ``write`` fills; it is given an empty one beside the target.

    What was there is exchanged with the new folder in one step, and removed afterwards.

    Args:
        marker: see ``check_target_folder``.

    Raises:
        UserError: ``path`` cannot hold the folder, or the disk is full or read-only; what was there
            stays as it was.
    """
    target = check_target_folder(path, marker)
    if isinstance(target, BucketPath):
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            upload_folder(Path(folder), target)
        return
    with report_write_errors(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(target)
        with _make_temporary(target, is_folder=True) as new:
            try:
                write(new)
            except UserError as problem:  # the user knows the folder by its own name
                raise UserError(str(problem).replace(str(new), str(path))) from problem
            if target.exists():
                exchange(new, target)  # the temporary folder is now the old one
            else:
                new.rename(target)


@contextmanager
def _make_temporary(target: Path, *, is_folder: bool) -> Iterator[Path]:
    """An empty file or folder beside the target, removed at the end if it is still there.

    It is locked while it is in use, so that ``remove_unfinished`` knows what nobody uses any more.
    """
    while True:
        token = secrets.token_hex(TOKEN_BYTES)
        new = target.with_name(f"{NEW}{token}-{_shorten_name(target)}")
        if is_folder:
            new.mkdir()
            lock = os.open(new, os.O_RDONLY)
        else:
            lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if new.exists():  # else another process removed it before it was locked
            break
        os.close(lock)
    try:
        yield new
    finally:
        _remove(new)
        os.close(lock)


def _shorten_name(target: Path) -> str:
    """The end of the target's name, which a longer name can begin with."""
    return os.fsencode(target.name)[-MAX_NAME_BYTES:].decode("utf-8", "ignore")


def _remove(path: Path) -> None:
    """Removes a file or a folder, whichever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def remove_unfinished(target: str | Path) -> None:
    """Removes what killed processes left beside ``target`` while they wrote it."""
    target = Path(target)
    name = _shorten_name(target)
    _restore_old(target)
    for left in target.parent.glob(f"{NEW}*"):
        if left.name[len(NEW) + 2 * TOKEN_BYTES :] != f"-{name}":
            continue
        with suppress(OSError):
            file = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while it is being written
                _remove(left)
            finally:
                os.close(file)


def exchange(new: Path, target: Path) -> None:
    """Exchanges two paths of one file system; in one step where the system can (Linux)."""
    if sys.platform == "linux":
        rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if rename is not None:
            paths = (AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(target))
            if rename(*paths, RENAME_EXCHANGE) == 0:
                return
            if (code := ctypes.get_errno()) not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
                raise OSError(code, os.strerror(code), str(target))
    # Elsewhere the old one steps aside; ``_restore_old`` brings it back after a kill in between.
    aside = target.with_name(f"{OLD}{_shorten_name(target)}")
    _remove(aside)
    target.rename(aside)
    new.rename(target)
    aside.rename(new)


def _restore_old(target: Path) -> None:
    """Brings back what an interrupted ``exchange`` left aside, where the new one is not there."""
    aside = target.with_name(f"{OLD}{_shorten_name(target)}")
    if aside.exists() and not target.exists():
        aside.rename(target)
    else:
        _remove(aside)
