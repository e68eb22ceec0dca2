"""launch/slurm.sh queues a job that is asked to stop in time."""

import subprocess

import pytest
from fake_tools import ASK, SCRIPTS, Elsewhere, option

pytestmark = pytest.mark.slow  # each test starts a shell and fake tools


def test_a_slurm_job_is_asked_to_stop_in_time(elsewhere: Elsewhere) -> None:
    (elsewhere.checkout / "launch" / "common.sh").write_text("install() { echo $1 >installed; }\n")
    more = ["--nodes", "2", "--gpus", "8", "--tasks-per", "gpu", "--partition", "a", "--cpus", "4"]
    done = elsewhere.run("slurm.sh", *SCRIPTS["slurm.sh"], *more, *ASK)
    assert done.returncode == 0, done.stderr
    assert (elsewhere.checkout / "installed").read_text() == "cuda\n"
    (words,) = elsewhere.words("sbatch")
    expected = {
        "--nodes": "2",
        "--ntasks-per-node": "8",
        "--gpus-per-node": "8",
        "--cpus-per-task": "4",
        "--partition": "a",
        "--time": "4:00:00",
        "--signal": "TERM@120",
        "--open-mode": "append",
    }
    assert {name: option(words, name) for name in expected} == expected
    assert "--requeue" in words
    job = words.index("launch/slurm_job.sh")
    assert words[job + 1 :] == ["gpu", "8", "100", *ASK[1:]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks-per", "gpu"], "--tasks-per gpu needs --gpus"),
        (["--tasks-per", "core"], "--tasks-per core: expected host or gpu"),
        (["--time", "soon"], "--time soon: expected for instance 4:00:00"),
        (["--nodes", "0"], "--nodes 0: expected a whole number above 0"),
        (["--gpus", "x"], "--gpus x: expected a whole number above 0"),
    ],
)
def test_a_wrong_slurm_job_is_refused(
    elsewhere: Elsewhere, arguments: list[str], message: str
) -> None:
    done = elsewhere.run("slurm.sh", *SCRIPTS["slurm.sh"], *arguments, *ASK)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {message}")


def slurm_job(elsewhere: Elsewhere, code: int, restarts: int = 0, **options: str) -> int:
    """Runs the batch script with an srun that runs its command once; the command exits so."""
    python = elsewhere.checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    shown = '"$*" $JAX_LOCAL_DEVICE_IDS $SRUN_CPUS_PER_TASK'
    python.write_text(f"#!/bin/sh\necho {shown} >seen\nexit {code}\n")
    srun = elsewhere.folder / "tools" / "srun"
    srun.unlink()
    srun.write_text('#!/bin/sh\nwhile [ "$1" != bash ]; do shift; done\nexec "$@"\n')
    for file in (python, srun):
        file.chmod(0o755)
    (elsewhere.checkout / "runs").mkdir()
    (elsewhere.folder / "rules").write_text("[]")
    settings = {"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": str(restarts)}
    settings |= {"SLURM_CPUS_PER_TASK": "6"}  # which srun does not read
    command = [
        "bash",
        "launch/slurm_job.sh",
        options.get("per", "host"),
        "4",
        "3",
        "ask",
        "runs/a",
        "2 + 3?",
    ]
    environment = elsewhere.environment | settings
    return subprocess.run(command, cwd=elsewhere.checkout, env=environment).returncode


def test_a_slurm_task_has_all_devices_of_its_host(elsewhere: Elsewhere) -> None:
    assert slurm_job(elsewhere, 0) == 0
    seen = (elsewhere.checkout / "seen").read_text()
    assert seen == "-m adapt_jax ask runs/a 2 + 3? 0,1,2,3 6\n"
    assert not elsewhere.calls() and not list((elsewhere.checkout / "runs").iterdir())


@pytest.mark.parametrize(
    ("code", "restarts", "again"), [(75, 0, True), (75, 3, False), (1, 0, False), (137, 0, False)]
)
def test_a_slurm_job_that_was_asked_to_stop_is_queued_again(
    elsewhere: Elsewhere, code: int, restarts: int, again: bool
) -> None:
    assert slurm_job(elsewhere, code, restarts, per="gpu") == code
    assert elsewhere.words("scontrol") == ([["scontrol", "requeue", "12"]] if again else [])
    assert "0,1" not in (elsewhere.checkout / "seen").read_text()
