"""The launch scripts: what they would run, what they refuse, and when they install."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), ROOT / ".ci" / "run"])
SLICE = ["--name", "ladder", "--zone", "us-west4-a", "--type", "v5litepod-8"]
ALL = "--worker=all"


def bash(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs bash on these words, without a terminal."""
    command = ["bash", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload]


def tpu_vm(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return bash(ROOT / "launch" / "tpu_vm.sh", *arguments, **options)


def dry_run(*arguments: str) -> list[list[str]]:
    """The commands of a dry run as a shell reads them."""
    done = tpu_vm("--dry-run", *arguments)
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout.replace("\ngcloud", " ; gcloud"))
    commands: list[list[str]] = [[]]
    for word in words:
        if word == ";":
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_valid_bash(script: Path) -> None:
    assert bash("-n", script).returncode == 0


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s.name != "common.sh"], ids=str)
def test_every_command_can_be_executed(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")


def test_a_dry_run_prints_every_command_in_order() -> None:
    commands = dry_run(*SLICE, "--delete", "--", "compare", "configs/ladder.yaml")
    assert commands[0][:2] == ["git", "archive"]
    verbs = [command[4] for command in commands[1:]]
    assert verbs == ["create", "scp", "ssh", "ssh", "scp", "delete"]
    for command in commands[1:]:
        assert command[:4] == ["gcloud", "compute", "tpus", "tpu-vm"]
        assert "--zone=us-west4-a" in command
    assert ALL in commands[2] and ALL in commands[3] and ALL in commands[4]
    assert "install tpu" in commands[3][-2]


def test_a_dry_run_leaves_nothing_behind(tmp_path: Path) -> None:
    done = tpu_vm("--dry-run", *SLICE, "--", "compare", "c.yaml", cwd=tmp_path)
    assert done.returncode == 0
    assert not list(tmp_path.iterdir()) and not list(ROOT.glob("adapt_jax*.tar.gz"))


def test_the_command_reaches_the_workers_word_for_word() -> None:
    question = 'It\'s 2 + 3; what is "$HOME" `really`?'
    remote = next(
        word.removeprefix("--command=")
        for command in dry_run(*SLICE, "--", "ask", "runs/a", question)
        for word in command
        if word.startswith("--command=cd")
    )
    there = shlex.split(remote)  # the second shell, on the worker
    begun = "cd adapt_jax while .venv/bin/python -m adapt_jax ask runs/a".split()
    assert there[: len(begun) + 1] == [*begun, question + ";"]


@pytest.mark.parametrize(("codes", "last"), [("75 75 0", 0), ("75 3", 3), ("0", 0), ("2 0", 2)])
def test_a_training_that_was_asked_to_stop_is_started_again(
    tmp_path: Path, codes: str, last: int
) -> None:
    remote = next(
        word.removeprefix("--command=")
        for command in dry_run(*SLICE, "--", "tune", "c.yaml")
        for word in command
        if word.startswith("--command=cd")
    )
    python = tmp_path / "adapt_jax" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (tmp_path / "codes").write_text(codes.replace(" ", "\n") + "\n")
    python.write_text('#!/bin/sh\ncode=$(head -n 1 ../codes)\nsed -i 1d ../codes\nexit "$code"\n')
    python.chmod(0o755)
    assert bash("-c", remote, cwd=tmp_path).returncode == last
    assert len((tmp_path / "codes").read_text().split()) == (1 if codes == "2 0" else 0)


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("v4-32", "tpu-ubuntu2204-base"),
        ("v5litepod-8", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-8", "v2-alpha-tpuv6e"),
    ],
)
def test_the_runtime_version_fits_the_type(kind: str, version: str) -> None:
    create = dry_run(*SLICE[:-1], kind, "--", "ask")[1]
    assert f"--version={version}" in create and f"--accelerator-type={kind}" in create


def test_options_reach_gcloud() -> None:
    create = dry_run(*SLICE, "--spot", "--project", "p", "--version", "v", "--", "ask")[1]
    assert {"--spot", "--project=p", "--version=v"} <= set(create)


