"""Splash attention, JAX's flash attention for TPUs (Pallas), over a shared prefix and packed rows.

The kernel computes its mask inside, from a number for each query and the index of each key. Here
the number tells where the query and its segment are in the row, so that packing, prefix and window
need no mask in memory.

Axes: B rows, T tokens, P prefix tokens, S = P + T keys, N query heads, K key/value heads, H head
size.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import BlockSizes, Mask, MultiHeadMask
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_kernel import (
    SplashAttentionKernel,
    make_splash_mha_single_device,
)
from jaxtyping import Array, Bool, Float, Int

from adapt_jax.decoders.visible_keys import INDEX_BITS, VisibleKeys

__all__ = ["splash_attention"]

LANES = 128  # of a TPU's vector unit: block sizes are multiples of it
BLOCKS = (512, 256, LANES)  # queries or keys that the kernel works on at a time
MAX_PADDING = 1 / 8  # of a length that blocks may add


def splash_attention(
    visible: VisibleKeys,
    softcap: float | None,
    interpret: bool,
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B K T H"],
    values: Float[Array, "B K T H"],
    prefix_keys: Float[Array, "K P H"],
    prefix_values: Float[Array, "K P H"],
    codes: Int[Array, "B T"],
) -> Float[Array, "B T N H"]:
    """Splash attention on one device; queries are scaled already."""
    tokens, num_keys = queries.shape[1], visible.prefix + keys.shape[2]
    block_q, block_kv = _choose_block(tokens), _choose_block(num_keys)
    pad_q, pad_kv = -tokens % block_q, -num_keys % block_kv

    def join(prefix: Array, own: Array) -> Array:
        """The prefix before each row's own keys, and padding behind, which no query sees."""
        shared = jnp.broadcast_to(prefix, (own.shape[0], *prefix.shape))
        joined = jnp.concatenate([shared, own], axis=2)
        return jnp.pad(joined, ((0, 0), (0, 0), (0, pad_kv), (0, 0)))

    # heads first; queries that are padding see what the last one sees, so no sum is empty
    padded = jnp.pad(queries.swapaxes(1, 2), ((0, 0), (0, 0), (0, pad_q), (0, 0)))
    codes = jnp.pad(codes, ((0, 0), (0, pad_q)), mode="edge")
    reachable = _Reachable(visible, tokens, tokens + pad_q, num_keys + pad_kv)
    kernel = make_splash_mha_single_device(
        MultiHeadMask((reachable,)),  # the same for all heads
        block_sizes=BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
        attn_logits_soft_cap=softcap,
        residual_checkpoint_name="attention",
        interpret=interpret,
    )

    def attend_row(q: Array, k: Array, v: Array, codes: Array) -> Any:
        infos = (kernel.fwd_mask_info, kernel.dq_mask_info, kernel.dkv_mask_info)
        # the kernel hands each query's number to the mask function; here it is the query's code
        own_infos = (info._replace(q_sequence=codes) for info in infos)
        return SplashAttentionKernel(*own_infos, **kernel.kwargs)(q, k, v)

    joined = join(prefix_keys, keys), join(prefix_values, values)
    attended: Array = jax.vmap(attend_row)(padded, *joined, codes)
    return attended[:, :, :tokens].swapaxes(1, 2)


class _Reachable(Mask):
    """For splash attention: which blocks of keys a block of queries may see, however it is packed.

    Blocks beyond are left out of the loop. Inside the others ``mask_function`` decides.
    """

    def __init__(self, visible: VisibleKeys, tokens: int, num_queries: int, num_keys: int):
        self._sizes = (num_queries, num_keys)
        self._tokens = tokens
        self.mask_function = visible
        self.q_sequence = np.arange(num_queries, dtype=np.int32)  # replaced by the codes

    @property
    def shape(self) -> tuple[int, ...]:
        return self._sizes

    def __getitem__(self, slices: Any) -> Bool[np.ndarray, "t s"]:
        rows, columns = (
            np.arange(size, dtype=np.int32)[part]
            for size, part in zip(self._sizes, slices, strict=True)
        )
        rows = np.minimum(rows, self._tokens - 1)[:, None]
        # one segment from 0 reaches the most own keys, one that has just begun the most of the
        # prefix
        visible = self.mask_function
        return visible(rows, columns) | (
            visible((rows << INDEX_BITS) | rows, columns) & (columns < visible.prefix)
        )

    def _key(self) -> tuple[Any, ...]:
        return self._sizes, self._tokens, self.mask_function

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reachable) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def _choose_block(length: int) -> int:
    """The largest block that pads the length by little."""
    fitting = (size for size in BLOCKS if -length % size <= length * MAX_PADDING)
    return next(fitting, LANES)
