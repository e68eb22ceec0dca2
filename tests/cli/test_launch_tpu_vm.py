"""launch/tpu_vm.sh makes a TPU VM, runs a command on it, saves the results and deletes it."""

import shlex
import subprocess
from pathlib import Path

import pytest
from fake_tools import ASK, BUCKET, SCRIPTS, Elsewhere, option

pytestmark = pytest.mark.slow  # each test starts a shell and fake tools


def verbs(elsewhere: Elsewhere) -> list[str]:
    """What gcloud was asked to do with machines, in order."""
    words = [call for call in elsewhere.words("gcloud") if call[2] == "tpus"]
    return [call[4] if call[3] == "tpu-vm" else f"queue-{call[4]}" for call in words]


def remote_commands(elsewhere: Elsewhere) -> list[str]:
    calls = [call for call in elsewhere.words("gcloud") if call[4:5] == ["ssh"]]
    assert all(option(call, "--worker") == "all" for call in calls)
    return [option(call, "--command") for call in calls]


def test_a_tpu_vm_is_made_used_and_deleted(elsewhere: Elsewhere) -> None:
    done = elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], "--delete", *ASK)
    assert done.returncode == 0, done.stderr
    assert verbs(elsewhere) == ["create", "scp", "ssh", "ssh", "ssh", "scp", "delete"]
    create, copy, *_, fetch, delete = elsewhere.words("gcloud")
    assert option(create, "--accelerator-type") == "v5litepod-8"
    assert option(create, "--version") == "v2-alpha-tpuv5-lite"
    assert option(copy, "--worker") == "all" and copy[6] == "ladder:adapt_jax.tar.gz"
    assert fetch[5:8] == ["--recurse", "ladder:adapt_jax/runs", "."]
    assert "--quiet" in delete
    install, start, stop = remote_commands(elsewhere)
    assert "install tpu" in install and "gcsfuse" not in install
    for call in elsewhere.words("gcloud"):
        assert option(call, "--zone") == "us-west4-a"


def test_without_delete_it_says_what_goes_on_costing(elsewhere: Elsewhere) -> None:
    done = elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], *ASK)
    assert verbs(elsewhere)[-1] == "scp"
    assert "left running: the TPU VM ladder, about $9.60 an hour" in done.stderr
    assert "gcloud compute tpus tpu-vm delete ladder --zone=us-west4-a" in done.stderr


def test_the_command_reaches_the_workers_word_for_word(elsewhere: Elsewhere) -> None:
    elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], *ASK)
    line = remote_commands(elsewhere)[1].split("cd adapt_jax\n")[1].split(" &\necho")[0]
    assert shlex.split(line) == [".venv/bin/python", "-m", "adapt_jax", *ASK[1:]]


@pytest.mark.parametrize("code", [0, 2, 75])
def test_a_worker_leaves_with_the_code_of_the_command(
    elsewhere: Elsewhere, tmp_path: Path, code: int
) -> None:
    elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], *ASK)
    python = tmp_path / "adapt_jax" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\nexit {code}\n")
    python.chmod(0o755)
    for start in (remote_commands(elsewhere)[1],) * 2:  # and again, with the files of the first
        done = subprocess.run(["bash", "-c", start], cwd=tmp_path, capture_output=True)
        assert done.returncode == code
        assert (tmp_path / "adapt_jax.code").read_text() == f"{code}\n"


def test_an_earlier_command_is_stopped_before_the_next(
    elsewhere: Elsewhere, tmp_path: Path
) -> None:
    elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], *ASK)
    stop = remote_commands(elsewhere)[2]
    with subprocess.Popen(["sleep", "100"]) as earlier:
        (tmp_path / "adapt_jax.pid").write_text(f"{earlier.pid}\n")
        # a zombie can still be signalled: the process is waited for, as a worker's init does
        with subprocess.Popen(["bash", "-c", stop], cwd=tmp_path) as stopping:
            assert earlier.wait(timeout=10) == -15
            assert stopping.wait(timeout=20) == 0
    assert not (tmp_path / "adapt_jax.pid").exists()


def test_all_workers_start_again_when_one_was_asked_to_stop(elsewhere: Elsewhere) -> None:
    elsewhere.when("*adapt_jax ask*", 1)  # what gcloud returns is another worker's code
    elsewhere.when("*cat adapt_jax.code*", 0, "1\n75\n")
    elsewhere.when("*adapt_jax ask*", 75)
    elsewhere.when("*cat adapt_jax.code*", 0, "75\n75\n")
    done = elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], "--delete", *ASK)
    assert done.returncode == 0, done.stderr
    commands = remote_commands(elsewhere)
    assert sum("adapt_jax ask" in command for command in commands) == 3
    assert verbs(elsewhere)[-2:] == ["scp", "delete"]


