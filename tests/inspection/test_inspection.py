"""adapt-jax inspect: what it says without weights, how it measures, and how it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import fails

from adapt_jax.cli.main import main
from adapt_jax.inspection.inspect import inspect
from adapt_jax.methods.base import TuningMethod
from adapt_jax.methods.registry import METHODS
from adapt_jax.pretrained.loading import get_parameters
from adapt_jax.pretrained.saving import save_pretrained
from adapt_jax.utils.errors import UserError
from benchmarks.inspection import REAL

SIZES = ("--batch", 8, "--length", 64, "--prefix", 16, "--max-concurrent-sequences", 8)


def inspect_json(capsys: pytest.CaptureFixture, *arguments: object) -> dict[str, Any]:
    """What the command says as JSON."""
    assert main(["inspect", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_folder_with_weights_is_read_from_its_headers(tiny_folder: Path, tiny: Any, capsys):
    found = inspect_json(capsys, tiny_folder, "--quick")
    total = sum(array.size for array in get_parameters(tiny.decoder).values())
    assert found["family"] == "LlamaForCausalLM" and found["layers"] == 2
    assert sum(found["parameters"].values()) == 2 * found["parameters"]["total"] == 2 * total
    assert found["stored"] == {
        "dtype": "float32",
        "quantization": None,
        "bytes": 4 * total,
        "weights": True,
        "missing_files": [],
    }
    assert found["tokenizer"] and "memory" not in found
    assert found["trained_parameters"]["fine_tuning"] == total
    assert found["trained_parameters"]["prompt_tuning"] == 20 * 32


def test_a_folder_without_weights_says_so(shared: Path, capsys):
    folder = shared / "data" / "hf_checkpoints" / "llama-3.2-3b"
    found = inspect_json(capsys, folder, "--quick")
    assert found["parameters"]["total"] == 3_212_749_824 and not found["tokenizer"]
    assert found["stored"]["bytes"] == 2 * 3_212_749_824 and found["stored"]["dtype"] == "bfloat16"
    assert len(found["stored"]["missing_files"]) == 254
    assert main(["inspect", str(folder), "--quick"]) == 0
    shown = capsys.readouterr().out
    assert "the weights are absent: embed_tokens.safetensors and 253 more" in shown
    assert "3,212,749,824" in shown and "context 131,072 tokens" in shown


def test_an_index_that_lacks_a_tensor_is_refused(shared: Path, tmp_path: Path, capsys):
    source = shared / "data" / "hf_checkpoints" / "qwen3-1.7b"
    index = json.loads((source / "model.safetensors.index.json").read_text())
    del index["weight_map"]["model.layers.3.mlp.up_proj.weight"]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    said = fails(capsys, "inspect", tmp_path, "--quick")
    assert "has no tensor model.layers.3.mlp.up_proj.weight" in said


def test_the_whole_answer_as_json(tiny_folder: Path, capsys):
    found = inspect_json(capsys, tiny_folder, "--method", "lora", "--method.rank", 4, *SIZES)
    assert set(found["memory"]) == {"lora"} and found["devices"] == 1
    lora = found["memory"]["lora"]
    assert lora["total_bytes"] == sum(lora["bytes"].values())
    assert lora["bytes"]["gradients"] == 4 * found["trained_parameters"]["lora"]
    assert lora["compiled_layers"] == [2] and lora["largest"] == "process"  # so small a decoder
    assert found["imported_bytes"] > 50e6
    devices = [verdict["device"] for verdict in lora["verdicts"]]
    assert "TPU v5e (16 GB)" in devices and "T4 (16 GB)" in devices and len(devices) == 10
    assert all(verdict["fits"] for verdict in lora["verdicts"])


def test_the_table_is_printed(tiny_folder: Path, capsys):
    arguments = ["inspect", tiny_folder, "--method", "prompt_tuning", *SIZES]
    assert main([str(argument) for argument in arguments]) == 0
    shown = capsys.readouterr().out
    assert "activations" in shown and "A100 (40 GB)" in shown and "fits" in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--method", "promt_tuning"], "did you mean 'prompt_tuning'?"),
        (["--method", "lora", "--method.rnk", "3"], "unknown key 'rnk'; did you mean 'rank'?"),
        (["--method.rank", "3"], "expected one --method"),
        (["--rank", "3"], "Unknown option: --rank"),
        (["--mesh", "dat=2"], "unknown axis 'dat'; did you mean 'data'?"),
        (["--mesh", "data=two"], "expected a whole number after data="),
        (["--mesh", "fsdp=16"], "asks for 16 devices, this machine has 8"),
        (["--mesh", "v5x:2x4"], "unknown topology 'v5x:2x4'"),
        (["--mesh", "v5e"], "unknown topology 'v5e'"),
        (["--dtype", "bfloat"], "did you mean 'bfloat16'?"),
        (["--batch", "0"], 'Invalid value "0" for --batch. Must be >= 1'),
        (["--length", "8", "--answer", "8"], "so that a question is left"),
        (["--length", "600"], "the context holds 512"),
        (["--batch", "4", "--mesh", "data=2,fsdp=4", "--length", "256"], "pack into 4 rows of 256"),
    ],
)
def test_mistakes_are_one_clear_line(arguments: list[str], expected: str, tiny_folder, capsys):
    assert expected in fails(capsys, "inspect", tiny_folder, *arguments)


def test_a_folder_without_config_is_one_clear_line(tmp_path: Path, capsys):
    assert "no config.json" in fails(capsys, "inspect", tmp_path)


def test_a_folder_with_pickles_alone_or_with_half_its_files_is_refused(
    tiny: Any, tiny_folder: Path, tmp_path: Path, capsys
):
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_folder, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    said = fails(capsys, "inspect", pickled, "--quick")
    assert "pytorch_model.bin are never opened" in said
    save_pretrained(tiny, tmp_path / "half", max_shard_size="60KB")
    next((tmp_path / "half").glob("model-00002*")).unlink()
    said = fails(capsys, "inspect", tmp_path / "half", "--quick")
    assert "1 of 3 files of weights are missing: model-00002-of-00003.safetensors" in said


def test_options_of_a_training_count(tiny_folder: Path, capsys):
    def total(*options: object) -> dict[str, int]:
        found = inspect_json(capsys, tiny_folder, "--method", "fine_tuning", *SIZES, *options)
        return found["memory"]["fine_tuning"]["bytes"]

    plain = total()
    parted = total("--method.training.gradient_accumulation_steps", 4)
    assert parted["activations"] < plain["activations"]
    validated = total("--method.training.validate_every", 5)
    assert validated["best"] == plain["gradients"]
    assert validated["checkpoint"] == pytest.approx(3 * plain["gradients"], rel=1e-3)
    assert "best" not in plain


def test_a_method_that_needs_options_is_counted_only_when_it_is_chosen(
    tiny_folder: Path, monkeypatch
):
    class Demanding(BitFitLike):
        needed: int

    list(METHODS)  # the built-in methods register themselves first
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    METHODS.register("demanding")(Demanding)
    assert "demanding" not in inspect(tiny_folder, ["lora"]).trained
    chosen = inspect(tiny_folder, ["demanding"], overrides={"needed": 1})
    assert chosen.trained["demanding"] == 5 * 32  # two norms in each of two layers, and the last
    with pytest.raises(UserError, match="the key 'needed' is missing"):
        inspect(tiny_folder, ["demanding"])


class BitFitLike(TuningMethod):
    """Trains the norms."""

    def trainable_filter(self, tuned: Any) -> Any:
        return lambda path, _: path[-1] == "scale"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system tells no memory")
def test_the_estimate_is_what_a_real_run_reaches(make_tiny_llama: Any, tmp_path: Path):
    """Resident memory at its highest of `adapt-jax tune`, compiling included, within 15 %."""
    decoder = make_tiny_llama(
        tmp_path / "decoder",
        hidden_size=288,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=48,
    )
    with (tmp_path / "rows.jsonl").open("w") as rows:
        for number in range(72):
            row = {"question": str(number % 10) * 126, "answer": str(number % 7) * 126}
            rows.write(json.dumps(row) + "\n")
    template = {
        "question": "{question}A",
        "answer": "{answer}",
        "answer_with_reasoning": "{reasoning}{answer}",
    }
    config = {
        "decoder": str(decoder),
        "task": {
            "name": "digits",
            "source": {"name": "jsonl", "path": str(tmp_path / "rows.jsonl")},
            "template": template | {"stop": ["AA"]},
            "splits": {"train": 64, "test": 8},
        },
        "method": {"name": "prompt_tuning", "training": {"steps": 3, "batch_size": 16}},
    }
    (tmp_path / "tune.yaml").write_text(json.dumps(config))
    command = ["tune", str(tmp_path / "tune.yaml"), "--output-dir", str(tmp_path / "out")]
    measured = int(alone(tmp_path, "-c", REAL, *command, "--quiet").split()[-1])
    method, sizes = "prompt_tuning", ("--batch", "16", "--length", "255", "--answer", "127")
    inspect = ("inspect", str(decoder), "--method", method, *sizes, "--json")
    found = json.loads(alone(tmp_path, "-m", "adapt_jax", *inspect))["memory"][method]
    assert found["total_bytes"] == pytest.approx(measured, rel=0.15)


def alone(folder: Path, *arguments: str) -> str:
    """What a fresh interpreter prints, as a user starts it.

    In this process, where other tests freed memory, a tokenizer would seem to take none.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_signal_ends_it_at_once_while_it_compiles(tiny_folder: Path):
    command = ["-m", "adapt_jax", "inspect", str(tiny_folder), "--method", "fine_tuning"]
    process = subprocess.Popen(
        [sys.executable, *command],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": ""},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any("training step, 2 layers" in line for line in process.stdout)
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM  # and not that of one to start again
    finally:
        process.kill()


def test_one_cpu_plays_as_many_devices_as_the_mesh_asks_for(tiny_folder: Path, tmp_path: Path):
    asked = ("inspect", str(tiny_folder), "--mesh", "data=2,fsdp=4", "--quick")
    assert "fine_tuning" in alone(tmp_path, "-m", "adapt_jax", *asked)


def test_a_batch_that_the_mesh_cannot_share_is_spelled_out(tiny_folder: Path, capsys):
    said = fails(
        capsys, "inspect", tiny_folder, "--mesh", "data=2,fsdp=4", "--batch", 4, "--length", 256
    )
    assert "data=2 x fsdp=4 makes 8 devices" in said and "at least 8 examples" in said


def test_a_topology_of_another_size_is_refused(tiny_folder: Path, capsys):
    pytest.importorskip("libtpu")
    said = fails(capsys, "inspect", tiny_folder, "--mesh", "v5e:2x4,data=2,fsdp=2")
    assert "data x fsdp x tensor = 2 x 2 x 1 = 4, but there are 8 devices of v5e:2x4" in said


def test_without_libtpu_the_extra_is_named(tiny_folder: Path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "the `tpu` extra" in fails(capsys, "inspect", tiny_folder, "--mesh", "v5e:2x4")
