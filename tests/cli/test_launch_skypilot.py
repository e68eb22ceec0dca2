"""launch/skypilot.sh starts a job that recovers and keeps its results."""

import shlex
import subprocess
from typing import Any

import pytest
import yaml
from fake_tools import ASK, SCRIPTS, Elsewhere

pytestmark = pytest.mark.slow  # each test starts a shell and fake tools


def sky_job(elsewhere: Elsewhere, *arguments: str) -> Any:
    done = elsewhere.run("skypilot.sh", *SCRIPTS["skypilot.sh"], *arguments, *ASK)
    assert done.returncode == 0, done.stderr
    (call,) = elsewhere.calls("sky")
    assert call["words"][1:5] == ["jobs", "launch", "--name", "ladder"]
    assert not list(elsewhere.folder.glob("adapt_jax_job*"))
    return yaml.safe_load(call["files"][0])


def test_a_sky_job_recovers_and_keeps_its_results(elsewhere: Elsewhere) -> None:
    job = sky_job(elsewhere, "--spot", "--infra", "aws/us-east-1")
    assert job["resources"] == {
        "accelerators": "L4:1",
        "use_spot": True,
        "infra": "aws/us-east-1",
        "job_recovery": {"recover_on_exit_codes": [75]},
    }
    mount = {"source": "s3://my-bucket", "mode": "MOUNT_CACHED"}
    assert job["file_mounts"] == {"/adapt_jax_bucket": mount}
    assert "install cuda" in job["setup"]
    command = job["run"].rstrip("\n").split("\nfi\n")[1]
    assert shlex.split(command) == [".venv/bin/python", "-m", "adapt_jax", *ASK[1:]]


@pytest.mark.parametrize(
    ("rank", "expected"), [("0", "10.0.0.1:12321 2 0"), ("1", "10.0.0.1:12321 2 1")]
)
def test_sky_nodes_find_each_other(elsewhere: Elsewhere, rank: str, expected: str) -> None:
    bucket = ["--bucket", "gs://my-bucket", "--nodes", "2", "--accelerators", "A100:8"]
    job = sky_job(elsewhere, *bucket)
    assert job["num_nodes"] == 2 and job["file_mounts"]["/adapt_jax_bucket"]["mode"] == "MOUNT"
    python = elsewhere.folder / "w" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    show = "$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID"
    python.write_text(f'#!/bin/sh\necho "{show}"\n')
    python.chmod(0o755)
    run = job["run"].replace("/adapt_jax_bucket", str(elsewhere.folder / "bucket"))
    nodes = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": rank}
    nodes |= {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
    done = subprocess.run(
        ["bash", "-c", run],
        cwd=elsewhere.folder / "w",
        capture_output=True,
        text=True,
        env=elsewhere.environment | nodes,
    )
    assert done.stdout == f"10.0.0.1:12321 2 {rank}\n", done.stderr
    assert (elsewhere.folder / "w" / "runs").is_symlink()


def test_sky_nodes_that_cannot_share_a_folder_are_refused(elsewhere: Elsewhere) -> None:
    done = elsewhere.run("skypilot.sh", *SCRIPTS["skypilot.sh"], "--nodes", "2", *ASK)
    assert done.returncode == 2 and "several nodes need gs://" in done.stderr


def test_a_sky_job_on_tpus_installs_the_tpu_extra(elsewhere: Elsewhere) -> None:
    assert "install tpu" in sky_job(elsewhere, "--accelerators", "tpu-v5litepod-8")["setup"]
