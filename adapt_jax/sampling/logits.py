"""From logits to tokens: temperature, then top-k, top-p and min-p; one draw per row."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn. Temperature 0 takes the likeliest one and needs no randomness.

    Attributes:
        top_k: keep the k likeliest tokens (1805.04833, section 5.3); 0 keeps all.
        top_p: keep the likeliest tokens that together reach this share (1904.09751, section 3.1).
        min_p: keep tokens at least this fraction as likely as the likeliest (2407.01082).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


def restrict(logits: Float[Array, "*B V"], sampling: Sampling) -> Float[Array, "*B V"]:
    """Logits after temperature and truncation: what is cut off is minus infinity.

    Each truncation sees what the one before it left. Tokens as likely as the last one that is
    kept are kept too, and the likeliest always is.
    """
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        last = jax.lax.top_k(logits, sampling.top_k)[0][..., -1:]
        logits = jnp.where(logits < last, -jnp.inf, logits)
    if sampling.top_p < 1:
        ordered = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
        shares = jax.nn.softmax(ordered, axis=-1)
        needed = jnp.cumsum(shares, axis=-1) - shares < sampling.top_p  # share of those before it
        needed = needed.at[..., 0].set(True)
        last = jnp.min(jnp.where(needed, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < last, -jnp.inf, logits)
    if sampling.min_p > 0:
        last = jnp.max(logits, axis=-1, keepdims=True) + math.log(sampling.min_p)
        logits = jnp.where(logits < last, -jnp.inf, logits)
    return logits


def choose(
    logits: Float[Array, "B V"], keys: Key[Array, " B"], sampling: Sampling
) -> Int[Array, " B"]:
    """One token per row, drawn with the row's own key (and by nothing else)."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1)
    return jax.vmap(jax.random.categorical)(keys, restrict(logits, sampling))


def log_probability(logits: Float[Array, "B V"], tokens: Int[Array, " B"]) -> Float[Array, " B"]:
    """What the decoder itself gives each token: temperature 1, nothing cut off."""
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def draw_keys(
    seed: Key[Array, ""],
    examples: Int[Array, " B"],
    candidates: Int[Array, " B"],
    steps: Int[Array, " B"],
) -> Key[Array, " B"]:
    """A key for each row that depends on (seed, example, candidate, step) alone."""
    key = jax.vmap(jax.random.fold_in, (None, 0))(seed, examples)
    return jax.vmap(jax.random.fold_in)(jax.vmap(jax.random.fold_in)(key, candidates), steps)
