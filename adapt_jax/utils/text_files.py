"""The readers of text files: UTF-8 text, JSON, JSON lines and YAML.

Every file that a user or a download brings is read here, so that a damaged or hostile one ends in
one line that names the file and the line, and never in a traceback, a hang or a full memory.
Nothing is dropped or changed in silence: a key that occurs twice is refused, and a number can keep
the text that it is written as (``str(value)`` gives ``1.50`` and ``0010`` back).

JSON is RFC 8259. YAML is the core schema of YAML 1.2, section 10.3: ``yes``, ``3:30`` and
``2024-02-30`` are text, ``1e-3`` is a number.
"""

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from adapt_jax.utils.bucket import to_path
from adapt_jax.utils.compressed_files import open_decompressed
from adapt_jax.utils.errors import UserError, nearest
from adapt_jax.utils.json_text import NO_CONSTANTS, parse_json
from adapt_jax.utils.written_numbers import WrittenFloat, WrittenInt, quote_short
from adapt_jax.utils.yaml_text import parse_yaml

__all__ = [
    "WrittenFloat",
    "WrittenInt",
    "check_is_file",
    "check_is_no_pointer",
    "parse_json",
    "parse_yaml",
    "read_json",
    "read_json_lines",
    "read_lines",
    "read_text",
    "read_yaml",
]

MAX_TEXT_BYTES = 2**30
MAX_LINE_LENGTH = 2**26  # characters

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # how such a file begins


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, without its byte order mark.

    Raises:
        UserError: there is no such file, it is no regular file, too large, not UTF-8, binary, or
            a Git LFS pointer in the place of the file.
    """
    path = to_path(path)
    try:
        check_is_file(path)
        if (size := path.stat().st_size) > MAX_TEXT_BYTES:
            raise UserError(f"{path}: {size:,} bytes; at most {MAX_TEXT_BYTES:,} can be read")
        with open_decompressed(path) as stream:
            content = stream.read(MAX_TEXT_BYTES + 1)
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the path
        _refuse_unreadable(path, problem)
    if len(content) > MAX_TEXT_BYTES:
        raise UserError(f"{path}: unpacks to more than {MAX_TEXT_BYTES:,} bytes; at most these")
    _check_start(path, content)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        start = problem.start + (len(content) - len(problem.object))  # the mark is cut off first
        line = content.count(b"\n", 0, start) + 1
        raise UserError(
            f"{path}, line {line}: not UTF-8 text (byte 0x{content[start]:02x}); save it as UTF-8"
        ) from None
    if (nul := text.find("\0")) >= 0:
        line = text.count("\n", 0, nul) + 1
        raise UserError(f"{path}, line {line}: a NUL character; expected a text file")
    return text


def read_lines(path: str | Path, newline: str = "\n") -> Iterator[str]:
    """The lines of a UTF-8 file with their line ends, one at a time, without its byte order mark.

    The file may be of any size, and compressed (see ``compressed_files``).

    Args:
        newline: how a line ends; "" means any of ``\\n``, ``\\r`` and ``\\r\\n``.

    Raises:
        UserError: as ``read_text`` does, or a line is longer than MAX_LINE_LENGTH.
    """
    path = to_path(path)
    try:
        check_is_file(path)
        with open_decompressed(path) as stream:
            _check_start(path, stream.peek(len(_LFS_POINTER)))  # type: ignore[attr-defined]
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline=newline)
            number = 0
            while line := text.readline(MAX_LINE_LENGTH + 1):
                number += 1
                if len(line) > MAX_LINE_LENGTH:
                    raise UserError(
                        f"{path}, line {number}: more than {MAX_LINE_LENGTH:,} characters in a line"
                    )
                if "\0" in line:
                    raise UserError(f"{path}, line {number}: a NUL character; expected a text file")
                yield line
    except UnicodeDecodeError:
        _refuse_bytes(path)
    except (OSError, ValueError) as problem:
        _refuse_unreadable(path, problem)


def _refuse_bytes(path: Path) -> NoReturn:
    """Raises UserError for the first line that is not UTF-8."""
    with open_decompressed(path) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as problem:
                byte = line[problem.start]
                raise UserError(
                    f"{path}, line {number}: not UTF-8 text (byte 0x{byte:02x}); save it as UTF-8"
                ) from None
    raise UserError(f"{path}: not UTF-8 text; save it as UTF-8")


def _check_start(path: Path, start: bytes) -> None:
    """Raises UserError for a Git LFS pointer and for UTF-16."""
    if start.startswith(_LFS_POINTER):
        _refuse_pointer(path)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: UTF-16 text; save it as UTF-8")


def _refuse_unreadable(path: Path, problem: Exception) -> NoReturn:
    reason = getattr(problem, "strerror", None) or problem
    raise UserError(f"{quote_short(str(path))}: cannot be read ({reason})") from None


def read_json(
    path: str | Path,
    *,
    constants: Mapping[str, Any] = NO_CONSTANTS,
    keep_number_text: bool = False,
) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: as ``read_text`` and ``parse_json`` do.
    """
    return parse_json(
        read_text(path), str(path), constants=constants, keep_number_text=keep_number_text
    )


def read_json_lines(
    path: str | Path,
    *,
    constants: Mapping[str, Any] = NO_CONSTANTS,
    keep_number_text: bool = False,
) -> Iterator[tuple[int, Any]]:
    """The line numbers and values of a file with one JSON value per line; blank lines are skipped.

    Raises:
        UserError: as ``read_text`` and ``parse_json`` do.
    """
    for line, content in enumerate(read_lines(path), start=1):
        content = content.removesuffix("\n")
        if content.strip():
            yield (
                line,
                parse_json(
                    content,
                    str(path),
                    line=line,
                    constants=constants,
                    keep_number_text=keep_number_text,
                ),
            )


def read_yaml(path: str | Path) -> Any:
    """The value in a YAML file; None where it is empty.

    Raises:
        UserError: as ``read_text`` and ``parse_yaml`` do.
    """
    return parse_yaml(read_text(path), str(path))


def check_is_file(path: Path) -> None:
    """Raises UserError where there is no such file, or something that is no regular file."""
    if path.is_file():
        return
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected a file")
    if path.exists():
        raise UserError(f"{path}: is no regular file")
    siblings = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    # another number is another file, such as the next shard, and no misspelling
    without_digits = re.sub(r"\d", "", path.name)
    hint = nearest(path.name, [one for one in siblings if re.sub(r"\d", "", one) != without_digits])
    raise UserError(f"{path}: no such file{hint}")


def check_is_no_pointer(path: Path) -> None:
    """Raises UserError where a file is the stand-in that a clone without Git LFS has.

    It has to be a regular file: opening a pipe would wait for whoever writes it.
    """
    check_is_file(path)
    with path.open("rb") as opened:
        if opened.read(len(_LFS_POINTER)) == _LFS_POINTER:
            _refuse_pointer(path)


def _refuse_pointer(path: Path) -> NoReturn:
    raise UserError(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull`")
