"""Writing: whole or not at all, through links, never over what is no target, on full disks too."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapt_jax.utils import files
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.line_appender import LineAppender


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """The system refuses to let any file grow beyond so many bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "new.txt").write_text("new")


# Files


def test_a_file_is_written_through_a_symbolic_link(tmp_path: Path):
    real = tmp_path / "real" / "results.json"
    real.parent.mkdir()
    link = tmp_path / "link.json"
    link.symlink_to(real)
    for content in ({"a": 1}, {"a": float("nan")}):
        files.write_json(link, content)
    assert link.is_symlink() and json.loads(real.read_text()) == {"a": None}
    assert names(tmp_path) == ["link.json", "real"] and names(real.parent) == ["results.json"]


def test_a_written_file_keeps_its_mode_and_a_new_one_gets_the_usual_mode(tmp_path: Path):
    old = tmp_path / "old"
    old.write_text("old")
    old.chmod(0o640)
    files.write_text(old, "new")
    files.write_text(tmp_path / "new", "new")
    (tmp_path / "usual").write_text("")
    assert old.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("folder", "folder: is a folder; expected a file"),
        ("pipe", "pipe: is no regular file"),
        ("to_device", "to_device: is no regular file"),
        ("file/inner", "file/inner: .*file is a file; expected a folder"),
        ("x" * 300, "no usable path .File name too long"),
        ("loop", "no usable path"),
        ("nul\0", "no usable path .embedded null byte"),
    ],
)
def test_what_cannot_be_a_file_is_refused_before_the_work(tmp_path: Path, place: str, message: str):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_device").symlink_to("/dev/null")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = names(tmp_path)
    for write in (files.check_target_file, lambda path: files.write_text(path, "x")):
        with pytest.raises(UserError, match=message):
            write(tmp_path / place)
    assert names(tmp_path) == before and (tmp_path / "file").read_text() == "kept"


def test_a_folder_that_may_not_be_written_is_refused_before_the_work(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    for check in (
        files.check_target_file,
        files.check_target_folder,
        files.check_output_folder,
    ):
        with pytest.raises(UserError, match="may not be written"):
            check(tmp_path / "new" / "deeper")


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path):
    target = tmp_path / "results.txt"
    files.write_text(target, "old")
    with limited_file_size(1000), pytest.raises(UserError) as error:
        files.write_text(target, "x" * 2000)
    assert str(error.value) == f"{target}: cannot be written (File too large)"
    assert target.read_text() == "old" and names(tmp_path) == ["results.txt"]


def test_lone_surrogates_are_written_as_the_replacement_character(tmp_path: Path):
    files.write_text(tmp_path / "text", "a\ud83d b")
    assert (tmp_path / "text").read_text(encoding="utf-8") == "a\ufffd b"
    assert (
        files.to_json_lines([{"q": "\udc00", "x": float("inf")}]) == '{"q": "\ufffd", "x": null}\n'
    )


# Lines


def test_lines_are_appended_and_an_unfinished_one_is_cut_off(tmp_path: Path):
    path = tmp_path / "deep" / "lines"
    with LineAppender(path) as lines:
        lines.write("one")
        assert path.read_text() == "one\n"  # on the disk at once
    with path.open("a") as cut:
        cut.write("t" * 70_000)
    with LineAppender(path) as lines:
        lines.write("two \ud800")
    assert path.read_text(encoding="utf-8") == "one\ntwo \ufffd\n"


def test_a_line_that_does_not_fit_on_the_disk_leaves_the_lines_before(tmp_path: Path):
    path = tmp_path / "lines"
    with LineAppender(path) as lines:
        lines.write("a" * 600)
        with limited_file_size(1000), pytest.raises(UserError, match="lines: cannot be written"):
            lines.write("b" * 600)
        assert path.read_text() == "a" * 600 + "\n"
        lines.write("c")  # there is room again
    assert path.read_text() == "a" * 600 + "\nc\n"


def test_a_file_without_a_line_is_not_left_behind(tmp_path: Path):
    with LineAppender(tmp_path / "lines"):
        pass
    with (
        limited_file_size(10),
        pytest.raises(UserError),
        LineAppender(tmp_path / "lines") as lines,
    ):
        lines.write("b" * 600)
    assert names(tmp_path) == []


def test_two_processes_do_not_append_to_one_file(tmp_path: Path):
    with LineAppender(tmp_path / "lines") as lines:
        lines.write("mine")
        with pytest.raises(UserError, match="lines: another process is writing it"):
            LineAppender(tmp_path / "lines")


# Folders


def test_a_folder_replaces_one_that_holds_the_marker_and_no_other(tmp_path: Path):
    saved, mine = tmp_path / "saved", tmp_path / "mine"
    files.replace_folder(saved, fill)
    (saved / "marker").write_text("")
    files.replace_folder(saved, fill, marker="marker")
    assert names(saved) == ["inner"]
    mine.mkdir()
    files.replace_folder(mine, fill, marker="marker")  # it is empty
    (mine / "thesis.txt").write_text("years of work")
    for marker in ("marker", None):
        with pytest.raises(UserError, match="mine: is not empty.*; choose a new folder"):
            files.replace_folder(mine, fill, marker=marker)
    assert (mine / "thesis.txt").read_text() == "years of work"
    assert names(tmp_path) == ["mine", "saved"]


