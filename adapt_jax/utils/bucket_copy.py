"""What is in a folder or file of this machine is put into a bucket, and taken from there.

A push is atomic. Files that are new are uploaded under their own names, changed ones beside them;
then the manifest names them, which is the step in which the new state takes the place of the old.
Only then are changed objects put under their own names, and those that are gone deleted. Whoever
reads through the manifest (``utils/bucket.py``) sees the state of one push; whoever looks into the
bucket with other tools sees plain files.

A file named PART_LIST lists objects that were uploaded without a file here, such as the arrays of a
checkpoint, which every process uploads itself. They stay as long as a list names them.
"""

import json
import logging
import re
import secrets
import shutil
import stat
import threading
import time
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from adapt_jax.utils.bucket import (
    MANIFEST,
    MAX_DOWNLOADS,
    STATE,
    StoredObject,
    compute_checksum,
    download_object,
    file_system,
    list_objects,
    report_bucket_errors,
    split_address,
)
from adapt_jax.utils.errors import UserError

__all__ = [
    "PARTS",
    "PART_LIST",
    "FileCopy",
    "FolderCopy",
    "LocalCopy",
    "upload_file",
    "upload_folder",
]

log = logging.getLogger("adapt_jax")

OWNER = f"{STATE}/owner"  # the object that says which run works there
CHANGED = f"{STATE}/changed-"  # how names of changed files begin until the manifest names them
PARTS = f"{STATE}/parts"  # where objects lie that a part list names
PART_LIST = "parts.json"  # {"objects": [names within the folder of the run], ...}
# what is not finished, or only of use on this machine
UNFINISHED = re.compile(r"(^|/)(\.adapt_jax|\.lock|\.[^/]*\.lock|[^/]*orbax-checkpoint-tmp[^/]*)")
MAX_WHOLE_BYTES = 64 * 2**20  # of a file that is uploaded in one request
CLOCK_STEP = 2 * 10**9  # nanoseconds; file systems round the time of a change
OF_PROCESS = re.compile(r"\.process-\d+")
MAX_SCANS = 5  # of a folder in which files are deleted meanwhile
Stamp = tuple[int, int, int]  # of a file: inode, size, time of the last change


def upload_file(local: Path, file: str | Path) -> None:
    """Writes a file of this machine as an object.

    Raises:
        UserError: the bucket cannot be written.
    """
    with report_bucket_errors(file, "written"):
        _upload(local, split_address(file))


def upload_folder(local: Path, folder: str | Path) -> None:
    """Puts a whole folder in place in a bucket, in one step; see above.

    Raises:
        UserError: the bucket cannot be written.
    """
    one = FolderCopy(split_address(folder), local)
    one.take_over()
    one.push()


class LocalCopy(Protocol):
    """A file or folder of this machine, and its place in a bucket."""

    def pull(self) -> None:
        """Makes what is here what the bucket holds."""

    def push(self) -> None:
        """Makes the bucket what is here."""


class FileCopy:
    """A file of this machine, and its object.

    Beside the file are those of the other processes, ``NAME.process-N``, until all is answered.
    """

    def __init__(self, name: str, local: Path):
        """``name`` is the address without ``gs://``."""
        self._name, self._local = name, local
        self._stamps: dict[str, Stamp] = {}  # of the files as they were pushed, by what is added
        self._busy = threading.Lock()

    def pull(self) -> None:
        """Makes the files what the objects are."""
        for old in self._list_files().values():
            old.unlink()
        with report_bucket_errors(f"gs://{self._name}"):
            for name in file_system().find(self._name.rpartition("/")[0], prefix=self._local.name):
                end = name.removeprefix(self._name)
                if not end or OF_PROCESS.fullmatch(end):
                    found = list_objects(f"gs://{name}").get("")
                    if found is not None:
                        download_object(found, self._add(end))
        self._stamps = self._stamp_files()

    def push(self) -> None:
        """Makes the objects what the files are, where these have changed."""
        with self._busy, report_bucket_errors(f"gs://{self._name}", "written"):
            stamps = self._stamp_files()
            for end, stamp in stamps.items():  # the file itself first
                if stamp != self._stamps.get(end):
                    with suppress(FileNotFoundError):  # the file of a process, since the scan
                        _upload(self._add(end), self._name + end)
            for end in self._stamps.keys() - stamps.keys():
                with suppress(FileNotFoundError):
                    file_system().rm_file(self._name + end)
            self._stamps = stamps

    def _add(self, end: str) -> Path:
        return self._local.with_name(self._local.name + end)

    def _list_files(self) -> dict[str, Path]:
        """The file and those of the other processes, by what is added to the name."""
        name = self._local.name
        found = {"": self._local} if self._local.exists() else {}
        if self._local.parent.is_dir():
            for path in sorted(self._local.parent.iterdir()):
                end = path.name.removeprefix(name)
                if path.name.startswith(name) and OF_PROCESS.fullmatch(end):
                    found[end] = path
        return found

    def _stamp_files(self) -> dict[str, Stamp]:
        found = {end: _stamp(path) for end, path in self._list_files().items()}
        return {end: stamp for end, stamp in found.items() if stamp is not None}


