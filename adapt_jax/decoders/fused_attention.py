"""Attention by the accelerators' own kernels, which never hold the scores [T, S] in memory.

The reference is ``attention.attend``. Here the keys of the shared prefix and the row's own keys
are joined in one kernel call, the prefix first. So there is one softmax, and the gradients of the
prefix are exact.

Axes: B rows, T tokens, P prefix tokens, S = P + T keys, N query heads, K key/value heads, H head
size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from adapt_jax.decoders.attention import KVPair, PackedRows
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.execution import Execution
from adapt_jax.decoders.sharding import LOGICAL_AXIS_RULES
from adapt_jax.decoders.visible_keys import MAX_TOKENS, VisibleKeys, encode_queries

__all__ = ["FusedAttention", "choose_fused_attention"]

MAX_EINSUM_SCORES = 2**16  # T·S up to which the einsum form is used: a soft prompt's own encoding
CUDNN_MULTIPLE = 64  # lengths are padded to multiples of it
CUDNN_MAX_HEAD_DIM = 128
CUDNN_MIN_CAPABILITY = 8.0  # of the GPU: Ampere


@dataclass(frozen=True)
class FusedAttention:
    """Attention of packed rows by a kernel.

    Attributes:
        execution: which kernel, and on which devices.
        starts: [B, T], the index in the row at which each token's segment begins.
    """

    execution: Execution
    starts: Int[Array, "B T"]

    def __call__(
        self,
        queries: Float[Array, "B T N H"],
        keys: Float[Array, "B K T H"],
        values: Float[Array, "B K T H"],
        prefix: KVPair | None,
        *,
        window: int | None = None,
        scale: float | None = None,
        softcap: float | None = None,
    ) -> Float[Array, "B T N H"]:
        """A token attends to the prefix [K, P, H] and to its segment up to itself.

        Args:
            window: how many tokens a token attends to, itself included; None for all.
            scale, softcap: as in ``attention.attend``.
        """
        scale = queries.shape[-1] ** -0.5 if scale is None else scale
        if prefix is None:
            empty_keys, empty_values = (
                jnp.zeros((x.shape[1], 0, x.shape[3]), x.dtype) for x in (keys, values)
            )
            prefix = empty_keys, empty_values
        prefix = prefix[0].astype(keys.dtype), prefix[1].astype(values.dtype)
        # the kernels know one head size: the smaller of two gets features of 0
        size, value_dim = max(keys.shape[-1], values.shape[-1]), values.shape[-1]
        prefix = _widen(prefix[0], size), _widen(prefix[1], size)
        queries, keys, values = (_widen(x, size) for x in (queries, keys, values))
        attended = self._run_kernel(queries, keys, values, prefix, window, scale, softcap)
        return attended if value_dim == size else attended[..., :value_dim]

    def _run_kernel(
        self,
        queries: Float[Array, "B T N H"],
        keys: Float[Array, "B K T H"],
        values: Float[Array, "B K T H"],
        prefix: KVPair,
        window: int | None,
        scale: float,
        softcap: float | None,
    ) -> Float[Array, "B T N H"]:
        visible = VisibleKeys(prefix[0].shape[1], window)
        codes = encode_queries(self.starts)
        if self.execution.attention == "cudnn":
            return _cudnn_attention(queries, keys, values, prefix, codes, visible, scale)
        # imported where it is needed: a CPU does without Pallas
        from adapt_jax.decoders.splash_attention import splash_attention

        splash = partial(splash_attention, visible, softcap, self.execution.interprets_kernels)
        run = _share_over_devices(splash, self.execution.mesh, queries.shape, keys.shape[1])
        return run(queries * scale, keys, values, *prefix, codes)


def _widen(x: Float[Array, "*B H"], size: int) -> Float[Array, "*B size"]:
    """The features, padded with zeros to this size."""
    missing = size - x.shape[-1]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x


def choose_fused_attention(
    execution: Execution,
    rows: PackedRows,
    prefix_length: int,
    config: DecoderConfig,
    dtype: Any,
) -> FusedAttention | None:
    """The kernel for these rows; None where the einsum form is right.

    Each row also attends to ``prefix_length`` tokens. Few scores need no kernel. The kernels
    implement neither attention sinks nor ALiBi nor chunks; within the first chunk the latter hide
    nothing.
    """
    tokens = rows.segments.shape[1]
    if execution.attention == "einsum" or tokens > MAX_TOKENS:
        return None
    if config.attention_sinks or config.alibi is not None:
        return None
    if tokens * (tokens + prefix_length) <= MAX_EINSUM_SCORES:
        return None
    chunks = {config.layer_config(index).chunk for index in range(config.num_layers)}
    if any(chunk is not None and chunk < tokens + prefix_length for chunk in chunks):
        return None
    if execution.attention == "cudnn" and not _fits_cudnn(execution, config, dtype):
        return None
    return FusedAttention(execution, rows.starts)


def _fits_cudnn(execution: Execution, config: DecoderConfig, dtype: Any) -> bool:
    """Whether cuDNN can attend: it has no soft-capping, computes in 16 bits, needs an Ampere GPU
    or later, and knows head sizes that are multiples of 8."""
    sizes = {config.query_head_dim(index) for index in range(config.num_layers)}
    mesh = execution.mesh
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    capability = float(getattr(device, "compute_capability", 0))
    return (
        config.attention_softcap is None
        and jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
        and all(size % 8 == 0 and size <= CUDNN_MAX_HEAD_DIM for size in sizes)
        and capability >= CUDNN_MIN_CAPABILITY
    )


def _cudnn_attention(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B K T H"],
    values: Float[Array, "B K T H"],
    prefix: KVPair,
    codes: Int[Array, "B T"],
    visible: VisibleKeys,
    scale: float,
) -> Float[Array, "B T N H"]:
    """cuDNN's flash attention. Its mask [B, 1, T, S] is in memory, once for all heads."""
    tokens = queries.shape[1]
    num_keys = visible.prefix + tokens
    pad_q, pad_kv = -tokens % CUDNN_MULTIPLE, -num_keys % CUDNN_MULTIPLE

    def join(shared: Array, own: Array) -> Array:
        shared = jnp.broadcast_to(shared, (own.shape[0], *shared.shape))
        joined = jnp.concatenate([shared, own], axis=2).swapaxes(1, 2)
        return jnp.pad(joined, ((0, 0), (0, pad_kv), (0, 0), (0, 0)))

    padded = jnp.pad(queries, ((0, 0), (0, pad_q), (0, 0), (0, 0)))
    codes = jnp.pad(codes, ((0, 0), (0, pad_q)), mode="edge")
    mask = visible(codes[:, :, None], jnp.arange(num_keys + pad_kv, dtype=jnp.int32))
    attended = jax.nn.dot_product_attention(
        padded,
        join(prefix[0], keys),
        join(prefix[1], values),
        mask=mask[:, None],
        scale=scale,
        implementation="cudnn",
    )
    return attended[:, :tokens]


