"""Files and folders in a bucket of Google Cloud Storage, by their addresses ``gs://BUCKET/NAME``.

A bucket holds objects, each written whole or not at all; it has no folders, and nothing in it can
be renamed. So a folder that this package wrote has a **manifest**, the object
``.adapt_jax/manifest`` below it, that names the object of each of its files; it is written last, in
one step, and only what it names is read (``utils/bucket_copy.py`` writes it). A folder without
one is read as it is.

What is read is copied to this machine first, into a folder that stands for this very content: the
next reader finds it there. ADAPT_JAX_BUCKET_CACHE chooses where (default ~/.cache/adapt_jax/gs);
what lies there may be deleted at any time. The objects are reached through gcsfs, with Google's
application default credentials.
"""

import functools
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PosixPath
from typing import Any

from adapt_jax.utils.errors import UserError, nearest

__all__ = [
    "MANIFEST",
    "MAX_DOWNLOADS",
    "STATE",
    "BucketPath",
    "StoredObject",
    "cache_folder",
    "compute_checksum",
    "download_object",
    "fetch",
    "file_system",
    "find_fetched",
    "hash_text",
    "is_address",
    "list_objects",
    "localize",
    "read_manifest",
    "report_bucket_errors",
    "split_address",
    "to_path",
]

ADDRESS = re.compile(r"gs:/+")  # Path makes one stroke of two
STATE = ".adapt_jax"  # below a folder; its objects are no files of the folder
MANIFEST = f"{STATE}/manifest"
STRIP_BYTES = 1 << 20  # of a file that are read at a time
MAX_DOWNLOADS = 8  # at the same time
MAX_REASON = 200  # letters of a library's message


@dataclass(frozen=True)
class StoredObject:
    """An object.

    Attributes:
        name: in the bucket, whose own name comes first.
        size: in bytes.
        version: another one whenever the object is written: its generation, or in a manifest the
            CRC-32 of its content, as 8 hex digits.
    """

    name: str
    size: int
    version: str
    is_in_manifest: bool = False  # and so ``version`` is a CRC-32


def is_address(path: str | Path) -> bool:
    """Whether a path is the address of a file or folder in a bucket."""
    return ADDRESS.match(str(path)) is not None


def to_path(path: str | Path) -> Path:
    """A path of this machine, or of a bucket."""
    if is_address(path) and not isinstance(path, BucketPath):
        return BucketPath(str(path))
    return Path(path) if isinstance(path, str) else path


class BucketPath(PosixPath):
    """An address that is used as a path: it is asked and read as a file of this machine is.

    Reading a file copies it here first. Nothing is written through it (see ``utils/files.py``).
    """

    def __str__(self) -> str:
        return ADDRESS.sub("gs://", super().__str__())

    def __fspath__(self) -> str:
        return str(self)

    def exists(self, **_: Any) -> bool:
        """Whether there is such a file or folder."""
        return bool(list_objects(self))

    def is_file(self, **_: Any) -> bool:
        """Whether there is such a file."""
        return "" in list_objects(self)

    def is_dir(self, **_: Any) -> bool:
        """Whether there is such a folder: some object is below it."""
        return any(list_objects(self))

    def resolve(self, strict: bool = False) -> "BucketPath":
        """The path itself."""
        return self

    absolute = expanduser = resolve

    def iterdir(self) -> Iterator["BucketPath"]:  # type: ignore[override]
        """The files and folders in this folder."""
        names = dict.fromkeys(name.split("/")[0] for name in list_objects(self))
        yield from (self / name for name in names if name)

    def glob(self, pattern: str, **_: Any) -> Iterator["BucketPath"]:  # type: ignore[override]
        """The files below this folder whose names match a pattern; ``*`` stays within a folder."""
        parts = pattern.split("/")
        for name in list_objects(self):
            inner = name.split("/")
            if len(inner) == len(parts) and all(map(fnmatchcase, inner, parts)):
                yield self / name

    def stat(self, **_: Any) -> os.stat_result:
        """That of the copy."""
        return fetch(self).stat()

    def open(self, *arguments: Any, **options: Any) -> Any:
        """Opens the copy."""
        return fetch(self).open(*arguments, **options)

    def read_bytes(self) -> bytes:
        """The content of the copy."""
        return fetch(self).read_bytes()


def split_address(path: str | Path) -> str:
    """The address without ``gs://``: bucket and name, as gcsfs writes them.

    Raises:
        UserError: it names no bucket.
    """
    name = ADDRESS.sub("", str(path)).strip("/")
    if not name or any(part in ("", ".", "..") for part in name.split("/")):
        raise UserError(f"{str(path)[:200]}: expected gs://BUCKET/NAME")
    return name


@functools.cache
def file_system() -> Any:
    """gcsfs's file system.

    Raises:
        UserError: gcsfs is not installed.
    """
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # it asks more, and slower
    try:
        from gcsfs.core import GCSFileSystem
    except ImportError:
        raise UserError("gs:// paths need gcsfs: pip install 'adapt-jax[gcs]'") from None
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # its mistakes are reported here
    token = "anon" if os.environ.get("STORAGE_EMULATOR_HOST") else None
    return GCSFileSystem(token=token, use_listings_cache=False, skip_instance_cache=True)


