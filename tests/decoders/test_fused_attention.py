"""The accelerators' attention kernels against the einsum form: values and gradients, odd sizes."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adapt_jax.decoders.attention import PackedRows, attend, sliding_window_masks
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.execution import UNROLLED, Execution
from adapt_jax.decoders.fused_attention import FusedAttention, choose_fused_attention
from adapt_jax.decoders.sharding import make_mesh
from adapt_jax.decoders.splash_attention import _choose_block
from adapt_jax.decoders.visible_keys import VisibleKeys, encode_queries


def pack_segments(rows: int, tokens: int) -> jax.Array:
    """Rows of several segments of different lengths, with padding at the end."""
    segments = np.zeros((rows, tokens), np.int32)
    for row in range(rows):
        ends = np.sort(np.random.default_rng(row).choice(np.arange(1, tokens - 5), 3, False))
        for number, (start, stop) in enumerate(zip([0, *ends], [*ends, tokens - 5], strict=True)):
            segments[row, start:stop] = number + 1
    return jnp.asarray(segments)


def positions_of(rows: PackedRows, prefix: int) -> jax.Array:
    return jnp.arange(rows.segments.shape[1]) - rows.starts + prefix


def einsum_form(rows, window, softcap, queries, keys, values, prefix_keys, prefix_values):
    length = prefix_keys.shape[1]
    positions, mask = positions_of(rows, length), rows.mask
    masks = [None, mask]
    if window is not None:
        own = (positions, mask)
        masks = sliding_window_masks(window, [(jnp.arange(length), None), own], positions)
    blocks = [(prefix_keys, prefix_values, masks[0]), (keys, values, masks[1])]
    return attend(queries, blocks if length else blocks[1:], None, softcap)


def draw_inputs(rows: int, tokens: int, prefix: int, heads: int, kv_heads: int, size: int):
    shapes = [
        (rows, tokens, heads, size),
        (rows, kv_heads, tokens, size),
        (rows, kv_heads, tokens, size),
        (kv_heads, prefix, size),
        (kv_heads, prefix, size),
    ]
    draws = np.random.default_rng(0)
    return [jnp.asarray(draws.standard_normal(shape), jnp.float32) for shape in shapes]


CASES = {
    # rows, tokens, prefix, heads, kv heads, head size, window, softcap
    "odd sizes": (3, 150, 7, 4, 2, 20, None, None),
    "window smaller than a block": (2, 270, 7, 2, 1, 16, 33, None),
    "window that ends in the prefix, soft-capped": (1, 140, 130, 2, 2, 8, 100, 2.0),
    "no prefix": (2, 131, 0, 2, 1, 16, None, 5.0),
}


@pytest.mark.parametrize("case", CASES)
def test_splash_attention_has_the_values_and_gradients_of_the_einsum_form(case):
    rows, tokens, prefix, heads, kv_heads, size, window, softcap = CASES[case]
    packed = PackedRows(pack_segments(rows, tokens))
    inputs = draw_inputs(rows, tokens, prefix, heads, kv_heads, size)
    real = packed.segments > 0  # what padding yields is used by nobody
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(inputs[0].shape), jnp.float32)
    cotangent = cotangent * real[:, :, None, None]
    kernel = FusedAttention(Execution("splash"), packed.starts)

    def fused(queries, keys, values, *shared):
        return kernel(queries, keys, values, shared, window=window, softcap=softcap)

    def output_and_gradients(function):
        out, back_propagate = jax.vjp(function, *inputs)
        return out * real[:, :, None, None], *back_propagate(cotangent)

    expected = jax.jit(partial(output_and_gradients, partial(einsum_form, packed, window, softcap)))
    found = jax.jit(partial(output_and_gradients, fused))()
    for ours, theirs in zip(found, expected(), strict=True):
        assert np.isfinite(ours).all()
        largest = np.abs(theirs).max() if theirs.size else 0
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * largest, rtol=0)


def test_devices_that_share_rows_and_heads_compute_what_one_computes():
    """Also where there are fewer key/value heads than devices that share heads."""
    mesh = make_mesh(data=2, tensor=2, devices=jax.devices()[:4])
    packed = PackedRows(pack_segments(2, 130))
    inputs = draw_inputs(2, 130, 7, 2, 1, 8)
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(inputs[0].shape), jnp.float32)

    def output_and_gradients(mesh):
        kernel = FusedAttention(Execution("splash", mesh=mesh), packed.starts)
        attend_all = lambda *inputs: kernel(*inputs[:3], inputs[3:])  # noqa: E731
        out, back_propagate = jax.vjp(attend_all, *inputs)
        return out, *back_propagate(cotangent)

    expected = jax.jit(lambda: output_and_gradients(None))()
    for ours, theirs in zip(jax.jit(lambda: output_and_gradients(mesh))(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [None, 1, 9, 40])
def test_visible_keys_are_those_of_the_masks(window):
    packed, prefix = PackedRows(pack_segments(3, 50)), 7
    visible = VisibleKeys(prefix, window)(encode_queries(packed.starts)[:, :, None], np.arange(57))
    positions, mask = positions_of(packed, prefix), packed.mask
    blocks = [(jnp.arange(prefix), None), (positions, mask)]
    near = sliding_window_masks(window or 1000, blocks, positions)
    expected = np.concatenate([np.broadcast_to(one, (3, 50, one.shape[-1])) for one in near], -1)
    real = np.asarray(packed.segments > 0)
    np.testing.assert_array_equal(np.asarray(visible)[real], expected[real])
    assert np.asarray(visible).any(-1).all()  # padding sees itself: no sum is empty


def test_a_long_row_keeps_index_and_start_apart():
    starts = jnp.asarray([[0, 40_000, 65_535]])
    codes = encode_queries(jnp.pad(starts, ((0, 0), (65_533, 0))))
    visible = VisibleKeys(0, None)
    assert not visible(codes[0, 65_534], 39_999) and visible(codes[0, 65_534], 40_000)
    assert visible(codes[0, 65_535], 65_535) and not visible(codes[0, 65_535], 65_534)


def test_blocks_pad_little():
    assert [_choose_block(n) for n in (7, 128, 250, 512, 600, 4096, 4196)] == [
        128, 128, 256, 512, 128, 512, 512,
    ]  # fmt: skip


def test_cudnn_attends_in_one_kernel_forward_and_backward(monkeypatch):
    """Lowered for a GPU that need not be here; cuDNN itself is not asked for its version."""
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda *_: True)
    packed = PackedRows(pack_segments(2, 150))
    kernel = FusedAttention(Execution("cudnn"), packed.starts)

    def total(*inputs):
        return kernel(*inputs[:3], inputs[3:], window=33).astype(jnp.float32).sum()

    inputs = [one.astype(jnp.bfloat16) for one in draw_inputs(2, 150, 7, 4, 2, 64)]
    traced = jax.jit(jax.grad(total, range(5))).trace(*inputs)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    calls = set(re.findall(r"__cudnn[$\w]+", text))
    assert calls == {"__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"}


def test_a_kernel_is_chosen_only_where_it_fits():
    config = DecoderConfig("LlamaForCausalLM", 32, 16, 24, 2, 2, 1, 8, 4096)
    long, short = (PackedRows(jnp.ones((1, size), jnp.int32)) for size in (1024, 100))
    assert choose_fused_attention(UNROLLED, long, 0, config, jnp.float32) is None
    assert choose_fused_attention(Execution("splash"), long, 0, config, jnp.float32) is not None
    assert choose_fused_attention(Execution("splash"), short, 7, config, jnp.float32) is None
    sinks = replace(config, attention_sinks=True)
    assert choose_fused_attention(Execution("splash"), long, 0, sinks, jnp.float32) is None
    # no GPU is here, so cuDNN cannot attend
    assert choose_fused_attention(Execution("cudnn"), long, 0, config, jnp.bfloat16) is None
