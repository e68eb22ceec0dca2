"""What the steps of a method need: bytes from shapes and the compiler, and what would fit."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adapt_jax.decoders.config import DecoderConfig, LayerConfig, MoEConfig
from adapt_jax.inspection.abstract import count_bytes
from adapt_jax.inspection.accelerators import ACCELERATORS, Accelerator, check_fit
from adapt_jax.inspection.checkpoint import count_parameters
from adapt_jax.inspection.depth import count_by_depth, find_pattern
from adapt_jax.inspection.inspect import count_trained
from adapt_jax.inspection.memory import (
    Measurement,
    choose_depths,
    compile_bytes,
    measure,
)
from adapt_jax.inspection.mesh import read_mesh
from adapt_jax.inspection.programs import build_programs
from adapt_jax.inspection.training_programs import (
    make_training_programs,
    resolve_config,
    trace_tuning,
)
from adapt_jax.inspection.workload import Program, Workload
from adapt_jax.methods.registry import METHODS
from adapt_jax.pretrained.loading import abstract_decoder, get_parameters
from adapt_jax.training.config import TrainingConfig
from adapt_jax.utils.errors import UserError

CONFIG = DecoderConfig("LlamaForCausalLM", 320, 32, 64, 6, 4, 2, 8, 512, tie_embeddings=True)
SMALL = Workload(batch=8, length=64, answer=32, prefix=16, max_concurrent_sequences=8)


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
    one = make_training_programs(CONFIG, method, work, jnp.float32, None)[0]
    many = make_training_programs(CONFIG, method, work, jnp.float32, mesh)[0]
    for part in ("parameters/trained", "optimizer/state"):
        whole, share = count_bytes(one.arguments[part]), count_bytes(many.arguments[part])
        assert whole / 4 <= share <= whole / 4 + 4096 if whole > 4096 else share <= whole
    assert count_bytes(many.arguments["batch/examples"]) < count_bytes(
        one.arguments["batch/examples"]
    )


def test_a_mesh_size_of_minus_one_takes_all_devices_that_are_left():
    mesh, _ = read_mesh("data=-1,fsdp=4")
    assert mesh is not None and dict(mesh.shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    mesh, _ = read_mesh("fsdp=4")
    assert mesh is not None and mesh.size == 4


def test_kinds_of_layers_that_alternate_stay_in_their_order():
    kinds = (*[LayerConfig(window=8)] * 5, LayerConfig())
    config = replace(CONFIG, num_layers=26, layer_configs=(kinds * 5)[:26])
    programs = build_programs(METHODS["prompt_tuning"](), SMALL, jnp.float32, None)
    assert find_pattern(config) == (0, 6) and find_pattern(CONFIG) == (0, 1)
    assert choose_depths(programs, config, programs(config)) == (6, 12)


def test_first_layers_of_another_kind_are_in_both_shallow_decoders():
    """As the dense layers before the experts of DeepSeek-V3."""
    moe = MoEConfig(8, 2, 96, shared_ffn_dim=96)
    kinds = (*[LayerConfig()] * 3, *[LayerConfig(is_moe=True)] * 17)
    config = replace(CONFIG, num_layers=20, layer_configs=kinds, moe=moe)
    assert find_pattern(config) == (3, 1)
    programs = build_programs(METHODS["lora"](), SMALL, jnp.float32, None)
    assert choose_depths(programs, config, programs(config)) == (5, 7)
    whole = get_parameters(abstract_decoder(config)).values()
    assert sum(count_parameters(config).values()) == sum(one.size for one in whole)


def test_parameters_of_a_deep_decoder_are_counted_in_shallow_ones():
    kinds = (*[LayerConfig(window=8)] * 2, LayerConfig())
    repeating = replace(CONFIG, num_layers=24, layer_configs=kinds * 8)
    unlike = replace(CONFIG, num_layers=24, layer_configs=(*kinds * 7, *kinds[::-1]))
    deep = replace(CONFIG, num_layers=24)
    late = replace(CONFIG, num_layers=25, layer_configs=(LayerConfig(window=4), *kinds * 8))
    expected = ((repeating, {3, 6}), (unlike, {24}), (deep, {2, 4}), (CONFIG, {6}), (late, {4, 7}))
    for config, depths in expected:
        asked = set()

        def count(shape: DecoderConfig, asked: set[int] = asked) -> dict[str, int]:
            asked.add(shape.num_layers)
            return {"layers": 7 * shape.num_layers + 5, "windows": len(shape.layer_configs)}

        assert count_by_depth(count, config)["layers"] == 7 * config.num_layers + 5
        assert asked == depths
    # exact for what decoders and methods really hold
    for method in (METHODS["lora"](), METHODS["fine_tuning"](trainable="ffn")):
        trained = trace_tuning(deep, method, jnp.float32).trainable
        whole = sum(leaf.size for leaf in jax.tree.leaves(trained))
        assert count_trained(method, deep) == whole
    one_layer = METHODS["fine_tuning"](trainable=["layers.1", r"layers\.2"])
    expected = trace_tuning(deep, one_layer, jnp.float32).trainable  # layers 1, 2, 20 to 23
    assert count_trained(one_layer, deep) == sum(leaf.size for leaf in jax.tree.leaves(expected))


def test_decoders_too_deep_to_trace_are_told_what_to_do():
    build = lambda config: pytest.fail("traced")  # noqa: E731
    with pytest.raises(UserError, match="1,000 layers: .* --quick shows all that is known"):
        measure(build, replace(CONFIG, num_layers=1000), lambda *_: None)

    def build_growing(config: DecoderConfig) -> list[Program]:
        arguments = {"x": jax.ShapeDtypeStruct((config.num_layers**3,), jnp.float32)}
        return [Program("step", arguments, lambda: pytest.fail("compiled"))]

    with pytest.raises(UserError, match="66 layers that do not repeat"):
        measure(build_growing, replace(CONFIG, num_layers=66), lambda *_: None)


def test_parts_that_only_the_whole_decoder_has_are_compiled_whole():
    programs = build_programs(
        METHODS["fine_tuning"](trainable="layers.5"), SMALL, jnp.float32, None
    )
    assert choose_depths(programs, CONFIG, programs(CONFIG)) == (6,)


def test_what_does_not_fit_names_its_largest_part_and_what_helps():
    programs = build_programs(METHODS["fine_tuning"](), SMALL, jnp.float32, None)(CONFIG)
    measured = Measurement(programs, [100_000_000])
    memory = measured.memory()
    rest = memory.total - memory.parts["activations"] - memory.parts["batch"]
    usable = rest + 30_000_000  # of 8 examples
    little = check_fit(measured, Accelerator("little", usable), "float32", SMALL)
    assert not little["fits"] and little["largest"] == "activations"
    assert little["suggestions"] == ["--batch 2", "--mesh fsdp=4"]
    tight = check_fit(measured, Accelerator("tight", memory.total, 0.75), "float32", SMALL)
    assert tight["fits"] and tight["suggestions"] == ["XLA_PYTHON_CLIENT_MEM_FRACTION=.95"]
    none = check_fit(measured, Accelerator("none", 1000), "float32", SMALL)
    assert not none["fits"] and none["suggestions"] == []


def test_a_smaller_batch_is_suggested_only_where_every_moment_then_fits():
    programs = build_programs(METHODS["lora"](rank=1), SMALL, jnp.float32, None)(CONFIG)
    step, merging = Measurement(programs, [10**9, 0]).moments()
    assert step.total > merging.total

    def suggest(usable: int, temporary: list[int]) -> str:
        device = Accelerator("a device", usable)
        return " ".join(
            check_fit(Measurement(programs, temporary), device, "float32", SMALL)["suggestions"]
        )

    assert suggest(merging.total + 3 * 10**8, [10**9, 0]).startswith("--batch 2 ")
    # the step would fit with fewer examples, but merging knows no batch
    assert "--batch" not in suggest(merging.total - 1, [10**9, 0])
    assert "--batch" not in suggest(merging.total - 1, [0, 0])


def test_frozen_weights_and_caches_in_bfloat16_are_suggested():
    caches = Measurement(
        build_programs(METHODS["few_shot"](), SMALL, jnp.float32, None)(CONFIG), [0, 0, 0]
    )
    narrow = Accelerator("narrow", caches.memory().total - 1)
    assert "--dtype bfloat16" in check_fit(caches, narrow, "float32", SMALL)["suggestions"]


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
    work = Workload(batch=256, length=4096, answer=2048)
    programs = build_programs(METHODS["fine_tuning"](), work, jnp.bfloat16, mesh)
    measured = measure(programs, config, lambda *_: None)
    assert measured.memory().parts["activations"] > 15.75 * 2**30
    found = check_fit(measured, ACCELERATORS[0], "bfloat16", work)
    assert not found["fits"] and found["largest"] == "activations"
    assert found["suggestions"][0].startswith("--batch ")