def test_restarts_have_a_limit(elsewhere: Elsewhere) -> None:
    elsewhere.when("*adapt_jax ask*", 75, always=True)
    elsewhere.when("*cat adapt_jax.code*", 0, "75\n", always=True)
    done = elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], "--max-restarts", "2", *ASK)
    assert done.returncode == 75
    assert "error: stopped after 2 restarts" in done.stderr
    assert sum("adapt_jax ask" in command for command in remote_commands(elsewhere)) == 3


def test_after_a_failure_results_are_fetched_before_the_machine_is_deleted(
    elsewhere: Elsewhere,
) -> None:
    elsewhere.when("*adapt_jax ask*", 2)
    elsewhere.when("*cat adapt_jax.code*", 0, "2\n")
    done = elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], "--delete", *ASK)
    assert done.returncode == 2
    assert verbs(elsewhere)[-2:] == ["scp", "delete"]


@pytest.mark.parametrize(
    "failing", ["*tpu-vm scp --recurse*", "*adapt_jax.pid adapt_jax.code --zone*"]
)
def test_where_results_cannot_be_saved_nothing_is_deleted(
    elsewhere: Elsewhere, failing: str
) -> None:
    elsewhere.when(failing, 1, always=True)
    done = elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], "--delete", *ASK)
    assert done.returncode == 1
    assert "delete" not in verbs(elsewhere)
    assert "error: the results could not be saved, so nothing is deleted" in done.stderr
    assert "once they are safe: gcloud compute tpus tpu-vm delete ladder" in done.stderr


@pytest.mark.parametrize(("failing", "deleted"), [("create", False), ("scp", True)])
def test_a_machine_on_which_nothing_ran_is_deleted_if_it_was_made(
    elsewhere: Elsewhere, failing: str, deleted: bool
) -> None:
    elsewhere.when(f"*tpu-vm {failing}*", 1)
    assert elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], "--delete", *ASK).returncode == 1
    assert ("delete" in verbs(elsewhere)) is deleted
    assert not list(elsewhere.folder.glob("tmp.*"))


def test_a_bucket_is_mounted_on_every_worker_and_flushed_at_the_end(elsewhere: Elsewhere) -> None:
    done = elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], *BUCKET, "--delete", *ASK)
    assert done.returncode == 0, done.stderr
    first = elsewhere.words("gcloud")[0]  # before anything costs
    assert first[1:4] == ["storage", "cp", "README.md"] and first[4].startswith(BUCKET[1])
    assert verbs(elsewhere) == ["create", "scp", "ssh", "ssh", "ssh", "delete"]
    install, _, save = remote_commands(elsewhere)
    assert "--only-dir=ladder my-bucket runs" in install
    assert "fusermount -u adapt_jax/runs" in save


def test_a_bucket_that_is_not_flushed_keeps_the_machine(elsewhere: Elsewhere) -> None:
    elsewhere.when("*fusermount*", 1)
    done = elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], *BUCKET, "--delete", *ASK)
    assert done.returncode == 1 and "delete" not in verbs(elsewhere)


def test_a_bucket_that_cannot_be_written_costs_nothing(elsewhere: Elsewhere) -> None:
    elsewhere.when("gcloud storage*", 1)
    done = elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], *BUCKET, "--delete", *ASK)
    assert done.returncode == 1 and not verbs(elsewhere)


def test_runs_of_every_worker_are_fetched(elsewhere: Elsewhere) -> None:
    arguments = [*SCRIPTS["tpu_vm.sh"][:-1], "v5litepod-16"]
    done = elsewhere.run("tpu_vm.sh", *arguments, *ASK)
    assert done.returncode == 0, done.stderr
    fetched = [call for call in elsewhere.words("gcloud") if "--recurse" in call]
    assert [option(call, "--worker") for call in fetched] == ["0", "1", "2", "3"]
    places = [".", "runs/workers/1", "runs/workers/2", "runs/workers/3"]
    assert [call[7] for call in fetched] == places
    assert "what they have to share needs --bucket" in done.stderr


def test_a_machine_that_is_there_is_used_and_its_results_are_fetched(elsewhere: Elsewhere) -> None:
    elsewhere.when("*install tpu*", 1)
    done = elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], "--reuse", *ASK)
    assert done.returncode == 1
    assert verbs(elsewhere) == ["scp", "ssh", "ssh", "scp"]


