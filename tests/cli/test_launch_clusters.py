"""launch/gke.sh and launch/xpk.sh start jobs on TPU slices of a cluster."""

import shlex

import pytest
import yaml
from fake_tools import ASK, SCRIPTS, Elsewhere, option

pytestmark = pytest.mark.slow  # each test starts a shell and fake tools


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
        "--termination-grace-period-seconds": "120",
    }
    assert {name: option(words, name) for name in expected} == expected
    inside = option(words, "--command")
    # the shell that XPK sends SIGTERM to becomes the command
    assert shlex.split(inside)[-len(ASK) - 1 :] == ["exec", "adapt-jax", *ASK[1:]]
    assert "mountpoint -q runs" in inside
