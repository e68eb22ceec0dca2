"""From logits to tokens: repetition penalty, temperature, top-k, top-p, min-p; one draw per row."""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

MIN_TEMPERATURE = (
    1e-5  # below it a rounding of logit / temperature outweighs the shares: the likeliest
)


@dataclass(frozen=True)
class SamplingParams:
    """How a token is drawn. Temperature 0 takes the likeliest one and needs no randomness.

    Attributes:
        top_k: keep the k likeliest tokens (1805.04833, section 5.3); 0 keeps all.
        top_p: keep the likeliest tokens that together reach this share (1904.09751, section 3.1).
        min_p: keep tokens at least this fraction as likely as the likeliest (2407.01082).
        repetition_penalty: divides the positive logits of tokens that stand in the prompt or were
            generated, and multiplies their negative ones (1909.05858, section 4.1); 1 is off.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


def penalize(
    logits: Float[Array, "B V"], seen: Bool[Array, "B V"], penalty: float
) -> Float[Array, "B V"]:
    """Logits with those of ``seen`` tokens lowered, for a penalty above 1."""
    lowered = jnp.where(logits > 0, logits / penalty, logits * penalty)
    return jnp.where(seen, lowered, logits)


def restrict(logits: Float[Array, "B V"], sampling: SamplingParams) -> Float[Array, "B V"]:
    """Logits after temperature and truncation: what is cut off is minus infinity.

    Each truncation sees what the one before it left. Tokens as likely as the last one that is
    kept are kept too, and the likeliest always is.
    """
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = jnp.where(logits < top_k_threshold(logits, sampling.top_k), -jnp.inf, logits)
    if sampling.top_p < 1:
        weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
        logits = jnp.where(weights < top_p_threshold(weights, sampling.top_p), -jnp.inf, logits)
    if sampling.min_p > 0:
        last = jnp.max(logits, axis=-1, keepdims=True) + math.log(sampling.min_p)
        logits = jnp.where(logits < last, -jnp.inf, logits)
    return logits


def vocab_grid(logits: Float[Array, "B V"]) -> Float[Array, "B E C"]:
    """A row as a grid whose columns are blocks of tokens; what is filled up is minus infinity.

    Sums and maxima of a column run along the rows of the grid: those vectorise.
    """
    size = logits.shape[-1]
    least = 4 * math.isqrt(size)
    count = next((count for count in range(least, 2 * least) if size % count == 0), least)
    filled = jnp.pad(logits, ((0, 0), (0, -size % count)), constant_values=-jnp.inf)
    return filled.reshape(-1, filled.shape[-1] // count, count)


def top_k_threshold(logits: Float[Array, "B V"], count: int) -> Float[Array, "B 1"]:
    """The logit of rank ``count``; all that are as high or higher lie in as many columns."""
    grid = vocab_grid(logits)
    if grid.shape[-1] > count:
        _, chosen = jax.lax.top_k(jnp.max(grid, axis=1), count)
        logits = jnp.take_along_axis(grid, chosen[:, None], axis=2).reshape(len(logits), -1)
    # the least of them: asking for the last one would make XLA sort the whole row
    return jnp.min(jax.lax.top_k(logits, count)[0], axis=-1, keepdims=True)


def top_p_threshold(weights: Float[Array, "B V"], share: float) -> Float[Array, "B 1"]:
    """The least weight that is kept: those above it reach less than ``share`` of the sum.

    Found by bisection over the bits of a float, which are ordered as the floats are; 31 passes
    over a row take a twentieth of the time that sorting it takes (32,000 tokens, CPU).

    Args:
        weights: from 0 to 1; the largest of a row is 1.
    """
    is_decided = share * jnp.sum(weights, axis=-1, keepdims=True)

    def above(bits: Array) -> Array:  # whether the weights above this one reach the share
        least = jax.lax.bitcast_convert_type(bits, jnp.float32)
        return jnp.sum(jnp.where(weights > least, weights, 0), axis=-1, keepdims=True) >= is_decided

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # low reaches the share, high does not
        middle = low + (high - low) // 2
        reached = above(middle)
        return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

    one = jax.lax.bitcast_convert_type(jnp.ones_like(is_decided), jnp.int32)
    _, high = jax.lax.fori_loop(0, 31, halve, (jnp.full_like(one, -1), one))
    return jax.lax.bitcast_convert_type(high, jnp.float32)


def argmax(logits: Float[Array, "*B V"]) -> Int[Array, "*B"]:
    """The first of the highest. In two passes, which vectorise; XLA's argmax does not on a CPU."""
    top = jnp.max(logits, axis=-1, keepdims=True)
    places = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    found = jnp.min(jnp.where(logits == top, places, logits.shape[-1] - 1), axis=-1)
    return found.astype(jnp.int32)