def test_a_folder_is_written_through_a_symbolic_link(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.replace_folder(tmp_path / "link", fill)
    assert (tmp_path / "link").is_symlink() and names(tmp_path / "real") == ["inner"]


def test_the_working_folder_and_what_holds_it_are_refused(tmp_path: Path, monkeypatch):
    here = tmp_path / "outer" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    for target in (".", "..", here, tmp_path / "outer", "/"):
        with pytest.raises(UserError, match="is the working folder, or holds it"):
            files.replace_folder(target, fill)
    (tmp_path / "outer" / "file").write_text("")
    with pytest.raises(UserError, match="file: is a file; choose a new folder"):
        files.replace_folder("../file", fill)


def test_what_goes_wrong_while_a_folder_is_written_leaves_the_old_one(tmp_path: Path):
    saved = tmp_path / "saved"
    files.replace_folder(saved, lambda new: (new / "marker").write_text("old"))

    def full(folder: Path) -> None:
        fill(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "weights"))

    def missing(folder: Path) -> None:
        (folder / "config.json").write_bytes((tmp_path / "gone.json").read_bytes())

    def stopped(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(UserError) as error:
        files.replace_folder(saved, full, marker="marker")
    assert str(error.value) == f"{saved}: cannot be written (No space left on device)"
    with pytest.raises(UserError, match="saved: cannot be written .*gone.json"):
        files.replace_folder(saved, missing, marker="marker")
    with pytest.raises(KeyboardInterrupt):
        files.replace_folder(saved, stopped, marker="marker")
    assert names(tmp_path) == ["saved"] and (saved / "marker").read_text() == "old"


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_folder_is_exchanged_on_every_system(tmp_path: Path, monkeypatch, platform: str):
    monkeypatch.setattr(sys, "platform", platform)
    for content in ("old", "new"):
        files.replace_folder(
            tmp_path / "saved",
            lambda new, text=content: (new / "marker").write_text(text),
            marker="marker",
        )
    assert names(tmp_path) == ["saved"] and (tmp_path / "saved" / "marker").read_text() == "new"


KILLED = """
import os, signal, sys
from pathlib import Path
from adapt_jax.utils import files
platform, moment, target = sys.argv[1:]
sys.platform = platform
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
if moment == "before":
    files.exchange = die
elif moment == "between":
    rename = Path.rename
    Path.rename = lambda self, to: die() if self.name.startswith(files.NEW) else rename(self, to)
else:
    files.shutil.rmtree = die
files.replace_folder(target, lambda new: (new / "marker").write_text("new"), marker="marker")
"""


@pytest.mark.parametrize(
    ("platform", "moment", "found"),
    [
        ("linux", "before", "old"),
        ("linux", "after", "new"),
        ("darwin", "between", None),
        ("darwin", "after", "new"),
    ],
)
def test_a_kill_loses_nothing_and_the_next_run_removes_what_it_left(
    tmp_path: Path, platform: str, moment: str, found: str | None
):
    saved = tmp_path / "saved"
    files.replace_folder(saved, lambda new: (new / "marker").write_text("old"))
    command = [sys.executable, "-c", textwrap.dedent(KILLED), platform, moment, str(saved)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    left = [name for name in names(tmp_path) if name != "saved"]
    assert len(left) >= 1
    if found is None:  # no system but Linux exchanges in one step; the old one is brought back
        assert not saved.exists()
        files.remove_unfinished(saved)
        found = "old"
    assert (saved / "marker").read_text() == found
    files.replace_folder(saved, lambda new: (new / "marker").write_text("next"), marker="marker")
    assert names(tmp_path) == ["saved"] and (saved / "marker").read_text() == "next"


def test_a_mistake_names_the_folder_and_not_its_temporary_name(tmp_path: Path):
    with limited_file_size(10), pytest.raises(UserError) as error:
        files.replace_folder(tmp_path / "saved", lambda new: files.write_text(new / "a", "x" * 99))
    assert str(error.value) == f"{tmp_path / 'saved' / 'a'}: cannot be written (File too large)"
    assert names(tmp_path) == []


def test_what_another_run_is_writing_is_not_removed(tmp_path: Path):
    def write(new: Path) -> None:
        files.remove_unfinished(tmp_path / "saved")
        assert new.is_dir()
        (new / "marker").write_text("")

    files.replace_folder(tmp_path / "saved", write)
    other = tmp_path / f"{files.NEW}01234567-other"
    other.mkdir()
    files.replace_folder(tmp_path / "saved", write, marker="marker")
    assert names(tmp_path) == [other.name, "saved"]


@pytest.mark.parametrize("path", ["hdfs://host/runs", Path("s3://bucket/runs"), "s3://bucket/a"])
def test_the_address_of_a_bucket_is_no_folder_of_its_name(path: str | Path):
    with pytest.raises(UserError, match="mount the bucket"):
        files.check_output_folder(path)
    with pytest.raises(UserError, match="mount the bucket"):
        files.check_target_file(path)