def test_a_tpu_vm_that_is_there_is_reused_and_kept() -> None:
    verbs = {command[4] for command in dry_run(*SLICE, "--reuse", "--", "ask")[1:]}
    assert verbs == {"scp", "ssh"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--name is missing"),
        (SLICE[:2], "--zone is missing"),
        (SLICE[:4], "--type is missing"),
        (SLICE, "no adapt-jax command"),
        ([*SLICE, "--"], "no adapt-jax command"),
        (["--name"], "--name needs a value"),
        (["--name", "--zone"], "--name needs a value"),
        ([*SLICE, "--spto", "--", "ask"], "unknown option --spto"),
        ([*SLICE, "compare"], "expected -- before the command, found compare"),
        ([*SLICE[:-1], "v99-8", "--", "ask"], "no runtime version is known for --type v99-8"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(arguments: list[str], message: str) -> None:
    done = tpu_vm("--dry-run", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1


def test_help_explains_every_option() -> None:
    done = tpu_vm("--help")
    assert done.returncode == 0
    options = "name zone type version project spot reuse delete dry-run help".split()
    assert all(f"\n  --{option}" in done.stdout for option in options)


def test_without_gcloud_it_says_so(tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "rm"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    done = tpu_vm(*SLICE, "--", "ask", env={"PATH": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr.startswith("error: gcloud is not installed")


@pytest.mark.parametrize(("failing", "deleted"), [("create", False), ("ssh", True)])
def test_after_a_failure_it_deletes_only_what_it_made(
    tmp_path: Path, failing: str, deleted: bool
) -> None:
    gcloud = tmp_path / "gcloud"
    log = tmp_path / "log"
    gcloud.write_text(f'#!/bin/sh\necho "$4" >>{log}\n[ "$4" != {failing} ]\n')
    gcloud.chmod(0o755)
    git = tmp_path / "git"  # stands in for the archive of the last commit
    git.write_text("#!/bin/sh\n")
    git.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    assert tpu_vm(*SLICE, "--delete", "--", "ask", env=env).returncode == 1
    assert ("delete" in log.read_text().split()) is deleted
    assert not list(tmp_path.glob("tmp.*"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the launch scripts with a .venv whose Python only notes what it is asked to do.

    It fails while a file ``broken`` is there.
    """
    folder = tmp_path / "a folder"
    shutil.copytree(ROOT / "launch", folder / "launch")
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/sh\ncase "$*" in -c*|*--version) exit ;; esac\n'
        'echo "$*" >>"$PWD/log"\n[ ! -e "$PWD/broken" ]\n'
    )
    python.chmod(0o755)
    return folder


def run_recorded(checkout: Path, script: str, *arguments: str) -> list[str]:
    """What the script asks of Python, one line per call; it is started from another folder."""
    log = checkout / "log"
    log.unlink(missing_ok=True)
    bash(checkout / "launch" / script, *arguments, cwd=checkout.parent)
    return log.read_text().splitlines() if log.exists() else []


PIP = "-m pip install --quiet --disable-pip-version-check --no-compile --editable "
COMPARE = "-m adapt_jax compare configs/ladder.yaml --output-dir runs/ladder --fresh"


def test_quickstart_installs_once_and_passes_overrides_on(checkout: Path) -> None:
    run = f"{COMPARE} --task.seed 7"
    assert run_recorded(checkout, "quickstart.sh", "--task.seed", "7") == [f"{PIP}.", run]
    assert run_recorded(checkout, "quickstart.sh", "--task.seed", "7") == [run]


def test_the_test_extra_holds_what_quickstart_needs(checkout: Path) -> None:
    first, second = (run_recorded(checkout, "test.sh", "-n3", "-x") for _ in range(2))
    assert first == [f"{PIP}.[test]", *second]
    assert second[:3] == ["-m ruff check", "-m ruff format --check", "-m mypy adapt_jax"]
    # a number of workers that is asked for comes last and wins
    assert re.fullmatch("-m pytest -n [1-4] --dist loadfile .* -n3 -x", second[3])
    assert len(second) == 4
    assert run_recorded(checkout, "quickstart.sh") == [COMPARE]


def test_other_requirements_are_installed_anew(checkout: Path) -> None:
    run_recorded(checkout, "quickstart.sh")
    with open(checkout / "setup.cfg", "a") as file:
        file.write("# another line\n")
    assert run_recorded(checkout, "quickstart.sh") == [f"{PIP}.", COMPARE]


def test_a_moved_folder_is_installed_anew(checkout: Path) -> None:
    run_recorded(checkout, "quickstart.sh")
    moved = checkout.rename(checkout.parent / "moved")
    assert run_recorded(moved, "quickstart.sh") == [f"{PIP}.", COMPARE]


def test_a_failed_installation_is_taken_up_again(checkout: Path) -> None:
    packages = checkout / ".venv" / "lib" / "python3.11" / "site-packages"
    half, whole = packages / "half-1.dist-info", packages / "whole-1.dist-info"
    (checkout / "broken").touch()
    assert run_recorded(checkout, "quickstart.sh") == [f"{PIP}."]  # and nothing is run
    half.mkdir(parents=True)
    whole.mkdir()
    (whole / "INSTALLER").write_text("pip\n")
    (checkout / "broken").unlink()
    assert run_recorded(checkout, "quickstart.sh") == [f"{PIP}.", COMPARE]
    assert whole.exists() and not half.exists()
