"""A folder that is worked in on this machine, and kept in a bucket.

``mirror`` begins with what the bucket holds and pushes what changes: every PUSH_SECONDS, and at the
end, whatever the end is. A run that was killed continues on any machine from the last push.

A push is atomic. Files that are new are uploaded under their own names, changed ones beside them;
then the manifest names them, which is the step in which the new state takes the place of the old.
Only then are changed objects put under their own names, and those that are gone deleted. Whoever
reads through the manifest (``utils/bucket.py``) sees the state of one push; whoever looks into the
bucket with other tools sees plain files.
"""

import json
import logging
import os
import re
import secrets
import shutil
import stat
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from adapt_jax.utils.agreement import on_main, run_on_main
from adapt_jax.utils.bucket import (
    MANIFEST,
    MAX_DOWNLOADS,
    STATE,
    StoredObject,
    cache_folder,
    compute_checksum,
    download_object,
    file_system,
    hash_text,
    is_address,
    list_objects,
    report_bucket_errors,
    split_address,
)
from adapt_jax.utils.distributed import is_main_process
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.locks import lock_folder

__all__ = ["PUSH_SECONDS", "mirror", "mirror_file", "upload_file", "upload_folder"]

log = logging.getLogger("adapt_jax")

PUSH_SECONDS = 30.0  # ADAPT_JAX_PUSH_SECONDS chooses another number
OWNER = f"{STATE}/owner"  # the object that says which run works there
CHANGED = f"{STATE}/changed-"  # how names of changed files begin until the manifest names them
# what is not finished, or only of use on this machine
UNFINISHED = re.compile(r"(^|/)(\.adapt_jax|\.lock|\.[^/]*\.lock|[^/]*orbax-checkpoint-tmp[^/]*)")
MAX_WHOLE_BYTES = 64 * 2**20  # of a file that is uploaded in one request
CLOCK_STEP = 2 * 10**9  # nanoseconds; file systems round the time of a change
MAX_SCANS = 5  # of a folder in which files are deleted meanwhile
Stamp = tuple[int, int, int]  # of a file: inode, size, time of the last change


@contextmanager
def mirror(folder: Path) -> Iterator[Path]:
    """A folder to work in that stands for ``folder``: itself, or a mirror of one in a bucket.

    Of several processes process 0 pulls and pushes; they see the same folder only on one machine.

    Raises:
        UserError: the bucket cannot be read or written, another run works in the same mirror, or
            has taken over the folder in the bucket since.
    """
    if not is_address(folder):
        yield folder
        return
    local = _choose_place(folder)
    with _keep(_FolderMirror(split_address(folder), local), local):
        yield local


@contextmanager
def mirror_file(file: Path) -> Iterator[Path]:
    """A file to work on that stands for ``file``: itself, or a mirror of one in a bucket.

    A file in a bucket is one object, so it is replaced in one step.

    Raises:
        UserError: see ``mirror``.
    """
    if not is_address(file):
        yield file
        return
    local = _choose_place(file)
    with _keep(_FileMirror(split_address(file), local), local):
        yield local


def _choose_place(path: Path) -> Path:
    """Where on this machine one works for a file or folder in a bucket."""
    return cache_folder() / "outputs" / hash_text(split_address(path)) / path.name


@contextmanager
def _keep(mirror: "_Mirror", local: Path) -> Iterator[None]:
    """Pulls, then pushes now and then and at the end."""
    with on_main("mirror", lambda: lock_folder(local.parent)):
        run_on_main("bucket pulled", mirror.pull)
        if not is_main_process():
            yield
            return
        try:
            with _push_regularly(mirror):
                yield
        except BaseException:
            # the reason why the work ended is reported, not a push that fails, too
            try:
                mirror.push()
            except UserError as problem:
                log.warning("%s; what was found lies in %s", problem, local)
            raise
        mirror.push()


@contextmanager
def _push_regularly(mirror: "_Mirror") -> Iterator[None]:
    """Pushes in a thread; what fails is tried again at the next turn."""
    seconds = float(os.environ.get("ADAPT_JAX_PUSH_SECONDS", PUSH_SECONDS))
    ended = threading.Event()

    def push() -> None:
        while not ended.wait(seconds):
            try:
                mirror.push()
            except UserError as problem:
                log.warning("%s; tried again in %.0f seconds", problem, seconds)

    thread = threading.Thread(target=push, name="bucket", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


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
    one = _FolderMirror(split_address(folder), local)
    one.take_over()
    one.push()


class _Mirror(Protocol):
    """A file or folder of this machine, and its place in a bucket."""

    def pull(self) -> None:
        """Makes what is here what the bucket holds."""

    def push(self) -> None:
        """Makes the bucket what is here."""


class _FileMirror:
    """A file of this machine, and its object."""

    def __init__(self, name: str, local: Path):
        """``name`` is the address without ``gs://``."""
        self._name, self._local = name, local
        self._stamp: Stamp | None = None  # of the file as it was pushed

    def pull(self) -> None:
        """Makes the file what the object is."""
        self._local.unlink(missing_ok=True)
        with report_bucket_errors(f"gs://{self._name}"):
            for one in list_objects(f"gs://{self._name}").values():
                download_object(one, self._local)
        self._stamp = _stamp(self._local)

    def push(self) -> None:
        """Makes the object what the file is, if that has changed."""
        stamp = _stamp(self._local)
        if stamp is not None and stamp != self._stamp:
            upload_file(self._local, f"gs://{self._name}")
            self._stamp = stamp


class _FolderMirror:
    """A folder of this machine and its place in a bucket."""

    def __init__(self, name: str, local: Path):
        """``name`` is the address without ``gs://``."""
        self._name, self._local = name, local
        self._files: dict[str, StoredObject] = {}  # what the manifest names
        self._stamps: dict[str, Stamp] = {}  # of the files as they were pushed
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
        used = {one.name for one in self._files.values()}
        for name in file_system().find(f"{self._name}/{STATE}"):
            if name.startswith(f"{self._name}/{CHANGED}") and name not in used:
                file_system().rm_file(name)

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
        for name in sorted(unused - {one.name for one in self._files.values()}):
            with suppress(FileNotFoundError):
                bucket.rm_file(name)

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
        content = {inner: [one.name, one.size, one.version] for inner, one in sorted(files.items())}
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
