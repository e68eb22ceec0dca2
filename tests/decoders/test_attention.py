"""Attention against its formula, however many queries a key/value head has."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adapt_jax.decoders.attention import attend
from adapt_jax.utils.cpu import FEW_QUERIES


def attend_by_formula(
    queries: np.ndarray, blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Row by row and head by head; queries are [B, 1, N, H]."""
    rows, _, heads, size = queries.shape
    group = heads // blocks[0][0].shape[-3]
    out = np.zeros(queries.shape)
    for row in range(rows):
        for head in range(heads):
            keys, values = [], []
            for block_keys, block_values, mask in blocks:
                own = block_keys.ndim == 4
                visible = mask[row, 0] if own else mask
                at = (row, head // group) if own else (head // group,)
                keys.append(block_keys[at][visible])
                values.append(block_values[at][visible])
            scores = np.concatenate(keys) @ queries[row, 0, head] * size**-0.5
            weights = np.exp(scores - scores.max())
            out[row, 0, head] = weights @ np.concatenate(values) / weights.sum()
    return out


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("with_prefix", [False, True])
@pytest.mark.parametrize("group", [1, 2, 3, FEW_QUERIES - 1, FEW_QUERIES, 9])
def test_a_decoding_step_attends_by_the_formula(
    group: int, with_prefix: bool, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    draws = np.random.default_rng(group)
    rows, kv_heads, size, columns, prefix = 3, 2, 8, 11, 5
    draw = lambda *shape: draws.standard_normal(shape)  # noqa: E731
    queries = draw(rows, 1, kv_heads * group, size)
    length = np.array([0, 4, 10])
    own_mask = (np.arange(columns) <= length[:, None])[:, None]
    own = (rows, kv_heads, columns, size)
    blocks = [(draw(*own), draw(*own), own_mask)]
    if with_prefix:
        shared = (kv_heads, prefix, size)
        blocks.insert(0, (draw(*shared), draw(*shared), np.arange(prefix) < 4))
    arrays = [tuple(jnp.asarray(one) for one in block) for block in blocks]
    found = jax.jit(lambda queries, blocks: attend(queries, blocks))(
        jnp.asarray(queries, jnp.float32),
        [(k.astype(jnp.float32), v.astype(jnp.float32), mask) for k, v, mask in arrays],
    )
    np.testing.assert_allclose(np.array(found), attend_by_formula(queries, blocks), atol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_keys_that_no_query_sees_change_nothing_however_high_they_would_score(dtype: Any) -> None:
    draws = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(draws.standard_normal(shape), dtype)  # noqa: E731
    rows, kv_heads, size, columns, prefix = 2, 2, 8, 3, 6
    queries = draw(rows, 1, 2 * kv_heads, size)
    keys, values = draw(kv_heads, prefix, size), draw(kv_heads, prefix, size)
    visible = np.array([False, True, True, False, True, False])
    own_mask = jnp.ones((rows, 1, columns), bool)
    own = (draw(rows, kv_heads, columns, size), draw(rows, kv_heads, columns, size), own_mask)
    # keys along the queries score thousands, and the power of what is seen would be 0 beside them
    loud = jnp.broadcast_to(1e4 * queries[0, 0, ::2][:, None], keys.shape)
    hidden_keys = jnp.where(visible[:, None], keys, loud)
    attend_all = jax.jit(lambda *blocks: attend(queries, list(blocks)))
    found = attend_all((hidden_keys, values, jnp.asarray(visible)), own)
    expected = attend_all((keys[:, visible], values[:, visible], None), own)
    tolerance = 1e-6 if dtype == jnp.float32 else 2e-2
    np.testing.assert_allclose(
        np.asarray(found, np.float32), np.asarray(expected, np.float32), atol=tolerance
    )