@contextmanager
def report_bucket_errors(path: str | Path, what: str = "read") -> Iterator[None]:
    """Turns whatever the library or the bucket reports into a UserError that names ``path``."""
    try:
        yield
    except UserError:
        raise
    except Exception as problem:  # of gcsfs, aiohttp and google.auth
        text = str(problem).strip() or type(problem).__name__
        reason = text.splitlines()[0][:MAX_REASON]
        raise UserError(f"{to_path(path)}: cannot be {what} ({reason})") from problem


def list_objects(path: str | Path) -> dict[str, StoredObject]:
    """The objects of a folder by the paths of its files in it; of a file, itself by the name "".

    Raises:
        UserError: the bucket cannot be read.
    """
    name = split_address(path)
    with report_bucket_errors(path):
        for root in _list_ancestors(name):
            if (manifest := read_manifest(root)) is not None:
                inner = name[len(root) :].strip("/")
                if found := _select(manifest, inner):
                    return found
        found = {}
        for one, info in file_system().find(name, detail=True).items():
            inner = one[len(name) :].strip("/")
            is_marker = info["size"] == 0 and one.endswith("/")  # how consoles make folders
            if STATE not in inner.split("/") and not is_marker and _is_below(one, name):
                found[inner] = StoredObject(one, info["size"], str(_read_version(info)))
        return found


def _list_ancestors(name: str) -> list[str]:
    """The folder itself, the one that it is in, and so on up to the bucket."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _is_below(one: str, folder: str) -> bool:
    return one == folder or one.startswith(f"{folder}/")


def _read_version(info: Mapping[str, Any]) -> Any:
    return info.get("generation") or info.get("etag") or info.get("mtime")


def read_manifest(folder: str) -> dict[str, StoredObject] | None:
    """What a folder's manifest names, by the paths of the files in the folder; None without one."""
    try:
        content = json.loads(file_system().cat_file(f"{folder}/{MANIFEST}"))
    except FileNotFoundError:
        return None
    return {
        inner: StoredObject(f"{folder}/{name}", size, version, is_in_manifest=True)
        for inner, (name, size, version) in content.items()
    }


def _select(files: Mapping[str, StoredObject], folder: str) -> dict[str, StoredObject]:
    """Those files that are in a folder of the folder, by their paths in it; or the one file."""
    if not folder:
        return dict(files)
    if folder in files:
        return {"": files[folder]}
    return {
        name[len(folder) + 1 :]: one for name, one in files.items() if name.startswith(f"{folder}/")
    }


def cache_folder() -> Path:
    """Where copies lie on this machine."""
    chosen = os.environ.get("ADAPT_JAX_BUCKET_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "adapt_jax" / "gs"


def hash_text(text: str) -> str:
    """16 hex digits, as a name."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fetch(path: str | Path, *, skip: str | None = None) -> Path:
    """The copy of a file or folder on this machine; what is not there yet is downloaded.

    Processes of one machine wait for the first of them.

    Args:
        skip: an expression; files whose paths it matches are left out.

    Raises:
        UserError: there is no such file or folder, or it cannot be read.
    """
    from filelock import FileLock

    name, objects = split_address(path), list_objects(path)
    if not objects:
        raise UserError(f"{to_path(path)}: no such file or folder{_suggest(name)}")
    if skip is not None:
        objects = {inner: one for inner, one in objects.items() if not re.search(skip, inner)}
    content = json.dumps(sorted((inner, one.size, one.version) for inner, one in objects.items()))
    folder = cache_folder() / hash_text(name)
    target = folder / hash_text(content) / name.rpartition("/")[2]
    if target.exists():
        return target
    with report_bucket_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not target.exists():
                _download(objects, target)
    return target


def localize(path: str | Path) -> Path:
    """A path of this machine as it is; of a bucket, its copy (see ``fetch``)."""
    return fetch(path) if is_address(path) else Path(path)


def _download(objects: Mapping[str, StoredObject], target: Path) -> None:
    """Writes the copy beside its place, then renames what is complete."""
    new = target.parent.with_name(f".new-{secrets.token_hex(4)}")
    try:
        files = [new / target.name / inner for inner in objects]
        with ThreadPoolExecutor(MAX_DOWNLOADS) as pool:
            list(pool.map(download_object, objects.values(), files))
        new.rename(target.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def download_object(one: StoredObject, file: Path) -> None:
    """Copies one object to a file.

    Raises:
        UserError: it is not what was listed: it was written meanwhile.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file_system().get_file(one.name, str(file))
    is_same = file.stat().st_size == one.size
    if is_same and one.is_in_manifest:
        is_same = compute_checksum(file) == one.version
    if not is_same:
        raise UserError(f"gs://{one.name}: was replaced while it was read; try again")


def compute_checksum(file: Path) -> str:
    """The CRC-32 of a file, as 8 hex digits."""
    found = 0
    with file.open("rb") as opened:
        while strip := opened.read(STRIP_BYTES):
            found = zlib.crc32(strip, found)
    return f"{found:08x}"


def find_fetched(path: str | Path) -> Path | None:
    """The newest copy of a folder that was fetched before; the bucket is not asked."""
    name = split_address(path)
    copies = list((cache_folder() / hash_text(name)).glob(f"*/{name.rpartition('/')[2]}"))
    return max(copies, key=lambda copy: copy.parent.stat().st_mtime, default=None)


def _suggest(name: str) -> str:
    """The nearest name beside one that is not there."""
    parent, _, last = name.rpartition("/")
    if not parent:
        return ""
    return nearest(last, [child.name for child in BucketPath(f"gs://{parent}").iterdir()])
