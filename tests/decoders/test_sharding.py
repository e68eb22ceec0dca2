"""Eight simulated devices give what one gives, and the table of axes is obeyed."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from tiny_llama import write_tiny_llama

from adapt_jax.decoders.attention import causal_mask
from adapt_jax.decoders.prefix import Prefix, SoftPrompt
from adapt_jax.decoders.sharding import (
    array_sharding,
    batch_sharding,
    cache_sharding,
    make_mesh,
    state_shardings,
)
from adapt_jax.pretrained.loading import PretrainedDecoder, get_parameters, load_pretrained
from adapt_jax.pretrained.saving import save_pretrained
from adapt_jax.sampling.engine import Engine, Request
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.utils.cpu import run_by_platform
from adapt_jax.utils.errors import UserError

MESHES = [dict(data=2, fsdp=2, tensor=2), dict(fsdp=8, data=1), dict(data=8), dict(tensor=4)]


@jax.jit(static_argnums=0)
def loss_and_gradient(graphdef: Any, state: nnx.State, tokens: jax.Array) -> Any:
    """Next-token logits [B, T, V], and the gradient of their log-likelihood."""

    def loss(state: nnx.State) -> tuple[jax.Array, jax.Array]:
        decoder = nnx.merge(graphdef, state)
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        mask = causal_mask(jnp.ones_like(tokens))
        hidden, _ = decoder(decoder.embed(tokens), positions, mask)
        logits = decoder.logits(hidden)
        log_p = jax.nn.log_softmax(logits[:, :-1])
        return -jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1).mean(), logits

    (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(state)
    return logits, gradient


def batch() -> np.ndarray:
    return np.random.default_rng(0).integers(3, 320, (8, 12)).astype(np.int32)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_sharded_logits_and_gradients_equal_those_of_one_device(
    sizes: dict[str, int], tmp_path: Path
) -> None:
    folder, mesh = write_tiny_llama(tmp_path, tie_word_embeddings=False), make_mesh(**sizes)
    one, many = load_pretrained(folder), load_pretrained(folder, mesh=mesh)
    assert one.fingerprint == many.fingerprint
    expected = loss_and_gradient(*nnx.split(one.decoder), jnp.asarray(batch()))
    tokens = jax.device_put(batch(), batch_sharding(mesh))
    found = loss_and_gradient(*nnx.split(many.decoder), tokens)
    for left, right in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-4)


@pytest.mark.parametrize("name", ["qwen3_next", "deepseek_v3"])
def test_states_latents_and_experts_on_a_mesh_equal_those_of_one_device(
    name: str, made: Any
) -> None:
    folder, _, one = made(name)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    many = load_pretrained(folder, mesh=mesh)
    expected = loss_and_gradient(*nnx.split(one.decoder), jnp.asarray(batch()))
    found = loss_and_gradient(
        *nnx.split(many.decoder), jax.device_put(batch(), batch_sharding(mesh))
    )
    for left, right in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-4 * max(1, np.abs(left).max()))
    # each question goes on from what its prefix left
    prefixes = (Prefix((tuple(range(5, 12)),)), Prefix(((40, 41),)))
    requests = [Request(str(n), tuple(range(20, 24 + n)), prefix=n % 2) for n in range(4)]
    config = GenerationConfig(max_new_tokens=5)
    texts, others = (
        {
            index: said.token_ids
            for index, _, said in Engine(model, prefixes, config, seed=0, mesh=place).run(requests)
        }
        for model, place in ((one, None), (many, mesh))
    )
    assert texts == others


def test_weights_are_split_as_the_table_says(tiny_folder: Path) -> None:
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    arrays = get_parameters(load_pretrained(tiny_folder, mesh=mesh).decoder)
    assert all(len(array.sharding.device_set) == 8 for array in arrays.values())
    query = arrays["layers", 0, "attention", "query", "kernel"]
    assert query.shape == (32, 32) and query.addressable_shards[0].data.shape == (16, 16)
    down = arrays["layers", 0, "ffn", "down", "kernel"]
    assert down.shape == (32, 64) and down.addressable_shards[0].data.shape == (16, 32)
    embedding = arrays["embedding",]
    assert embedding.addressable_shards[0].data.shape == (160, 16)


def test_saving_from_a_mesh_gathers_the_weights(tiny_folder: Path, tmp_path: Path) -> None:
    sharded = load_pretrained(tiny_folder, mesh=make_mesh(fsdp=4, data=2))
    save_pretrained(sharded, tmp_path / "saved")
    assert load_pretrained(tmp_path / "saved").fingerprint == sharded.fingerprint


def test_shardings_have_the_structure_of_the_state(tiny: PretrainedDecoder) -> None:
    mesh = make_mesh(tensor=2)
    _, state = nnx.split(tiny.decoder)
    moved = jax.device_put(state, state_shardings(state, mesh))
    assert jax.tree.structure(moved) == jax.tree.structure(state)
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(moved))


def test_soft_prompt_and_arrays_without_axes_have_a_place() -> None:
    mesh = make_mesh(data=2, fsdp=4)
    prompt = nnx.state(SoftPrompt(jnp.ones((5, 32))))
    assert state_shardings(prompt, mesh)["embeddings"].get_value().spec == PartitionSpec(
        None, ("fsdp",)
    )
    plain = nnx.state(nnx.Dict(scale=nnx.Param(jnp.ones(3))))
    assert state_shardings(plain, mesh)["scale"].get_value().is_fully_replicated


def test_an_axis_that_does_not_divide_is_replicated() -> None:
    mesh = make_mesh(data=1, fsdp=2, tensor=4)
    spec = array_sharding(("vocab", "embed"), (321, 32), mesh).spec
    assert spec == PartitionSpec(None, ("fsdp",))


@pytest.mark.parametrize(
    "sizes", [dict(fsdp=64, data=1), dict(data=8, fsdp=8), dict(data=2, fsdp=32), dict(tensor=8)]
)
def test_any_sizes_fit_a_slice_of_4_x_4_x_4_chips(sizes: dict[str, int]) -> None:
    """Also those that are no whole axes of the slice, such as 8 x 8."""

    @dataclass(frozen=True)
    class Chip:
        """What a mesh asks of a chip of TPU v5p."""

        id: int
        coords: tuple[int, ...]
        platform: str = "tpu"
        device_kind: str = "TPU v5"
        core_on_chip: int = 0
        process_index: int = 0
        slice_index: int = 0

    chips = [Chip(n, place) for n, place in enumerate(itertools.product(range(4), repeat=3))]
    mesh = make_mesh(**sizes, devices=chips)
    expected = {"data": 64 // 8 if "tensor" in sizes else 1, "fsdp": 1, "tensor": 1} | sizes
    assert dict(mesh.shape) == expected
    assert sorted(chip.id for chip in mesh.devices.flat) == list(range(64))


def test_cached_keys_are_divided_by_rows_and_by_heads_that_divide() -> None:
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    assert cache_sharding((8, 4, 16, 8), mesh).shard_shape((8, 4, 16, 8)) == (2, 2, 16, 8)
    assert cache_sharding((8, 3, 16, 8), mesh).shard_shape((8, 3, 16, 8)) == (2, 3, 16, 8)


def test_a_clash_names_both_axes() -> None:
    with pytest.raises(ValueError, match="'vocab' and 'ffn' both claim mesh axis 'tensor'"):
        array_sharding(("vocab", "ffn"), (8, 8), make_mesh())
    with pytest.raises(ValueError, match="'rows' and 'embed' both claim mesh axis 'fsdp'"):
        array_sharding(("rows", "embed"), (8, 8), make_mesh())


def test_an_unknown_axis_is_named() -> None:
    with pytest.raises(
        ValueError, match="unknown logical axis 'embedd'; LOGICAL_AXIS_RULES has: rows, embed"
    ):
        array_sharding(("embedd",), (8,), make_mesh())


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [({}, (8, 1, 1)), ({"fsdp": 2}, (4, 2, 1)), ({"data": 2, "fsdp": -1, "tensor": 2}, (2, 2, 2))],
)
def test_one_size_is_what_is_left(sizes: dict[str, int], shape: tuple[int, ...]) -> None:
    mesh = make_mesh(**sizes)
    assert isinstance(mesh, Mesh) and mesh.devices.shape == shape
    assert mesh.axis_names == ("data", "fsdp", "tensor")


@pytest.mark.parametrize(
    "sizes", [{"data": 3}, {"fsdp": 3}, {"tensor": 0}, {"data": -1, "fsdp": -1}, {"fsdp": -2}]
)
def test_sizes_that_do_not_fit_the_devices_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(UserError, match="does not fit 8 devices"):
        make_mesh(**sizes)


def test_a_mesh_of_some_devices() -> None:
    assert make_mesh(tensor=2, devices=jax.devices()[:2]).size == 2


def test_a_single_cpu_device_runs_its_own_function_unless_it_compiles_for_another_platform(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find_functions(platform: str) -> list[str]:
        function = jax.jit(lambda x: run_by_platform(jnp.sin, jnp.cos, x))
        text = function.trace(1.0).lower(lowering_platforms=(platform,)).as_text()
        return [name for name in ("cosine", "sine") if f"stablehlo.{name} " in text]

    assert find_functions("cpu") == ["cosine"]  # eight devices
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert {name: find_functions(name) for name in ("cpu", "tpu", "cuda")} == {
        "cpu": ["sine"],
        "tpu": ["cosine"],
        "cuda": ["cosine"],
    }
