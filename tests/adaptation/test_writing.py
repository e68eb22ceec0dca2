"""Every command that writes: targets are refused before the work, a full disk is one line."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from peft_cases import soft, updates
from tiny_llama import write_tiny_llama

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.export import export_adaptation
from adapt_jax.adaptation.import_peft import import_adapter
from adapt_jax.adaptation.storage import DESCRIPTION
from adapt_jax.cli.main import main
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.utils import files
from adapt_jax.utils.errors import UserError


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes."""
    soft_limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft_limit, hard))


def make(model: PretrainedDecoder, kind: str) -> Adaptation:
    prompt = Prompt(instruction="Solve it.", generation_config=GenerationConfig(max_new_tokens=4))
    if kind == "soft_prompt":
        return Adaptation("prompt_tuning", prompt, model, soft(model))
    if kind == "lora":
        made = updates(model, "query")
        return Adaptation("lora", prompt, made.merge_into(model), lora_weights=made)
    full = kind == "full weights"
    return Adaptation("zero_shot", prompt, model, has_full_weights=full)


def export(adaptation: Adaptation, folder: Path) -> Path:
    return export_adaptation(adaptation, folder, verify=0)


def list_all(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", ["soft_prompt", "lora", "full weights", "prompt"])
@pytest.mark.parametrize("write", [Adaptation.save, export], ids=["save", "export"])
def test_a_full_disk_leaves_nothing_and_keeps_what_was_there(
    tiny: PretrainedDecoder, tmp_path: Path, kind: str, write: Callable[[Adaptation, Path], Any]
):
    target = tmp_path / "target"
    adaptation = make(tiny, kind)
    for size in (0, 300):  # no file fits, or some do
        with full_disk(size), pytest.raises(UserError, match="cannot be written") as error:
            write(adaptation, target)
        assert "\n" not in str(error.value) and len(str(error.value)) < 300
        assert list_all(tmp_path) == []
    write(adaptation, target)
    before = list_all(tmp_path)
    if write is Adaptation.save:
        with full_disk(300), pytest.raises(UserError):
            write(make(tiny, "prompt"), target)
        assert list_all(tmp_path) == before
        assert Adaptation.load(target, tiny).method == adaptation.method


def test_the_commands_say_so_in_one_line(
    tiny: PretrainedDecoder, tmp_path: Path, capsys: pytest.CaptureFixture
):
    make(tiny, "soft_prompt").save(tmp_path / "saved")
    export(make(tiny, "soft_prompt"), tmp_path / "peft")
    (tmp_path / "in.jsonl").write_text('{"question": "a"}\n')
    before = list_all(tmp_path)
    commands = (
        ["export", "saved", "new"],
        ["import", "peft", "new"],
        ["predict", "saved", "in.jsonl", "new"],
    )
    for command, *names in commands:
        with full_disk(300):
            assert main([command, *(str(tmp_path / name) for name in names)]) == 2, command
        err = capsys.readouterr().err.strip()
        assert str(tmp_path / "new") in err and "\n" not in err
        assert ": cannot be written (File too large)" in err
        assert list_all(tmp_path) == before


@pytest.mark.parametrize("target", [".", "..", "device", "file", "file/inner", "mine"])
def test_targets_are_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, target: str
):
    work = tmp_path / "outer" / "work"
    (work / "mine").mkdir(parents=True)
    (work / "mine" / "thesis.txt").write_text("years of work")
    (work / "file").write_text("mine")
    (work / "device").symlink_to("/dev/null")
    monkeypatch.chdir(work)
    before = list_all(tmp_path)
    for command in (["export", "no-adaptation"], ["import", "no-adapter"]):
        assert main([*command, target]) == 2
        assert target in capsys.readouterr().err
    assert list_all(tmp_path) == before


def test_saving_through_a_link_changes_what_it_points_to(tiny: PretrainedDecoder, tmp_path: Path):
    make(tiny, "lora").save(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    make(tiny, "soft_prompt").save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert Adaptation.load(tmp_path / "real", tiny).method == "prompt_tuning"


def test_a_read_only_disk_is_one_line(
    tiny: PretrainedDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    for write in (Adaptation.save, export):
        with pytest.raises(UserError, match="target: cannot be written .Read-only file system"):
            write(make(tiny, "prompt"), tmp_path / "target")


KILLED = """
import os, signal, sys
from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.utils import files
adaptation = Adaptation.load(sys.argv[1])
adaptation.method = "second"
files.exchange = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
adaptation.save(sys.argv[1])
"""


def test_a_kill_during_the_save_leaves_the_old_one_and_the_next_save_cleans_up(
    tiny: PretrainedDecoder, tmp_path: Path
):
    saved = make(tiny, "soft_prompt").save(tmp_path / "saved")
    done = subprocess.run([sys.executable, "-c", KILLED, str(saved)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(f"{files.NEW}*"))) == 1
    assert Adaptation.load(saved, tiny).method == "prompt_tuning"
    make(tiny, "soft_prompt").save(saved)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


# Received files


def test_nothing_is_fetched_because_a_file_names_it(
    tiny: PretrainedDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import huggingface_hub

    asked: list[dict[str, Any]] = []

    def fetch(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        if options.get("local_files_only"):
            raise FileNotFoundError("not here")
        raise AssertionError("fetched")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    saved = make(tiny, "soft_prompt").save(tmp_path / "saved")
    folder = export(make(tiny, "soft_prompt"), tmp_path / "peft")
    for file in (saved / DESCRIPTION, folder / "adapter_config.json"):
        file.write_text(file.read_text().replace(tiny.path, "owner/name"))
    with pytest.raises(
        UserError, match="owner/name.* is not on this machine, and nothing is fetch"
    ):
        Adaptation.load(saved)
    with pytest.raises(UserError, match="owner/name.*nothing is fetched because a file names it"):
        import_adapter(folder)
    assert all(one["local_files_only"] for one in asked)
    assert Adaptation.load(saved, tiny).identity == import_identity(folder, tiny, saved)


def import_identity(folder: Path, model: PretrainedDecoder, saved: Path) -> str:
    """Of the imported adapter, asked with the prompt of the saved adaptation."""
    imported = import_adapter(folder, model)
    imported.prompt = Adaptation.load(saved, model).prompt
    return imported.identity


def test_a_decoder_that_was_fetched_before_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from huggingface_hub import constants

    from adapt_jax.pretrained.loading import load_pretrained

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--me--tiny"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    write_tiny_llama(folder / "snapshots" / ("a" * 40))
    saved = make(load_pretrained("me/tiny"), "soft_prompt").save(tmp_path / "saved")
    assert Adaptation.load(saved).model.path == "me/tiny"
