"""Files that may be compressed: gzip (RFC 1952) and Zstandard (RFC 8878), found by magic bytes.

The name of a file does not matter: what its first bytes say decides.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from adapt_jax.utils.bucket import localize
from adapt_jax.utils.errors import UserError

__all__ = ["COMPRESSED_SUFFIXES", "open_decompressed", "strip_compressed_suffix"]

COMPRESSED_SUFFIXES = (".gz", ".zst", ".zstd")

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"


def strip_compressed_suffix(path: Path) -> Path:
    """The path without ``.gz`` or ``.zst``: what its file is called once it is unpacked."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED_SUFFIXES else path


@contextmanager
def open_decompressed(path: Path) -> Iterator[BinaryIO]:
    """The content of a file as a stream of bytes, unpacked while it is read.

    Raises:
        UserError: within the block, where a compressed file is truncated or damaged, or where
            Zstandard needs pyarrow.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as raw:
        start = raw.read(len(_ZSTD))
        raw.seek(0)
        if start.startswith(_GZIP):
            kind = "gzip"
            stream: Any = gzip.GzipFile(fileobj=raw)
        elif start == _ZSTD:
            kind = "Zstandard"
            stream = _open_zstd(path)
        else:
            yield raw
            return
        damaged = (EOFError, gzip.BadGzipFile, zlib.error, OSError, ValueError)
        try:
            with io.BufferedReader(stream) as buffered:
                yield buffered
        except UnicodeError:
            raise
        except damaged as error:
            if isinstance(error, UserError):
                raise
            truncated = isinstance(error, EOFError) or "runcated" in str(error)
            what = "is truncated" if truncated else f"is damaged ({str(error)[:80]})"
            raise UserError(f"{path}: the {kind} file {what}; copy it again") from None


def _open_zstd(path: Path) -> BinaryIO:
    try:
        import pyarrow
    except ImportError:
        raise UserError(
            f"{path}: reading Zstandard needs pyarrow: pip install 'adapt-jax[data]'"
        ) from None
    stream: BinaryIO = pyarrow.CompressedInputStream(pyarrow.OSFile(str(localize(path))), "zstd")
    return stream
