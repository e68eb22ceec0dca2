"""Processes that share no disk keep their results in a bucket: killed, they go on from there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_bucket import FakeBucket
from helpers import write_task
from process_groups import Ended, run_group
from tiny_llama import write_tiny_llama

from adapt_jax.utils.bucket import file_system, list_objects

pytest.importorskip("gcsfs", reason="needs adapt-jax[gcs]")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny decoder, a task, and configurations."""
    folder = tmp_path_factory.mktemp("hosts")
    write_tiny_llama(folder / "llama", num_hidden_layers=1)
    common = {"decoder": str(folder / "llama"), "task": write_task(folder / "task", test=7)}
    training = {"steps": 24, "batch_size": 4, "learning_rate": 0.01, "checkpoint_every": 4}
    lora = {"max_new_tokens": 4, "rank": 2, "training": training}
    ladder = {"self_consistency": {"max_new_tokens": 4, "candidates": 3}, "lora": lora}
    for name, content in {
        "task": common["task"],
        "ladder": common | {"methods": ladder},
        "tune": common | {"method": {"name": "lora", **lora}},
    }.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    rows = [json.dumps({"question": f"What is {n} + 2?"}) + "\n" for n in range(5)]
    (folder / "questions.jsonl").write_text("".join(rows))
    return folder


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeBucket]:
    """A bucket that all processes reach, also those that share no disk."""
    one = FakeBucket()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", one.address)
        patch.setenv("ADAPT_JAX_BUCKET_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ADAPT_JAX_PUSH_SECONDS", "0.2")
        file_system.cache_clear()
        yield one
    file_system.cache_clear()
    one.close()


def compare(place: Path, output: str, **more: Any) -> dict[str, Any]:
    return {"do": "compare", "config": str(place / "ladder.yaml"), "output": output, **more}


def tune(place: Path, output: str, **more: Any) -> dict[str, Any]:
    """A job that trains over fsdp, and saves every four steps."""
    files = {"config": str(place / "tune.yaml"), "output": output}
    return {"do": "tune", **files, "mesh": {"data": 1, "fsdp": -1}, **more}


def work(place: Path, output: str) -> list[dict[str, Any]]:
    """The same jobs into the bucket or a folder."""
    adaptation = f"{output}/run/adaptations/lora"
    return [
        compare(place, f"{output}/run"),
        {
            "do": "evaluate",
            "adaptation": adaptation,
            "task": str(place / "task.yaml"),
            "output": f"{output}/evaluated",
        },
        {
            "do": "predict",
            "adaptation": adaptation,
            "source": str(place / "questions.jsonl"),
            "target": f"{output}/answers.jsonl",
        },
        tune(place, f"{output}/whole"),
    ]


def texts(ended: list[Ended]) -> list[Any]:
    return [(one.code, one.error[-1500:], one.report) for one in ended]


@pytest.fixture(scope="module")
def two(place: Path, bucket: FakeBucket) -> FakeBucket:
    """What two processes leave; one is killed in its last job."""
    jobs = [*work(place, "gs://b"), tune(place, "gs://b/killed", kill_at=[1, 15])]
    ended = run_group(place / "group1", 2, *jobs)
    assert [one.code for one in ended] == [75, -9], texts(ended)
    assert all("value" in row for one in ended for row in one.report), texts(ended)
    return bucket


@pytest.fixture(scope="module")
def again(place: Path, two: FakeBucket) -> FakeBucket:
    """Two processes continue; then one is killed among its answers."""
    for name in list(two.objects):  # for another number of processes
        if name.startswith("b/killed/"):
            two.put_object(name.replace("b/killed/", "b/moved/"), two.read(name))
    killed = compare(place, "gs://b/cut", kill_after=[1, "self_consistency", 3])
    ended = run_group(place / "group2", 2, tune(place, "gs://b/killed"), killed)
    assert [one.code for one in ended] == [75, -9], texts(ended)
    return two


@pytest.fixture(scope="module")
def alone(place: Path, again: FakeBucket) -> FakeBucket:
    """One process goes on with what two began, and does the same work in a folder."""
    journal = "b/cut/unfinished/"
    (process_1,) = (name for name in again.objects if "answers.process-1" in name)
    assert process_1.startswith(journal) and again.read(process_1).count(b"\n") >= 3
    jobs = [tune(place, "gs://b/moved"), compare(place, "gs://b/cut")]
    [ended] = run_group(place / "group3", 1, *jobs, *work(place, str(place / "here")))
    assert ended.code == 0 and all("value" in row for row in ended.report), texts([ended])
    return again


def read(bucket: FakeBucket, name: str) -> bytes:
    """A file, through the manifest of its folder."""
    (one,) = list_objects(f"gs://{name}").values()
    return bucket.read(one.name)


def losses(content: bytes) -> list[float]:
    return [json.loads(line)["loss"] for line in content.splitlines()]


def answers(content: bytes) -> list[Any]:
    rows = [json.loads(line) for line in content.splitlines()]
    return [(row.get("id"), row.get("answer"), row.get("correct")) for row in rows]


def test_nothing_but_results_is_left_in_the_bucket(alone: FakeBucket):
    for name in ("b/run", "b/evaluated", "b/whole", "b/killed", "b/moved", "b/cut"):
        left = [one for one in alone.names(name) if "process-" in one or "unfinished" in one]
        assert left == []
    assert "b/answers.jsonl" in alone.objects
    assert not [name for name in alone.objects if name.startswith("b/answers.jsonl.")]
    # the parts of checkpoints that are no more are gone
    assert not [name for name in alone.objects if name.startswith("b/run/.adapt_jax/parts/")]
    whole = [name for name in alone.objects if name.startswith("b/whole/.adapt_jax/parts/")]
    assert {name.split("/")[-2] for name in whole} == {"20", "24"} and len(whole) == 4


def test_results_are_those_of_one_process_in_a_folder(alone: FakeBucket, place: Path):
    for file in ("run/predictions/self_consistency.jsonl", "run/predictions/lora.jsonl"):
        assert answers(read(alone, f"b/{file}")) == answers((place / "here" / file).read_bytes())
    for file in ("evaluated/predictions.jsonl", "answers.jsonl"):
        assert answers(read(alone, f"b/{file}")) == answers((place / "here" / file).read_bytes())
    file = "whole/training/metrics.jsonl"
    ours = losses(read(alone, f"b/{file}"))
    assert ours == pytest.approx(losses((place / "here" / file).read_bytes()), abs=1e-4)


def test_a_killed_training_ends_bitwise_as_the_undisturbed_one(alone: FakeBucket):
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        whole, cut = (read(alone, f"b/{name}/adaptation/{file}") for name in ("whole", "killed"))
        assert cut == whole
    whole, cut = (read(alone, f"b/{name}/training/metrics.jsonl") for name in ("whole", "killed"))
    assert losses(cut) == losses(whole)


def test_another_number_of_processes_goes_on_with_checkpoint_and_answers(
    alone: FakeBucket, place: Path
):
    moved, whole = (
        losses(read(alone, f"b/{name}/training/metrics.jsonl")) for name in ("moved", "whole")
    )
    assert moved[:12] == whole[:12] and moved == pytest.approx(whole, abs=1e-4)
    file = "predictions/self_consistency.jsonl"
    cut = answers(read(alone, f"b/cut/{file}"))
    assert cut == answers((place / "here/run" / file).read_bytes())
