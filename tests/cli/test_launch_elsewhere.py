"""The launch scripts of other machines, held against fake tools that record what they are asked."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow  # each test starts a shell and fake tools
ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("gcloud", "xpk", "kubectl", "sbatch", "sky", "docker", "git", "sleep", "srun", "scontrol")
# A fake tool writes its words into a file of their own, and its standard input beside it. A rule is
# a file of a pattern, an exit code and what to print; the first rule that fits is used up.
FAKE = r"""#!/usr/bin/env python3
import fnmatch, json, pathlib, sys
folder = pathlib.Path(__file__).resolve().parent.parent
words = [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]
stdin = sys.stdin.read() if words[0] in ("kubectl", "docker") else ""
files = [pathlib.Path(w).read_text() for w in words if words[0] == "sky" and "adapt_jax_job" in w]
with open(folder / "calls", "a") as calls:
    calls.write(json.dumps({"words": words, "stdin": stdin, "files": files}) + "\n")
rules = json.loads((folder / "rules").read_text())
for rule in rules:
    if fnmatch.fnmatchcase(" ".join(words), rule[0]):
        if rule[3]:
            rules.remove(rule)
            (folder / "rules").write_text(json.dumps(rules))
        print(rule[2], end="")
        sys.exit(rule[1])
"""
SCRIPTS = {
    "tpu_vm.sh": ["--name", "ladder", "--zone", "us-west4-a", "--type", "v5litepod-8"],
    "gke.sh": [
        *("--name", "pod", "--image", "r/adapt_jax:tpu", "--accelerator", "tpu-v6e-slice"),
        *("--topology", "4x8", "--bucket", "gs://my-bucket/pod"),
    ],
    "xpk.sh": [
        *("--name", "pod", "--cluster", "c", "--zone", "us-east5-b", "--type", "v6e-32"),
        *("--image", "r/adapt_jax:tpu", "--storage", "results"),
    ],
    "slurm.sh": ["--name", "ladder", "--time", "4:00:00"],
    "skypilot.sh": ["--name", "ladder", "--accelerators", "L4:1", "--bucket", "s3://my-bucket/l"],
    "container.sh": ["--target", "tpu", "--image", "r/adapt_jax:tpu"],
}
ASK = ["--", "ask", "runs/a", 'It\'s 2 + 3; what is "$HOME" `really`?\\n']
BUCKET = ["--bucket", "gs://my-bucket/ladder"]


class Elsewhere:
    """Runs launch scripts in a checkout whose tools are fakes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rules = folder, []  # type: tuple[Path, list[list[Any]]]
        self.checkout = folder / "checkout"
        shutil.copytree(ROOT / "launch", self.checkout / "launch")
        tools = folder / "tools"
        tools.mkdir()
        (tools / "fake").write_text(FAKE)
        (tools / "fake").chmod(0o755)
        for tool in TOOLS:
            (tools / tool).symlink_to("fake")
        self.environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
        self.environment |= {"TMPDIR": str(folder)}

    def when(self, pattern: str, code: int = 0, output: str = "", always: bool = False) -> None:
        """Tools that are asked for ``pattern`` print and exit so: once, in the order of rules."""
        self.rules.append([pattern, code, output, not always])

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "rules").write_text(json.dumps(self.rules))
        (self.folder / "calls").unlink(missing_ok=True)
        command = ["bash", str(self.checkout / "launch" / script), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=self.environment
        )

    def calls(self, tool: str = "") -> list[dict[str, Any]]:
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        calls = [json.loads(line) for line in lines]
        return [call for call in calls if call["words"][0] == tool or not tool]

    def words(self, tool: str = "") -> list[list[str]]:
        return [call["words"] for call in self.calls(tool)]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    return Elsewhere(tmp_path)