def _share_over_devices(
    run: Callable[..., Array], mesh: Mesh | None, queries: tuple[int, ...], kv_heads: int
) -> Callable[..., Array]:
    """Makes each device run the kernel on its own rows and heads: XLA cannot divide a kernel."""
    if mesh is None or mesh.size == 1:
        return run
    rows, _, heads, _ = queries
    row_axes = LOGICAL_AXIS_RULES["rows"]
    row_shards = int(np.prod([mesh.shape[axis] for axis in row_axes]))
    by_row = row_axes if rows % row_shards == 0 else None
    # where there are fewer key/value heads than shards, shards hold copies of them
    (head_axis,) = LOGICAL_AXIS_RULES["heads"]
    head_shards = mesh.shape[head_axis]
    copies = head_shards // kv_heads if head_shards % kv_heads == 0 else 1
    divides = heads % head_shards == 0 and kv_heads * copies % head_shards == 0
    by_head = head_axis if divides else None
    copies = copies if divides else 1

    own, shared = PartitionSpec(by_row, by_head), PartitionSpec(by_head)
    by_query = PartitionSpec(by_row, None, by_head)
    shared_run = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(by_query, own, own, shared, shared, PartitionSpec(by_row)),
        out_specs=by_query,
        check_vma=False,
    )

    def run_with_copies(
        queries: Array, keys: Array, values: Array, *prefix_and_codes: Array
    ) -> Array:
        prefix_keys, prefix_values, codes = prefix_and_codes
        if copies > 1:
            keys, values = (jnp.repeat(x, copies, axis=1) for x in (keys, values))
            prefix_keys, prefix_values = (
                jnp.repeat(x, copies, axis=0) for x in (prefix_keys, prefix_values)
            )
        return shared_run(queries, keys, values, prefix_keys, prefix_values, codes)

    return run_with_copies
