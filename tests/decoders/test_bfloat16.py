"""bfloat16 on a CPU: the same numbers as anywhere, and no wider copy of a whole array."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_llama import write_tiny_llama

from adapt_jax.decoders.array_rows import insert_rows, take_rows, write_columns
from adapt_jax.decoders.prefix import Prefix
from adapt_jax.decoders.products import multiply, multiply_grouped
from adapt_jax.pretrained.loading import load_pretrained
from adapt_jax.sampling import compiled
from adapt_jax.sampling.engine import Engine
from adapt_jax.sampling.types import GenerationConfig

DTYPES = (jnp.float32, jnp.bfloat16)


@pytest.fixture(autouse=True, params=["one device", "several"])
def devices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the code takes this for a machine with one CPU device."""
    if request.param == "one device":
        monkeypatch.setattr(jax, "device_count", lambda: 1)
    return request.param


def draw(*shape: int, dtype: Any = jnp.bfloat16) -> jax.Array:
    return jnp.asarray(np.random.default_rng(sum(shape)).standard_normal(shape), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 3])
def test_columns_are_written_from_each_rows_start_and_none_past_the_end(
    dtype: Any, tokens: int
) -> None:
    cache, new = draw(4, 2, 7, 3, dtype=dtype), draw(4, 2, tokens, 3, dtype=dtype)
    starts = [0, 3, 5, 7]
    expected = np.array(cache)
    for row, start in enumerate(starts):
        fit = min(tokens, 7 - start)
        expected[row, :, start : start + fit] = np.array(new)[row, :, :fit]
    written = jax.jit(write_columns)(cache, new, jnp.asarray(starts))
    np.testing.assert_array_equal(np.array(written), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [2, 5])
def test_rows_are_inserted_and_what_lies_beyond_them_stays(dtype: Any, columns: int) -> None:
    old, new = draw(4, 2, 5, 3, dtype=dtype), draw(3, 2, columns, 3, dtype=dtype)
    expected = np.array(old)
    expected[2, :, :columns], expected[0, :, :columns] = np.array(new)[1], np.array(new)[2]
    where, rows = jnp.asarray([2, 0, 4, 9]), jnp.asarray([1, 2, 0, 0])  # 4 and 9: no such slot
    inserted = jax.jit(insert_rows)(old, where, new, rows)
    np.testing.assert_array_equal(np.array(inserted), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_a_table_have_the_gradient_of_indexing(dtype: Any) -> None:
    table, ids = draw(9, 4, dtype=dtype), jnp.asarray([[1, 1, 8], [0, 1, 3]])
    np.testing.assert_array_equal(
        np.array(jax.jit(take_rows)(table, ids)), np.array(table)[np.array(ids)]
    )
    weights = draw(2, 3, 4, dtype=dtype)
    gradient = jax.grad(lambda table: jnp.sum(take_rows(table, ids) * weights))(table)
    expected = jax.grad(lambda table: jnp.sum(table[ids] * weights))(table)
    np.testing.assert_array_equal(np.array(gradient), np.array(expected))


@pytest.mark.parametrize(
    ("equation", "x", "y"),
    [
        ("...i,oi->...o", (2, 3, 16), (5, 16)),
        ("...i,oi->...o", (16,), (5, 16)),
        ("...o,oi->...i", (2, 3, 16), (16, 5)),
        ("...i,...o->io", (2, 3, 4), (2, 3, 5)),
        ("btnu,nur->btnr", (2, 3, 4, 5), (4, 5, 6)),
    ],
)
def test_a_product_is_rounded_once(equation: str, x: Any, y: Any) -> None:
    x, y = draw(*x), draw(*y)
    summed = equation.replace("...i,...o->", "abi,abo->")  # NumPy wants it said what is summed
    exact = np.einsum(summed, np.array(x, np.float64), np.array(y, np.float64))
    found = jax.jit(lambda x, y: multiply(equation, x, y))(x, y)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.array(found, np.float64), exact, rtol=2**-8, atol=1e-6)
    wide = multiply(equation, x, y, jnp.float32)
    assert wide.dtype == jnp.float32
    np.testing.assert_allclose(np.array(wide), exact, rtol=1e-5, atol=1e-5)


def test_a_grouped_product_is_rounded_once() -> None:
    x, kernels, sizes = draw(6, 8), draw(3, 8, 5), np.array([2, 0, 4])
    groups = np.repeat(np.arange(3), sizes)
    exact = np.einsum("si,sio->so", np.array(x, float), np.array(kernels, float)[groups])
    found = multiply_grouped(x, kernels, jnp.asarray(sizes))
    np.testing.assert_allclose(np.array(found, float), exact, rtol=2**-8, atol=1e-6)


def test_sampling_makes_no_wider_copy_of_the_cache_the_weights_or_the_embeddings(
    tmp_path: Path, devices: str
) -> None:
    if devices == "several":
        pytest.skip("such copies are made there")
    write_tiny_llama(tmp_path)
    model = load_pretrained(tmp_path, dtype="bfloat16")
    config = GenerationConfig(temperature=0.7, top_k=5)
    prefixes = [Prefix((tuple(range(3, end)),)) for end in (20, 30)]
    engine = Engine(model, prefixes, config, seed=0)
    decoder, (cache, slots) = (engine.graph, engine.weights), engine._make_slots(6, 40)
    lengths, tokens = np.full(3, 9, np.int32), np.zeros((3, 24), np.int32)
    which = np.zeros(3, np.int32)
    questions = (*decoder, engine.encoded_prefixes, which, tokens, lengths)
    encoded = compiled.encode_questions(*questions)
    steps = (engine.graph, config.sampling, (), engine.weights, engine.encoded_prefixes)
    programs = [
        compiled.decode_chunk.lower(*steps, cache, slots, engine.seed),
        compiled.encode_questions.lower(*questions),
        compiled._insert_into_layer.lower(cache[0], np.arange(3), encoded[0], which),
    ]
    sizes = {x.shape for x in jax.tree.leaves((cache, engine.weights)) if x.ndim > 1}
    for program in programs:
        operations = list_operations(program.compile().as_text())
        for shape in sizes:
            copy = f" = f32[{','.join(map(str, shape))}]"
            assert not [line for line in operations if copy in line], copy


def list_operations(text: str) -> list[str]:
    """The operations of a compiled module that have a result in memory: none inside a fusion."""
    operations, is_fused = [], False
    for line in text.splitlines():
        if line.endswith("{"):
            is_fused = line.startswith(("%fused_computation", "%wrapped_"))
        elif not is_fused and "get-tuple-element(" not in line:
            operations.append(line)
    return operations