def option(words: list[str], name: str) -> str:
    """The value of an option, written with = or as the next word."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == name:
            return following
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    raise AssertionError(f"{name} is not in {words}")


# every script


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_says_what_goes_on_costing_and_runs_no_tool(
    elsewhere: Elsewhere, script: str
) -> None:
    done = elsewhere.run(script, "--dry-run", *SCRIPTS[script], *ASK)
    assert done.returncode == 0, done.stderr
    assert "left running" in done.stdout
    assert not elsewhere.calls()
    assert not list(elsewhere.folder.glob("tmp*")) and not (elsewhere.checkout / "runs").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_every_option(elsewhere: Elsewhere, script: str) -> None:
    done = elsewhere.run(script, "--help")
    assert done.returncode == 0
    text = (ROOT / "launch" / script).read_text()
    found = re.search(r'^parse_options "(.*?)" "(.*?)"', text, re.MULTILINE)
    assert found is not None
    options = " ".join(found.groups()).split()
    assert options and all(f"--{name}" in done.stdout for name in [*options, "dry-run", "help"])


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_missing_tool_is_named(elsewhere: Elsewhere, script: str, tmp_path: Path) -> None:
    tools = tmp_path / "few"
    tools.mkdir()
    for tool in ("bash", "dirname", "basename", "rm", "awk", "sed", "mktemp", "cat"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    elsewhere.environment["PATH"] = str(tools)
    done = elsewhere.run(script, *SCRIPTS[script], *ASK)
    assert done.returncode == 2
    assert re.search(r"^error: \w+ is not installed", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nome", "x"], "unknown option --nome"),
        (["compare"], "expected -- before the command, found compare"),
    ],
)
def test_a_wrong_option_is_named_in_one_line(
    elsewhere: Elsewhere, script: str, arguments: list[str], message: str
) -> None:
    done = elsewhere.run(script, *SCRIPTS[script], *arguments)
    assert done.returncode == 2
    assert done.stderr == f"error: {message} (launch/{script} --help)\n"
    assert done.stdout == ""


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "container.sh"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no adapt-jax command"),
        (["--"], "no adapt-jax command"),
        (["--", "compare", "c.yaml", "--output-dir", "out"], "--output-dir out: expected a folder"),
        (["--", "tune", "c.yaml", "--output-dir=runs/../x"], "--output-dir runs/../x: expected"),
        (["--name", "My_job", *ASK], "--name My_job: expected at most 40 of"),
        (["--name", *ASK], "--name needs a value"),
    ],
)
def test_a_wrong_command_is_refused(
    elsewhere: Elsewhere, script: str, arguments: list[str], message: str
) -> None:
    done = elsewhere.run(script, *SCRIPTS[script], *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1
    assert not elsewhere.calls()


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_script_needs_is_asked_for(elsewhere: Elsewhere, script: str) -> None:
    arguments = SCRIPTS[script]
    for place in range(0, len(arguments), 2):
        fewer = arguments[:place] + arguments[place + 2 :]
        done = elsewhere.run(script, *fewer, *ASK)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {arguments[place]} is missing")


# TPU VM


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


# GKE


def test_the_job_set_starts_all_hosts_again_together(elsewhere: Elsewhere) -> None:
    done = elsewhere.run("gke.sh", *SCRIPTS["gke.sh"], "--spot", *ASK)
    assert done.returncode == 0, done.stderr
    (call,) = elsewhere.calls("kubectl")
    assert call["words"] == ["kubectl", "apply", "--filename", "-"]
    manifest = yaml.safe_load(call["stdin"])
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (8, 8, 0)
    policy = manifest["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 100
    assert policy["rules"] == [
        {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    final = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert final["containerName"] == container["name"]
    assert (final["operator"], final["values"]) == ("NotIn", [75, 137, 143])
    assert container["command"] == ["adapt-jax"] and container["args"] == ASK[1:]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "4x8",
        "cloud.google.com/gke-spot": "true",
    }
    assert job["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount == {"name": volume["name"], "mountPath": "/adapt_jax/runs"}
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "my-bucket"
    assert "only-dir=pod" in volume["csi"]["volumeAttributes"]["mountOptions"]


@pytest.mark.parametrize(
    ("accelerator", "topology", "hosts", "chips"),
    [
        ("tpu-v5-lite-podslice", "2x4", 1, 8),
        ("tpu-v5-lite-podslice", "1x1", 1, 1),
        ("tpu-v5p-slice", "2x2x1", 1, 4),
        ("tpu-v5p-slice", "4x4x4", 16, 4),
        ("tpu7x", "2x2x2", 2, 4),
    ],
)
def test_hosts_and_chips_follow_the_topology(
    elsewhere: Elsewhere, accelerator: str, topology: str, hosts: int, chips: int
) -> None:
    shape = ["--accelerator", accelerator, "--topology", topology]
    elsewhere.run("gke.sh", *SCRIPTS["gke.sh"], *shape, *ASK)
    job = yaml.safe_load(elsewhere.calls("kubectl")[0]["stdin"])["spec"]["replicatedJobs"][0]
    spec = job["template"]["spec"]
    assert spec["parallelism"] == hosts
    limits = spec["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"google.com/tpu": chips}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--accelerator", "tpu-v6e"],
            "--accelerator tpu-v6e is not known; the nearest is",
        ),
        (["--accelerator", "v7x"], "--accelerator v7x is not known; the nearest is tpu7x"),
        (["--topology", "4x4x4"], "--topology 4x4x4: tpu-v6e-slice has topologies such as 4x4"),
        (["--topology", "32"], "--topology 32: tpu-v6e-slice has topologies such as 4x4"),
    ],
)
def test_a_wrong_slice_is_refused(elsewhere: Elsewhere, arguments: list[str], message: str) -> None:
    done = elsewhere.run("gke.sh", *SCRIPTS["gke.sh"], *arguments, *ASK)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {message}")


def test_xpk_starts_all_hosts_again_together(elsewhere: Elsewhere) -> None:
    done = elsewhere.run("xpk.sh", *SCRIPTS["xpk.sh"], "--project", "p", *ASK)
    assert done.returncode == 0, done.stderr
    (words,) = elsewhere.words("xpk")
    assert words[1:3] == ["workload", "create"]
    expected = {
        "--workload": "pod",
        "--cluster": "c",
        "--zone": "us-east5-b",
        "--project": "p",
        "--tpu-type": "v6e-32",
        "--docker-image": "r/adapt_jax:tpu",
        "--storage": "results",
        "--max-restarts": "100",
        "--restart-on-exit-codes": "75",
    }
    assert {name: option(words, name) for name in expected} == expected
    inside = option(words, "--command")
    assert shlex.split(inside)[-len(ASK) :] == ["adapt-jax", *ASK[1:]]
    assert "mountpoint -q runs" in inside


# SLURM


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
    python.write_text(f'#!/bin/sh\necho "$*" $JAX_LOCAL_DEVICE_IDS >seen\nexit {code}\n')
    srun = elsewhere.folder / "tools" / "srun"
    srun.unlink()
    srun.write_text('#!/bin/sh\nwhile [ "$1" != bash ]; do shift; done\nexec "$@"\n')
    for file in (python, srun):
        file.chmod(0o755)
    (elsewhere.checkout / "runs").mkdir()
    (elsewhere.folder / "rules").write_text("[]")
    settings = {"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": str(restarts)}
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
    assert seen == "-m adapt_jax ask runs/a 2 + 3? 0,1,2,3\n"
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


# SkyPilot


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


# containers


@pytest.mark.parametrize("target", ["cuda", "tpu"])
def test_a_container_holds_the_last_commit_and_nothing_else(
    elsewhere: Elsewhere, target: str
) -> None:
    elsewhere.when("git archive*", 0, "the commit")
    arguments = ["--target", target, "--image", f"r/adapt_jax:{target}", "--push"]
    done = elsewhere.run("container.sh", *arguments)
    assert done.returncode == 0, done.stderr
    build, push = elsewhere.calls("docker")
    assert build["stdin"] == "the commit" and build["words"][-1] == "-"
    assert option(build["words"], "--target") == target
    assert option(build["words"], "--file") == "launch/Dockerfile"
    assert push["words"] == ["docker", "push", f"r/adapt_jax:{target}"]
    assert f"FROM base AS {target}\n" in (ROOT / "launch" / "Dockerfile").read_text()


def test_an_unknown_container_is_refused(elsewhere: Elsewhere) -> None:
    done = elsewhere.run("container.sh", "--target", "gpu", "--image", "x")
    assert done.returncode == 2 and "--target gpu: expected cuda or tpu" in done.stderr
