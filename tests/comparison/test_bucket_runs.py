"""Whole commands whose task, decoder and results are in a bucket."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from fake_bucket import FakeBucket
from helpers import fails, write_task
from xla_flags import ONE_DEVICE

from adapt_jax.cli.main import main
from adapt_jax.comparison.compare import Comparison

TRAINED = {"max_new_tokens": 4, "rank": 2, "training": {"steps": 60, "batch_size": 4}}


@pytest.fixture
def inputs(bucket: FakeBucket, tiny_folder: Path, tmp_path: Path) -> FakeBucket:
    """A decoder, a task and its data in the bucket "b"."""
    for file in tiny_folder.iterdir():
        bucket.put_object(f"b/decoders/tiny/{file.name}", file.read_bytes())
    task = write_task(tmp_path / "task")
    for split in ("train", "test"):
        rows = (tmp_path / "task" / f"{split}.jsonl").read_bytes()
        bucket.put_object(f"b/tasks/{split}.jsonl", rows)
        task["source"][split] = f"{split}.jsonl"
    bucket.put_object("b/tasks/sums.yaml", yaml.safe_dump(task))
    return bucket


def forget(tmp_path: Path) -> None:
    """What another machine has not: copies of this one."""
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def test_a_comparison_lives_in_a_bucket(inputs: FakeBucket, tmp_path: Path, capsys):
    run = {
        "decoder": "gs://b/decoders/tiny",
        "task": "sums.yaml",
        "methods": {name: {"max_new_tokens": 4} for name in ("zero_shot", "few_shot")},
    }
    inputs.put_object("b/tasks/run.yaml", yaml.safe_dump(run))
    command = ["compare", "gs://b/tasks/run.yaml", "--output-dir", "gs://b/run", "--quiet"]
    assert main(command) == 0
    assert "results: gs://b/run" in capsys.readouterr().out
    assert "predictions/few_shot.jsonl" in inputs.names("b/run")
    before = inputs.objects["b/run/predictions/few_shot.jsonl"]

    # another machine keeps the finished rungs, and reads the results
    forget(tmp_path)
    assert main([*command, "--methods.few_shot.max_new_tokens", "5"]) == 0
    assert inputs.objects["b/run/predictions/few_shot.jsonl"] != before
    found = Comparison.load("gs://b/run")
    assert [rung.method for rung in found.measured_rungs] == ["zero_shot", "few_shot"]
    capsys.readouterr()
    asked = ["ask", "gs://b/run/adaptations/zero_shot", "What is 2 + 1?"]
    assert main([*asked, "--decoder", "gs://b/decoders/tiny"]) == 0

    # nothing is fetched because a file names it
    forget(tmp_path)
    assert "'gs://b/decoders/tiny' is not on this machine" in fails(capsys, *asked)

    evaluate = ["evaluate", "gs://b/run/adaptations/zero_shot", "gs://b/tasks/sums.yaml", "--quiet"]
    evaluate += ["--decoder", "gs://b/decoders/tiny", "--output-dir", "gs://b/eval"]
    assert main(evaluate) == 0
    assert inputs.names("b/eval") == ["evaluation.json", "predictions.jsonl"]

    predict = ["predict", "gs://b/run/adaptations/zero_shot", "gs://b/tasks/test.jsonl"]
    predict += ["gs://b/out/answers.jsonl", "--decoder", "gs://b/decoders/tiny", "--quiet"]
    assert main(predict) == 0
    assert len(inputs.read("b/out/answers.jsonl").splitlines()) == 6
    capsys.readouterr()
    assert main(predict) == 0
    assert "0 questions answered, 6 kept from before: gs://b/out" in capsys.readouterr().out


def test_a_killed_training_goes_on_from_the_bucket_on_another_machine(
    inputs: FakeBucket, tmp_path: Path
):
    method = {"name": "lora", **TRAINED}
    method["training"] |= {"checkpoint_every": 5, "warmup_steps": 0}
    run = {"decoder": "gs://b/decoders/tiny", "task": "gs://b/tasks/sums.yaml", "method": method}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(run))
    command = [sys.executable, "-m", "adapt_jax", "tune", str(config), "--quiet", "--output-dir"]
    environment = os.environ | {"ADAPT_JAX_PUSH_SECONDS": "0.05", "XLA_FLAGS": ONE_DEVICE}
    process = subprocess.Popen([*command, "gs://b/run"], env=environment)
    manifest = "b/run/.adapt_jax/manifest"
    while process.poll() is None:
        if b"checkpoints/" in inputs.objects.get(manifest, (b"", 0))[0]:
            break
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not any(name.startswith("adaptation/") for name in inputs.names("b/run"))

    forget(tmp_path)
    saved = [
        int(name.split("checkpoints/")[1].split("/")[0])
        for name in json.loads(inputs.read(manifest))
        if "checkpoints/" in name
    ]
    assert max(saved) >= 5
    assert subprocess.run([*command, "gs://b/run"], env=environment).returncode == 0
    # in a process of its own, too: the tests' eight devices round otherwise
    assert subprocess.run([*command, str(tmp_path / "whole")], env=environment).returncode == 0
    one = inputs.read("b/run/adaptation/adapter_model.safetensors")
    assert one == (tmp_path / "whole/adaptation/adapter_model.safetensors").read_bytes()
