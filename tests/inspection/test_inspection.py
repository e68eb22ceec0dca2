"""adapt-jax inspect: what it says without weights, how it measures, and how it refuses."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import fails

from adapt_jax.cli.main import main
from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.inspection.abstract import count_bytes
from adapt_jax.inspection.accelerators import ACCELERATORS, Accelerator, judge
from adapt_jax.inspection.inspect import inspect
from adapt_jax.inspection.memory import (
    Measurement,
    choose_depths,
    compile_bytes,
    find_period,
    measure,
)
from adapt_jax.inspection.mesh import read_mesh
from adapt_jax.inspection.programs import build_programs
from adapt_jax.inspection.training_programs import resolve_config, training_program
from adapt_jax.inspection.workload import Program, Workload
from adapt_jax.methods.base import TuningMethod
from adapt_jax.methods.registry import METHODS
from adapt_jax.pretrained.loading import get_parameters
from adapt_jax.pretrained.saving import save_pretrained
from adapt_jax.training.config import TrainingConfig
from adapt_jax.utils.errors import UserError

CONFIG = DecoderConfig("LlamaForCausalLM", 320, 32, 64, 6, 4, 2, 8, 512, tie_embeddings=True)
SMALL = Workload(batch=8, length=64, answer=32, prefix=16, max_concurrent_sequences=8)
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


@pytest.mark.parametrize("name", ["fine_tuning", "self_consistency"])
def test_memory_of_a_deep_decoder_is_found_from_shallow_ones(name: str):
    programs = build_programs(METHODS[name](), SMALL, jnp.float32, None)
    found = measure(programs, CONFIG, lambda *_: None)
    assert found.depths == (2, 4)
    whole = [compile_bytes(program) for program in programs(CONFIG)[-1:]]
    assert found.temporary is not None and found.temporary[-1:] == pytest.approx(whole, rel=0.02)
    memory = found.memory()
    assert memory.parts["activations"] > 0 and memory.total == sum(memory.parts.values())
    if name == "fine_tuning":
        weights = memory.parts["parameters"]
        assert memory.parts["gradients"] == memory.parts["original"] == weights
        assert weights * 2 <= memory.parts["optimizer"] <= weights * 2 + 64


def test_frozen_weights_are_in_the_dtype_that_is_asked_and_trained_ones_in_float32():
    programs = build_programs(METHODS["lora"](), SMALL, jnp.bfloat16, None)(CONFIG)
    wide = build_programs(METHODS["lora"](), SMALL, jnp.float32, None)(CONFIG)
    assert count_bytes(programs[0].arguments["parameters"]) * 2 == count_bytes(
        wide[0].arguments["parameters"]
    )
    for part in ("parameters/trained", "optimizer/state"):
        assert count_bytes(programs[0].arguments[part]) == count_bytes(wide[0].arguments[part])


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "lion", "sgd"])
def test_a_mesh_divides_what_it_shards(optimizer: str):
    mesh, _ = read_mesh("data=2,fsdp=4")
    method = METHODS["fine_tuning"](training=TrainingConfig(optimizer=optimizer))
    work = replace(SMALL, batch=32)
    one = training_program(CONFIG, method, work, jnp.float32, None)
    many = training_program(CONFIG, method, work, jnp.float32, mesh)
    for part in ("parameters/trained", "optimizer/state"):
        whole, share = count_bytes(one.arguments[part]), count_bytes(many.arguments[part])
        assert whole / 4 <= share <= whole / 4 + 4096 if whole > 4096 else share <= whole
    assert count_bytes(many.arguments["batch/examples"]) < count_bytes(
        one.arguments["batch/examples"]
    )


def test_kinds_of_layers_that_alternate_stay_in_their_order():
    kinds = (*[LayerConfig(window=8)] * 5, LayerConfig())
    config = replace(CONFIG, num_layers=26, layer_configs=(kinds * 5)[:26])
    programs = build_programs(METHODS["prompt_tuning"](), SMALL, jnp.float32, None)
    assert find_period(config) == 6 and find_period(CONFIG) == 1
    assert choose_depths(programs, config, programs(config)) == (6, 12)


def test_parts_that_only_the_whole_decoder_has_are_compiled_whole():
    programs = build_programs(
        METHODS["fine_tuning"](trainable="layers.5"), SMALL, jnp.float32, None
    )
    assert choose_depths(programs, CONFIG, programs(CONFIG)) == (6,)


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


def test_what_does_not_fit_names_its_largest_part_and_what_helps():
    programs = build_programs(METHODS["fine_tuning"](), SMALL, jnp.float32, None)(CONFIG)
    measured = Measurement(programs, [100_000_000])
    memory = measured.memory()
    rest = memory.total - memory.parts["activations"] - memory.parts["batch"]
    usable = rest + 30_000_000  # of 8 examples
    little = judge(measured, Accelerator("little", usable), "float32", SMALL)
    assert not little["fits"] and little["largest"] == "activations"
    assert little["suggestions"] == ["--batch 2", "--mesh fsdp=4"]
    tight = judge(measured, Accelerator("tight", memory.total, 0.75), "float32", SMALL)
    assert tight["fits"] and tight["suggestions"] == ["XLA_PYTHON_CLIENT_MEM_FRACTION=.95"]
    none = judge(measured, Accelerator("none", 1000), "float32", SMALL)
    assert not none["fits"] and none["suggestions"] == []
    caches = Measurement(
        build_programs(METHODS["few_shot"](), SMALL, jnp.float32, None)(CONFIG), [0, 0, 0]
    )
    narrow = Accelerator("narrow", caches.memory().total - 1)
    assert "--dtype bfloat16" in judge(caches, narrow, "float32", SMALL)["suggestions"]


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


def test_merged_kernels_stand_beside_the_decoder_where_a_step_needs_less():
    programs = build_programs(METHODS["lora"](rank=1), SMALL, jnp.float32, None)(CONFIG)
    merged = count_bytes(programs[1].arguments["merged"])
    assert merged == 4 * 6 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    memory = Measurement(programs, [0, 0]).memory()
    assert memory.moment == "merging"
    assert memory.total == count_bytes(programs[1].arguments["parameters"]) + merged


def test_on_a_tpu_a_step_is_whole_and_in_bfloat16_whatever_this_machine_does():
    pytest.importorskip("libtpu")
    mesh, _ = read_mesh("v5e:2x2")
    there, here = resolve_config(TrainingConfig(), mesh), resolve_config(TrainingConfig(), None)
    assert (there.compute_dtype, there.gradient_accumulation_steps) == ("bfloat16", 1)
    assert (here.compute_dtype, here.gradient_accumulation_steps) == ("float32", None)
    given = TrainingConfig(compute_dtype="float32", gradient_accumulation_steps=2)
    assert resolve_config(given, mesh) == given


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (42.47G) exceeds available HBM (15.75G).",
            round(42.47 * 2**30),
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 18.40G of 15.75G hbm. Exceeded hbm capacity by 2.65G.",
            round(18.4 * 2**30) - 40,
        ),
    ],
)
def test_a_compiler_that_runs_out_of_memory_says_how_much_it_needs(message: str, expected: int):
    def refuse(**_: Any) -> None:
        raise jax.errors.JaxRuntimeError(message)

    lowered = SimpleNamespace(compile=refuse)
    program = Program(
        "step", {"parameters": jax.ShapeDtypeStruct((10,), np.float32)}, lambda: lowered
    )
    assert compile_bytes(program) == expected


def test_any_other_refusal_of_the_compiler_is_one_clear_line():
    def refuse(**_: Any) -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: no such thing\nat line 3")

    lowered = SimpleNamespace(compile=refuse)
    program = Program(
        "step", {"parameters": jax.ShapeDtypeStruct((10,), np.float32)}, lambda: lowered
    )
    with pytest.raises(UserError, match="^step: the compiler refuses it: INTERNAL: no such thing$"):
        compile_bytes(program)


def test_what_a_tpu_cannot_even_compile_does_not_fit_and_what_helps_is_said():
    pytest.importorskip("libtpu")
    config = replace(CONFIG, embed_dim=1024, ffn_dim=4096, num_layers=2, context_length=4096)
    mesh, _ = read_mesh("v5e:1x1,fsdp=1")
    work = Workload(batch=64, length=4096, answer=2048)
    programs = build_programs(METHODS["fine_tuning"](), work, jnp.bfloat16, mesh)
    measured = measure(programs, config, lambda *_: None)
    assert measured.memory().parts["activations"] > 15.75 * 2**30
    found = judge(measured, ACCELERATORS[0], "bfloat16", work)
    assert not found["fits"] and found["largest"] == "activations"
    assert found["suggestions"][0].startswith("--batch ")


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


REAL = """
import json, sys
from adapt_jax.cli.main import main
from adapt_jax.utils.cpu import choose_platform
choose_platform()
import adapt_jax.comparison.compare, jax.numpy
from transformers import AutoTokenizer
jax.numpy.zeros(1).block_until_ready()
def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))
idle = status("VmRSS")
assert main(json.loads(sys.argv[1])) == 0
print("measured", status("VmHWM") - idle)
"""


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
    measured = int(alone(tmp_path, "-c", REAL, json.dumps([*command, "--quiet"])).split()[-1])
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
