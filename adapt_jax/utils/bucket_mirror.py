"""A folder that is worked in on this machine, and kept in a bucket.

``mirror`` begins with what the bucket holds and pushes what changes: every PUSH_SECONDS, and at the
end, whatever the end is. A run that was killed continues on any machine from the last push.

Of several processes process 0 has the mirror, pulls and pushes. The others share no disk with it:
they have an empty folder each, for what is of no use afterwards, and send the lines that shall last
to process 0 (``append_lines``).
"""

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapt_jax.utils.agreement import check_shared_folder, on_main, run_on_main
from adapt_jax.utils.bucket import cache_folder, hash_text, is_address, split_address, to_path
from adapt_jax.utils.bucket_copy import FileCopy, FolderCopy, LocalCopy
from adapt_jax.utils.distributed import (
    before_leaving,
    is_main_process,
    process_index,
    read_notes,
    send_note,
)
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.interruption import Interrupted
from adapt_jax.utils.line_appender import LineAppender
from adapt_jax.utils.locks import lock_folder

__all__ = ["PUSH_SECONDS", "OpenMirror", "append_lines", "find_mirror", "mirror", "mirror_file"]

log = logging.getLogger("adapt_jax")

PUSH_SECONDS = 30.0  # ADAPT_JAX_PUSH_SECONDS chooses another number


@dataclass(frozen=True)
class OpenMirror:
    """A mirror that is worked in.

    Attributes:
        address: of the file or folder in the bucket.
        local: what stands for it on this machine.
        push: makes the bucket what is here; process 0 calls it.
    """

    address: Path
    local: Path
    push: Callable[[], None]

    @property
    def topic(self) -> str:
        """Of the lines that process 0 writes for the others."""
        return f"lines of {self.address}"


_open: list[OpenMirror] = []


@contextmanager
def mirror(folder: Path) -> Iterator[Path]:
    """A folder to work in that stands for ``folder``: itself, or a mirror of one in a bucket.

    Raises:
        UserError: several processes do not share the folder; or the bucket cannot be read or
            written, another run works in the same mirror, or has taken over the folder in the
            bucket since.
    """
    if not is_address(folder):
        check_shared_folder(folder)
        yield folder
        return
    local = _choose_place(folder)
    with _keep(FolderCopy(split_address(folder), local), folder, local):
        yield local


@contextmanager
def mirror_file(file: Path) -> Iterator[Path]:
    """A file to work on that stands for ``file``: itself, or a mirror of one in a bucket.

    A file in a bucket is one object, so it is replaced in one step.

    Raises:
        UserError: see ``mirror``.
    """
    if not is_address(file):
        check_shared_folder(file.parent)
        yield file
        return
    local = _choose_place(file)
    with _keep(FileCopy(split_address(file), local), file, local):
        yield local


def _choose_place(path: Path) -> Path:
    """Where on this machine this process works for a file or folder in a bucket."""
    own = f"-process-{process_index()}" if process_index() else ""
    place = cache_folder() / "outputs" / (hash_text(split_address(path)) + own) / path.name
    return place.absolute()


@contextmanager
def _keep(copy: LocalCopy, address: Path, local: Path) -> Iterator[None]:
    """Pulls, then pushes now and then and at the end."""
    one = OpenMirror(to_path(address), local, copy.push)
    with on_main("mirror", lambda: lock_folder(local.parent)):
        run_on_main("bucket pulled", copy.pull)
        _open.append(one)
        try:
            with _work_for_main(one) if process_index() else _push_until_the_end(one):
                yield
        except (UserError, Interrupted) as problem:  # the user knows the address
            problem.args = (str(problem).replace(str(local), str(one.address)),)
            raise
        finally:
            _open.remove(one)
        run_on_main("bucket pushed", copy.push)


@contextmanager
def _push_until_the_end(one: OpenMirror) -> Iterator[None]:
    """Process 0: writes the lines of the others, too."""

    def push() -> None:
        try:
            one.push()
        except UserError as problem:
            log.warning("%s; what was found lies in %s", problem, one.local)

    with read_notes(one.topic, lambda note: _write_line(one, *note)), before_leaving(push):
        try:
            with _push_regularly(one):
                yield
        except BaseException:
            push()  # the reason why the work ended is reported, not a push that fails, too
            raise


@contextmanager
def _push_regularly(one: OpenMirror) -> Iterator[None]:
    """Pushes in a thread; what fails is tried again at the next turn."""
    seconds = float(os.environ.get("ADAPT_JAX_PUSH_SECONDS", PUSH_SECONDS))
    ended = threading.Event()

    def push() -> None:
        while not ended.wait(seconds):
            try:
                one.push()
            except UserError as problem:
                log.warning("%s; tried again in %.0f seconds", problem, seconds)

    thread = threading.Thread(target=push, name="bucket", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _work_for_main(one: OpenMirror) -> Iterator[None]:
    """A process other than process 0: its folder is empty at the start, and gone at the end."""
    shutil.rmtree(one.local.parent, ignore_errors=True)
    one.local.parent.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(one.local.parent, ignore_errors=True)


def find_mirror(path: Path) -> OpenMirror | None:
    """The mirror that a path of this machine is in; None: it is in no bucket."""
    inside = (one for one in _open if path.is_relative_to(one.local.parent))
    return next(inside, None)


@contextmanager
def append_lines(path: Path) -> Iterator[Callable[[str], None]]:
    """Yields what appends a line to a file that every process has for itself (see LineAppender).

    In a mirror process 0 writes the files of all processes.

    Raises:
        UserError: the file cannot be written.
    """
    one = find_mirror(path)
    if one is None or is_main_process():
        with LineAppender(path) as out:
            yield out.write
        return
    name = path.relative_to(one.local.parent).as_posix()
    yield lambda line: send_note(one.topic, [name, line])


def _write_line(one: OpenMirror, name: str, line: str) -> None:
    """Writes a line of another process. Whoever sent it has it still, so a failure costs little."""
    try:
        with LineAppender(one.local.parent / name) as out:
            out.write(line)
    except UserError as problem:
        log.warning("%s; an answer is not kept before the end", problem)
