"""From logits to tokens: repetition penalty, temperature, top-k, top-p, min-p; one draw per row.

Axes: B rows, V tokens of the vocabulary. A vocabulary grid is a row of logits as [E, C]: token
e C + c is at row e, column c. Sums and maxima of a column run along E, which vectorises.
"""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

__all__ = [
    "MIN_TEMPERATURE",
    "SamplingParams",
    "apply_repetition_penalty",
    "argmax",
    "get_log_probability",
    "make_draw_keys",
    "sample_token",
    "truncate_logits",
    "vocab_grid",
]

# Below it the rounding of logit / temperature outweighs the probabilities: argmax is taken.
MIN_TEMPERATURE = 1e-5


@dataclass(frozen=True)
class SamplingParams:
    """How a token is drawn. At temperature 0 it is the most probable one, without randomness.

    Attributes:
        top_k: keeps the k most probable tokens (1805.04833, section 5.3); 0 keeps all.
        top_p: keeps the most probable tokens that together reach this probability (1904.09751,
            section 3.1).
        min_p: keeps tokens at least this fraction as probable as the most probable one
            (2407.01082).
        repetition_penalty: divides the positive logits of tokens that are in the prompt or were
            generated, and multiplies their negative ones (1909.05858, section 4.1); 1 is off.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


def apply_repetition_penalty(
    logits: Float[Array, "B V"], seen: Bool[Array, "B V"], penalty: float
) -> Float[Array, "B V"]:
    """The logits with those of ``seen`` tokens lowered, for a penalty above 1."""
    lowered = jnp.where(logits > 0, logits / penalty, logits * penalty)
    return jnp.where(seen, lowered, logits)


def truncate_logits(logits: Float[Array, "B V"], sampling: SamplingParams) -> Float[Array, "B V"]:
    """The logits after temperature, top-k, top-p and min-p; minus infinity for dropped tokens.

    Each truncation sees what the one before it kept. Tokens as probable as the last one that is
    kept are kept too. At least one token is kept.
    """
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = jnp.where(logits < top_k_threshold(logits, sampling.top_k), -jnp.inf, logits)
    if sampling.top_p < 1:
        weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
        logits = jnp.where(weights < top_p_threshold(weights, sampling.top_p), -jnp.inf, logits)
    if sampling.min_p > 0:
        threshold = jnp.max(logits, axis=-1, keepdims=True) + math.log(sampling.min_p)
        logits = jnp.where(logits < threshold, -jnp.inf, logits)
    return logits


def vocab_grid(logits: Float[Array, "B V"]) -> Float[Array, "B E C"]:
    """Each row as a vocabulary grid, padded with minus infinity."""
    size = logits.shape[-1]
    least = 4 * math.isqrt(size)
    columns = next((count for count in range(least, 2 * least) if size % count == 0), least)
    padded = jnp.pad(logits, ((0, 0), (0, -size % columns)), constant_values=-jnp.inf)
    return padded.reshape(-1, padded.shape[-1] // columns, columns)


def top_k_threshold(logits: Float[Array, "B V"], k: int) -> Float[Array, "B 1"]:
    """The k-th highest logit of each row."""
    grid = vocab_grid(logits)
    if grid.shape[-1] > k:
        # the k highest logits lie in the k columns with the highest maxima
        _, chosen = jax.lax.top_k(jnp.max(grid, axis=1), k)
        logits = jnp.take_along_axis(grid, chosen[:, None], axis=2).reshape(len(logits), -1)
    # the minimum, not the last one: for that XLA would sort the whole row
    return jnp.min(jax.lax.top_k(logits, k)[0], axis=-1, keepdims=True)


def top_p_threshold(weights: Float[Array, "B V"], share: float) -> Float[Array, "B 1"]:
    """The lowest weight that is kept: the weights above it sum to less than ``share`` of all.

    It is found by bisection over the bits of a float, which are ordered as floats are. The 31
    passes over a row take a twentieth of the time of sorting it (32,000 tokens, on a CPU).

    Args:
        weights: from 0 to 1; the highest of a row is 1.
    """
    wanted = share * jnp.sum(weights, axis=-1, keepdims=True)

    def reaches_share(bits: Array) -> Array:
        threshold = jax.lax.bitcast_convert_type(bits, jnp.float32)
        above = jnp.where(weights > threshold, weights, 0)
        return jnp.sum(above, axis=-1, keepdims=True) >= wanted

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # the weights above low reach the share, those above high do not
        middle = low + (high - low) // 2
        reached = reaches_share(middle)
        return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

    one = jax.lax.bitcast_convert_type(jnp.ones_like(wanted), jnp.int32)
    _, high = jax.lax.fori_loop(0, 31, halve, (jnp.full_like(one, -1), one))
    return jax.lax.bitcast_convert_type(high, jnp.float32)


def argmax(logits: Float[Array, "*B V"]) -> Int[Array, "*B"]:
    """The first of the highest. It takes two passes that vectorise; ``jnp.argmax`` does not."""
    top = jnp.max(logits, axis=-1, keepdims=True)
    tokens = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    found = jnp.min(jnp.where(logits == top, tokens, logits.shape[-1] - 1), axis=-1)
    return found.astype(jnp.int32)


def _draw_from_grid(
    grid: Float[Array, "B E C"], columns: Int[Array, "B C"], num_columns: int, keys: Key[Array, "B"]
) -> Int[Array, " B"]:
    """One token per row in proportion to the exponentials of its logits, with the row's own key.

    Gumbel noise in two steps: on the log-sum of each column, then on the tokens of the best
    column. The distribution is the same as with noise on every token, since the perturbed maximum
    of a column is its log-sum plus such noise; far less noise is drawn.

    Args:
        grid: the columns of a vocabulary grid that hold all tokens which can be drawn.
        columns: their numbers among all ``num_columns``. The noise of a column does not depend on
            which others are there.
    """
    top = jnp.max(grid, axis=(1, 2), keepdims=True)
    sums = jnp.log(jnp.sum(jnp.exp(grid - top), axis=1))

    def draw_row(key: Key[Array, ""], sums: Array, grid: Array, columns: Array) -> Array:
        column_key, token_key = jax.random.split(key)
        best = argmax(sums + jax.random.gumbel(column_key, (num_columns,))[columns])
        column = jax.lax.dynamic_index_in_dim(grid, best, axis=1, keepdims=False)
        row = argmax(column + jax.random.gumbel(token_key, (grid.shape[0],)))
        return row * num_columns + columns[best]

    return jax.vmap(draw_row)(keys, sums, grid, columns)


def sample_token(
    logits: Float[Array, "B V"], keys: Key[Array, " B"], sampling: SamplingParams
) -> Int[Array, " B"]:
    """One token per row, drawn with the row's own key and no other randomness."""
    if sampling.temperature < MIN_TEMPERATURE:
        return argmax(logits)
    grid = vocab_grid(logits)
    if 0 < sampling.top_k < grid.shape[-1]:
        return _sample_top_k(logits, grid, keys, sampling)
    return _sample_any(logits, keys, sampling)


