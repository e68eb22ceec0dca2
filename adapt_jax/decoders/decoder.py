"""The one decoder: embeddings in, hidden states out, with a shared prefix and a cache.

Axes: B rows, T tokens, P prefix tokens, S cache slots, D embedding, N query heads,
K key/value heads, H head size, F feed-forward, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from adapt_jax.decoders.attention import Block, KeysValues, attend
from adapt_jax.decoders.config import DecoderConfig, rope_frequencies


class Linear(nnx.Module):
    """y = x W (+ b) (+ scale · x A B when LoRA factors were attached; 2106.09685, section 4.1)."""

    def __init__(
        self, rngs: nnx.Rngs, size_in: int, size_out: int, axes: tuple[str, str], bias: bool
    ):
        kernel = jax.random.normal(rngs.params(), (size_in, size_out)) * size_in**-0.5
        self.kernel = nnx.Param(kernel, axes=axes)
        self.bias = nnx.Param(jnp.zeros(size_out), axes=axes[1:]) if bias else None
        self.lora: Any = nnx.data(None)

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        y = x @ self.kernel[...].astype(x.dtype)
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)
        return y if self.lora is None else y + self.lora(x)


class RMSNorm(nnx.Module):
    """Root mean square norm in float32 (1910.07467)."""

    def __init__(self, size: int, eps: float):
        self.scale, self.eps = nnx.Param(jnp.ones(size), axes=("embed",)), eps

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (wide * self.scale[...]).astype(x.dtype)


def rotate(x: Float[Array, "B T N H"], angles: Float[Array, "B T h"]) -> Float[Array, "B T N H"]:
    """Rotary position embedding, the two halves of a head paired (Hugging Face's order)."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions (2305.13245)."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        embed, head, bias = config.embed_dim, config.head_dim, config.attention_bias
        self.query = Linear(rngs, embed, config.num_heads * head, ("embed", "heads"), bias)
        self.key = Linear(rngs, embed, config.num_kv_heads * head, ("embed", "kv_heads"), bias)
        self.value = Linear(rngs, embed, config.num_kv_heads * head, ("embed", "kv_heads"), bias)
        self.output = Linear(rngs, config.num_heads * head, embed, ("heads", "embed"), bias)
        self.head_dim = head

    def __call__(
        self,
        x: Float[Array, "B T D"],
        angles: Float[Array, "B T h"],
        mask: Bool[Array, "B T S"] | None,
        prefix: Block | None,
        cache: KeysValues | None,
        write_at: Int[Array, " B"] | None,
    ) -> tuple[Float[Array, "B T D"], KeysValues]:
        rows, tokens = x.shape[:2]
        queries = rotate(self.query(x).reshape(rows, tokens, -1, self.head_dim), angles)
        keys = rotate(self.key(x).reshape(rows, tokens, -1, self.head_dim), angles)
        values = self.value(x).reshape(rows, tokens, -1, self.head_dim)
        keys, values = keys.swapaxes(1, 2), values.swapaxes(1, 2)  # [B, K, T, H]
        if cache is not None and write_at is not None:
            row, head = jnp.arange(rows)[:, None, None], jnp.arange(keys.shape[1])[:, None]
            where = row, head, (write_at[:, None] + jnp.arange(tokens))[:, None]
            keys = cache[0].at[where].set(keys.astype(cache[0].dtype))
            values = cache[1].at[where].set(values.astype(cache[1].dtype))
        own: Block = (keys, values, mask)
        mixed = attend(queries, [own] if prefix is None else [prefix, own])
        return self.output(mixed.reshape(rows, tokens, -1)), (keys, values)


class FeedForward(nnx.Module):
    """SwiGLU (2002.05202)."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        embed, ffn, bias = config.embed_dim, config.ffn_dim, config.mlp_bias
        self.gate = Linear(rngs, embed, ffn, ("embed", "ffn"), bias)
        self.up = Linear(rngs, embed, ffn, ("embed", "ffn"), bias)
        self.down = Linear(rngs, ffn, embed, ("ffn", "embed"), bias)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Layer(nnx.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.embed_dim, config.norm_eps)
        self.attention = Attention(config, rngs)
        self.ffn_norm = RMSNorm(config.embed_dim, config.norm_eps)
        self.ffn = FeedForward(config, rngs)

    def __call__(self, x: Array, *attention_inputs: Any) -> tuple[Array, KeysValues]:
        mixed, keys_values = self.attention(self.attention_norm(x), *attention_inputs)
        x = x + mixed
        return x + self.ffn(self.ffn_norm(x)), keys_values


class Decoder(nnx.Module):
    """A decoder-only transformer whose shape is all in ``config``."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        shape = (config.vocab_size, config.embed_dim)
        embedding = jax.random.normal(rngs.params(), shape) * config.embed_dim**-0.5
        self.embedding = nnx.Param(embedding, axes=("vocab", "embed"))
        self.layers = nnx.List([Layer(config, rngs) for _ in range(config.num_layers)])
        self.norm = RMSNorm(config.embed_dim, config.norm_eps)
        tied = config.tie_embeddings
        axes = ("embed", "vocab")
        self.output = (
            None if tied else Linear(rngs, config.embed_dim, config.vocab_size, axes, False)
        )

    def embed(self, tokens: Int[Array, "*B T"], dtype: Any = jnp.float32) -> Float[Array, "*B T D"]:
        """Token ids to input embeddings."""
        return self.embedding[...][tokens].astype(dtype)

    def __call__(
        self,
        embeddings: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B T S"] | None,
        *,
        prefix: list[Block] | None = None,
        cache: list[KeysValues] | None = None,
        write_at: Int[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B T D"], list[KeysValues]]:
        """Hidden states after the last norm, and each layer's keys and values.

        Args:
            embeddings: what stands in the rows; ``embed`` makes it from token ids.
            positions: absolute position of each token, the prefix counted.
            mask: which of the S keys each token sees; S is T, or the cache's slots.
            prefix: per layer keys and values that all rows see (prefix.PrefixCache.blocks).
            cache: per layer [B, K, S, H]; new keys go to slots ``write_at`` and on, and the
                updated cache is what comes back. Without it the fresh keys come back.
        """
        frequencies = jnp.asarray(rope_frequencies(self.config))
        angles = positions[..., None].astype(jnp.float32) * frequencies
        x, keys_values = embeddings, []
        for index, layer in enumerate(self.layers):
            x, fresh = layer(
                x,
                angles,
                mask,
                None if prefix is None else prefix[index],
                None if cache is None else cache[index],
                write_at,
            )
            keys_values.append(fresh)
        return self.norm(x), keys_values

    def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Next-token logits, float32. Ask only at the positions that need them."""
        if self.output is not None:
            return self.output(hidden).astype(jnp.float32)
        kernel = self.embedding[...].astype(hidden.dtype)
        return jnp.einsum("...d,vd->...v", hidden, kernel, preferred_element_type=jnp.float32)