class FolderCopy:
    """A folder of this machine and its place in a bucket."""

    def __init__(self, name: str, local: Path):
        """``name`` is the address without ``gs://``."""
        self._name, self._local = name, local
        self._files: dict[str, StoredObject] = {}  # what the manifest names
        self._stamps: dict[str, Stamp] = {}  # of the files as they were pushed
        self._parts: dict[str, set[str]] = {}  # by part list, the objects that it names
        self._token = secrets.token_hex(8)
        self._busy = threading.Lock()

    def take_over(self) -> None:
        """Says in the bucket that this run works there, and no other run any more.

        Raises:
            UserError: the bucket cannot be read or written.
        """
        self._files = list_objects(f"gs://{self._name}")
        with report_bucket_errors(f"gs://{self._name}", "written"):
            file_system().pipe_file(f"{self._name}/{OWNER}", self._token.encode())

    def pull(self) -> None:
        """Makes the local folder what the bucket holds.

        Raises:
            UserError: the bucket cannot be read or written, or is a file.
        """
        self.take_over()
        if "" in self._files:
            raise UserError(f"gs://{self._name}: is a file; expected a folder for the results")
        with report_bucket_errors(f"gs://{self._name}"):
            shutil.rmtree(self._local, ignore_errors=True)
            self._local.mkdir(parents=True)
            with ThreadPoolExecutor(MAX_DOWNLOADS) as pool:
                found = list(pool.map(self._pull_file, self._files))
            self._files = {inner: one for inner, one in found if one is not None}
            self._parts = self._read_part_lists(self._files)
            self._remove_unused()
        self._stamps = _drop_recent(self._scan(), time.time_ns())

    def _pull_file(self, inner: str) -> tuple[str, StoredObject | None]:
        """Downloads a file; gives None for one that another program deleted or replaced."""
        one, file = self._files[inner], self._local / inner
        try:
            download_object(one, file)
        except (FileNotFoundError, UserError):
            log.warning("gs://%s: is not what the run wrote; not used", one.name)
            file.unlink(missing_ok=True)
            return inner, None
        return inner, replace(one, version=compute_checksum(file), is_in_manifest=True)

    def _remove_unused(self) -> None:
        """Deletes what a push that was interrupted has left beside the files."""
        used = {one.name for one in self._files.values()}.union(*self._parts.values())
        for name in file_system().find(f"{self._name}/{STATE}"):
            inner = name.removeprefix(f"{self._name}/")
            if inner.startswith((CHANGED, f"{PARTS}/")) and name not in used:
                file_system().rm_file(name)

    def _read_part_lists(self, inners: Iterable[str]) -> dict[str, set[str]]:
        """The objects that the part lists among these files name."""
        found = {}
        for inner in inners:
            if inner.rpartition("/")[2] == PART_LIST:
                with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged one names none
                    content = json.loads((self._local / inner).read_bytes())
                    found[inner] = {f"{self._name}/{one}" for one in content["objects"]}
        return found

    def _scan(self) -> dict[str, Stamp]:
        """The finished files, by their paths in the folder."""
        found = {}
        for file in sorted(self._local.rglob("*")):
            inner = file.relative_to(self._local).as_posix()
            if not UNFINISHED.search(inner) and (stamp := _stamp(file)) is not None:
                found[inner] = stamp
        return found

    def push(self) -> None:
        """Makes the bucket what the local folder is.

        Raises:
            UserError: the bucket cannot be written, or another run has taken it over; then it holds
                what it held before.
        """
        with self._busy, report_bucket_errors(f"gs://{self._name}", "written"):
            for _ in range(MAX_SCANS):
                try:
                    self._push_once()
                    return
                except FileNotFoundError as problem:  # deleted since the scan, such as a checkpoint
                    missing = problem
                    time.sleep(0.1)
            raise missing

    def _push_once(self) -> None:
        bucket = file_system()
        began, stamps = time.time_ns(), self._scan()
        changed = [inner for inner in stamps if self._has_changed(inner, stamps[inner])]
        gone = self._files.keys() - stamps.keys()
        is_tidy = all(one.name == self._own(inner) for inner, one in self._files.items())
        if not changed and not gone and is_tidy:
            return
        if bucket.cat_file(f"{self._name}/{OWNER}") != self._token.encode():
            raise UserError(
                f"gs://{self._name}: another run has begun to work there; what this one found "
                f"stays in {self._local}"
            )

        # upload new files under their names, changed ones beside the old
        new = {inner: one for inner, one in self._files.items() if inner in stamps}
        beside = f"{self._name}/{CHANGED}{secrets.token_hex(4)}"
        for inner in changed:
            place = f"{beside}/{inner}" if inner in self._files else self._own(inner)
            new[inner] = _upload(self._local / inner, place)

        # the manifest makes them the state of the folder
        old = self._files
        self._write_manifest(new)
        self._files, self._stamps = new, _drop_recent(stamps, began)

        # tidy up: every object under its own name, and no other
        for inner, one in new.items():
            if one.name != self._own(inner):
                bucket.cp_file(one.name, self._own(inner))
                self._files = self._files | {inner: replace(one, name=self._own(inner))}
        self._write_manifest(self._files)
        unused = {one.name for one in [*old.values(), *new.values()]}
        unused -= {one.name for one in self._files.values()}
        for name in sorted(unused | self._change_part_lists(changed)):
            with suppress(FileNotFoundError):
                bucket.rm_file(name)

    def _change_part_lists(self, changed: Iterable[str]) -> set[str]:
        """Takes note of what part lists name now; the objects that none of them names any more."""
        before = set[str]().union(*self._parts.values())
        kept = {inner: one for inner, one in self._parts.items() if inner in self._files}
        self._parts = kept | self._read_part_lists(changed)
        return before.difference(*self._parts.values())

    def _has_changed(self, inner: str, stamp: Stamp) -> bool:
        if self._stamps.get(inner) == stamp:
            return False
        known = self._files.get(inner)
        if known is None or known.size != stamp[1]:
            return True
        return compute_checksum(self._local / inner) != known.version

    def _own(self, inner: str) -> str:
        """The name of a file's object, when nothing is being changed."""
        return f"{self._name}/{inner}"

    def _write_manifest(self, files: dict[str, StoredObject]) -> None:
        start = len(self._name) + 1  # names within the folder, so that it may be copied
        content = {
            inner: [one.name[start:], one.size, one.version] for inner, one in sorted(files.items())
        }
        file_system().pipe_file(f"{self._name}/{MANIFEST}", json.dumps(content).encode())


def _stamp(file: Path) -> Stamp | None:
    """By which a changed file is recognised; None: there is no such file."""
    try:
        state = file.stat()
    except FileNotFoundError:
        return None
    return (state.st_ino, state.st_size, state.st_mtime_ns) if stat.S_ISREG(state.st_mode) else None


def _drop_recent(stamps: dict[str, Stamp], now: int) -> dict[str, Stamp]:
    """Without files that could be changed again with the same time of the last change."""
    return {inner: stamp for inner, stamp in stamps.items() if stamp[2] < now - CLOCK_STEP}


def _upload(file: Path, place: str) -> StoredObject:
    """Writes a file as an object. A small one, such as a journal, may grow meanwhile."""
    if (size := file.stat().st_size) > MAX_WHOLE_BYTES:
        checksum = compute_checksum(file)
        file_system().put_file(str(file), place)
        return StoredObject(place, size, checksum, is_in_manifest=True)
    content = file.read_bytes()
    file_system().pipe_file(place, content)
    return StoredObject(place, len(content), f"{zlib.crc32(content):08x}", is_in_manifest=True)