def test_a_queued_resource_is_waited_for(elsewhere: Elsewhere) -> None:
    for state in ("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"):
        elsewhere.when("*describe*", 0, state)
    queued = ["--queued", "--spot", "--delete", *BUCKET]
    done = elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], *queued, *ASK)
    assert done.returncode == 0, done.stderr
    begin = ["queue-create", *["queue-describe"] * 3]
    assert verbs(elsewhere) == [*begin, "scp", "ssh", "ssh", "ssh", "queue-delete"]
    create = elsewhere.words("gcloud")[1]
    assert option(create, "--node-id") == "ladder"
    assert option(create, "--runtime-version") == "v2-alpha-tpuv5-lite" and "--spot" in create
    assert "--force" in elsewhere.words("gcloud")[-1]
    assert len(elsewhere.words("sleep")) == 2


def test_a_request_that_fails_is_taken_out_of_the_queue(elsewhere: Elsewhere) -> None:
    elsewhere.when("*describe*", 0, "FAILED")
    done = elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], "--queued", "--delete", *ASK)
    assert done.returncode == 1 and "the queued resource ladder is FAILED" in done.stderr
    assert verbs(elsewhere) == ["queue-create", "queue-describe", "queue-delete"]


@pytest.mark.parametrize(
    ("queued", "gone", "there"), [([], "PREEMPTED", ""), (["--queued"], "SUSPENDED", "ACTIVE")]
)
def test_a_spot_machine_that_was_taken_away_is_made_again(
    elsewhere: Elsewhere, queued: list[str], gone: str, there: str
) -> None:
    if queued:
        elsewhere.when("*describe*", 0, there)
    elsewhere.when("*adapt_jax ask*", 255)
    elsewhere.when("*describe*", 0, gone)
    if queued:
        elsewhere.when("*describe*", 0, there)
    options = ["--spot", "--delete", *BUCKET, *queued]
    done = elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], *options, *ASK)
    assert done.returncode == 0, done.stderr
    done_verbs = [
        verb.removeprefix("queue-") for verb in verbs(elsewhere) if "describe" not in verb
    ]
    once = ["create", "scp", "ssh", "ssh"]
    assert done_verbs == [*once, "delete", *once, "ssh", "delete"]


@pytest.mark.parametrize(
    ("kind", "runtime", "plan"),
    [
        ("v2-8", "tpu-ubuntu2204-base", "4 chips on 1 host(s)"),
        ("v3-32", "tpu-ubuntu2204-base", "16 chips on 4 host(s)"),
        ("v4-32", "tpu-ubuntu2204-base", "16 chips on 4 host(s)"),
        ("v5litepod-16", "v2-alpha-tpuv5-lite", "16 chips on 4 host(s)"),
        ("v5p-8", "v2-alpha-tpuv5", "4 chips on 1 host(s)"),
        ("v6e-256", "v2-alpha-tpuv6e", "256 chips on 64 host(s)"),
        ("tpu7x-16", "v2-alpha-tpu7-ubuntu2404", "8 chips on 2 host(s)"),
    ],
)
def test_runtime_chips_and_hosts_fit_the_type(
    elsewhere: Elsewhere, kind: str, runtime: str, plan: str
) -> None:
    done = elsewhere.run("tpu_vm.sh", "--dry-run", *SCRIPTS["tpu_vm.sh"][:-1], kind, *ASK)
    assert done.returncode == 0, done.stderr
    assert f"# {kind}: {plan}, runtime {runtime}" in done.stdout
    assert f"--version={runtime}" in done.stdout


@pytest.mark.parametrize(
    ("kind", "nearest"),
    [
        ("v5e-8", "v5litepod-8"),
        ("v7x-8", "tpu7x-8"),
        ("v6-8", "v6e-8"),
        ("v5litepod-12", "v5litepod-8"),
        ("v6e-100", "v6e-128"),
        ("v5p-4", "v5p-8"),
        ("v4-33", "v4-32"),
        ("v99", "v5litepod-8"),
        ("v6e", "v6e-8"),
    ],
)
def test_an_unknown_type_is_refused_with_the_nearest(
    elsewhere: Elsewhere, kind: str, nearest: str
) -> None:
    done = elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"][:-1], kind, *ASK)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --type {kind} is not known; the nearest is {nearest} (")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--spot"], "--spot needs --bucket"),
        (["--bucket", "my-bucket"], "--bucket my-bucket: expected gs://BUCKET"),
        (["--bucket", "s3://my-bucket"], "--bucket s3://my-bucket: expected gs://BUCKET"),
        (["--max-restarts", "many"], "--max-restarts many: expected a whole number"),
    ],
)
def test_options_that_lose_results_are_refused(
    elsewhere: Elsewhere, arguments: list[str], message: str
) -> None:
    done = elsewhere.run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], *arguments, *ASK)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {message}")