def draw(
    grid: Float[Array, "B E C"], ids: Int[Array, "B C"], blocks: int, keys: Key[Array, " B"]
) -> Int[Array, " B"]:
    """One token per row in proportion to the exponentials, with the row's own key.

    Gumbel noise on two levels: the best of the columns, each with the logarithm of its sum, then
    the best token within it. The distribution is that of noise on every token (the perturbed
    maximum of a column is its log-sum plus such noise), for a fraction of the noise.

    Args:
        grid: columns of a row's logits, all ``blocks`` of them or those that hold what is kept.
        ids: which columns these are; the noise of a column does not depend on the others.
    """
    top = jnp.max(grid, axis=(1, 2), keepdims=True)
    sums = jnp.log(jnp.sum(jnp.exp(grid - top), axis=1))

    def one(key: Key[Array, ""], sums: Array, grid: Array, ids: Array) -> Array:
        first, second = jax.random.split(key)
        block = argmax(sums + jax.random.gumbel(first, (blocks,))[ids])
        column = jax.lax.dynamic_index_in_dim(grid, block, axis=1, keepdims=False)
        token = argmax(column + jax.random.gumbel(second, (grid.shape[0],)))
        return token * blocks + ids[block]

    return jax.vmap(one)(keys, sums, grid, ids)


def choose(
    logits: Float[Array, "B V"], keys: Key[Array, " B"], sampling: SamplingParams
) -> Int[Array, " B"]:
    """One token per row, drawn with the row's own key (and by nothing else)."""
    if sampling.temperature < MIN_TEMPERATURE:
        return argmax(logits)
    rows = len(logits)

    def from_all() -> Int[Array, " B"]:
        grid = vocab_grid(restrict(logits, sampling))
        blocks = grid.shape[-1]
        return draw(grid, jnp.broadcast_to(jnp.arange(blocks), (rows, blocks)), blocks, keys)

    grid = vocab_grid(logits)
    blocks, kept = grid.shape[-1], sampling.top_k
    if not 0 < kept < blocks:
        return from_all()
    # What top-k keeps lies in the columns with the highest maxima: the rest is not looked at again.
    maxima = jnp.max(grid, axis=1) / sampling.temperature
    _, ids = jax.lax.top_k(maxima, kept)
    near = jnp.take_along_axis(grid, ids[:, None], axis=2) / sampling.temperature
    least = jnp.min(jax.lax.top_k(near.reshape(rows, -1), kept)[0], axis=-1, keepdims=True)

    def from_near() -> Int[Array, " B"]:
        left = replace(sampling, temperature=1.0, top_k=0)
        whole = jnp.where(near < least[..., None], -jnp.inf, near).reshape(rows, -1)
        return draw(restrict(whole, left).reshape(near.shape), ids, blocks, keys)

    ties = jnp.any(jnp.sum(maxima >= least, axis=-1) > kept)  # with tokens of further columns
    return jax.lax.cond(ties, from_all, from_near)


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