def _sample_any(
    logits: Float[Array, "B V"], keys: Key[Array, " B"], sampling: SamplingParams
) -> Int[Array, " B"]:
    """``sample_token`` by way of the whole vocabulary."""
    grid = vocab_grid(truncate_logits(logits, sampling))
    num_columns = grid.shape[-1]
    columns = jnp.broadcast_to(jnp.arange(num_columns), (len(logits), num_columns))
    return _draw_from_grid(grid, columns, num_columns, keys)


def _sample_top_k(
    logits: Float[Array, "B V"],
    grid: Float[Array, "B E C"],
    keys: Key[Array, " B"],
    sampling: SamplingParams,
) -> Int[Array, " B"]:
    """``sample_token`` by way of the k columns with the highest maxima, which hold the top k."""
    rows, num_columns, k = len(logits), grid.shape[-1], sampling.top_k
    # 1. these columns, and the k-th highest logit in them
    maxima = jnp.max(grid, axis=1) / sampling.temperature
    _, columns = jax.lax.top_k(maxima, k)
    near = jnp.take_along_axis(grid, columns[:, None], axis=2) / sampling.temperature
    threshold = jnp.min(jax.lax.top_k(near.reshape(rows, -1), k)[0], axis=-1, keepdims=True)

    # 2. a draw from them alone: temperature and top-k are applied, top-p and min-p are left
    def sample_near() -> Int[Array, " B"]:
        left = replace(sampling, temperature=1.0, top_k=0)
        kept = jnp.where(near < threshold[..., None], -jnp.inf, near).reshape(rows, -1)
        return _draw_from_grid(
            truncate_logits(kept, left).reshape(near.shape), columns, num_columns, keys
        )

    # 3. tokens of further columns can tie with the k-th; then the whole vocabulary is looked at
    has_ties = jnp.any(jnp.sum(maxima >= threshold, axis=-1) > k)
    return jax.lax.cond(has_ties, lambda: _sample_any(logits, keys, sampling), sample_near)


def get_log_probability(
    logits: Float[Array, "B V"], tokens: Int[Array, " B"]
) -> Float[Array, " B"]:
    """The decoder's own log-probability of each row's token: temperature 1, untruncated."""
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def make_draw_keys(
    seed: Key[Array, ""],
    examples: Int[Array, " B"],
    candidates: Int[Array, " B"],
    steps: Int[Array, " B"],
) -> Key[Array, " B"]:
    """A key for each row that depends on (seed, example, candidate, step) and nothing else."""
    key = jax.vmap(jax.random.fold_in, (None, 0))(seed, examples)
    return jax.vmap(jax.random.fold_in)(jax.vmap(jax.random.fold_in)(key, candidates), steps)
