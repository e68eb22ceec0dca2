"""The gated delta rule (2412.06464): a state that maps keys to values, corrected by each token.

For each head, with state S [K, V], decay exp(g) and write strength b of a token:

    S <- exp(g) · S;   S <- S + b · k (v - k S);   output q S

Without a write strength nothing is corrected, S <- S + k v, as in Mamba 2 (2405.21060).

Token by token while decoding. A whole text goes chunk by chunk: within a chunk, what its tokens
write is the solution of a triangular system, so all is matrix products (section 3.3).

Axes: B rows, T tokens, N heads, K and V sizes of a head, C chunks, L tokens of a chunk.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = ["DeltaInputs", "apply_delta_rule"]

CHUNK_LENGTH = 64  # tokens


class DeltaInputs(NamedTuple):
    """What the tokens bring to the state, float32. Padding writes nothing and has decay 0 (a log).

    Attributes:
        query, key: [B, T, N, K].
        value: [B, T, N, V].
        decay: [B, T, N], the logarithm of what the state is multiplied by, at most 0.
        strength: [B, T, N], how much of what a key, of length 1, maps to is replaced, 0 to 1;
            None: values are added.
    """

    query: Array
    key: Array
    value: Array
    decay: Array
    strength: Array | None = None


def apply_delta_rule(
    inputs: DeltaInputs,
    state: Float[Array, "B N K V"],
    begins: Bool[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T N V"], Float[Array, "B N K V"]]:
    """The outputs of the tokens, and the state after each row.

    Args:
        state: of each row before its first token, and before each text that begins in it.
        begins: whether a token is the first of a text; None: the rows go on from ``state``.
    """
    with jax.default_matmul_precision("highest"):
        if inputs.query.shape[1] == 1:
            return _apply_to_token(inputs, state)
        return _apply_to_chunks(inputs, state, begins)


def _apply_to_token(inputs: DeltaInputs, state: Array) -> tuple[Array, Array]:
    query, key, written, decay = (x[:, 0] for x in inputs[:4])
    state = state * jnp.exp(decay)[..., None, None]
    if inputs.strength is not None:
        mapped = jnp.einsum("bnkv,bnk->bnv", state, key)
        written = (written - mapped) * inputs.strength[:, 0, :, None]
    state = state + key[..., None] * written[..., None, :]
    return jnp.einsum("bnkv,bnk->bnv", state, query)[:, None], state


def _apply_to_chunks(
    inputs: DeltaInputs, state: Array, begins: Array | None
) -> tuple[Array, Array]:
    tokens = inputs.query.shape[1]
    length = min(CHUNK_LENGTH, tokens)
    query, key, value, decay = (_cut(x, length).swapaxes(2, 3) for x in inputs[:4])
    decays = _compute_decays(decay, None if begins is None else _cut(begins, length))

    # 1. what the tokens of a chunk write to a state of 0, and the keys by which they erase from
    # another state
    written, erased = value, None
    if inputs.strength is not None:
        strength = _cut(inputs.strength, length).swapaxes(2, 3)[..., None]
        products = jnp.einsum("...ik,...jk->...ij", key * strength, key) * decays.between
        wanted = [value * strength, key * strength * decays.from_state]
        solved = jax.lax.linalg.triangular_solve(
            products,
            jnp.concatenate(wanted, axis=-1),
            left_side=True,
            lower=True,
            unit_diagonal=True,
        )
        written, erased = jnp.split(solved, [value.shape[-1]], axis=-1)
    attended = jnp.einsum("...ik,...jk->...ij", query, key) * decays.between
    read = query * decays.from_state

    # 2. texts that begin in a chunk have the given state before them
    base, is_fresh = jnp.zeros_like(written), decays.is_fresh
    if begins is not None:
        base = jnp.where(is_fresh, read @ state, 0)
        read = jnp.where(is_fresh, 0, read)
        if erased is not None:
            written = written - jnp.where(is_fresh, erased @ state, 0)
            erased = jnp.where(is_fresh, 0, erased)

    # 3. chunk by chunk; the last text of a chunk leaves the state to the next chunk
    def step(before: Array, chunk: tuple[Any, ...]) -> tuple[Array, Array]:
        written, erased, attended, read, base, left, kept, restarts = chunk
        written = written if erased is None else written - erased @ before
        output = base + read @ before + attended @ written
        before = before if begins is None else jnp.where(restarts, state, before)
        return kept * before + left.swapaxes(-1, -2) @ written, output

    left, kept, restarts = (
        key * decays.to_end,
        decays.from_state[..., -1:, :],
        is_fresh[..., -1:, :],
    )
    chunks = (written, erased, attended, read, base, left, kept, restarts)
    state_after, outputs = jax.lax.scan(step, state, chunks)  # [C, B, N, L, V]
    outputs = outputs.transpose(1, 0, 3, 2, 4)
    return outputs.reshape(outputs.shape[0], -1, *outputs.shape[3:])[:, :tokens], state_after


class _Decays(NamedTuple):
    """What of the state is left between the tokens of a chunk.

    Attributes:
        between: [C, B, N, L, L], from the second token to the first; 0 between two texts.
        from_state: [C, B, N, L, 1], from the state before the chunk, or before the text if that
            began in the chunk.
        to_end: [C, B, N, L, 1], to the end of the chunk; 0 where another text follows.
        is_fresh: [C, B, 1, L, 1], whether the token's text began in the chunk.
    """

    between: Array
    from_state: Array
    to_end: Array
    is_fresh: Array


def _compute_decays(decay: Float[Array, "C B N L"], begins: Bool[Array, "C B L"] | None) -> _Decays:
    index = jnp.arange(decay.shape[-1])
    # where the text of a token began: the index in the chunk, -1 where that was before the chunk
    if begins is None:
        start = jnp.full((*decay.shape[:2], index.size), -1)
    else:
        start = jax.lax.cummax(jnp.where(begins, index, -1), axis=2)
    start = start[:, :, None]  # the same for all heads
    total = jnp.cumsum(decay, axis=-1)
    at_start = jnp.take_along_axis(total - decay, jnp.maximum(start, 0), axis=-1)
    since_start = total - jnp.where(start >= 0, at_start, 0)
    visible = (index[:, None] >= index) & (start[..., :, None] == start[..., None, :])
    between = jnp.where(visible, total[..., :, None] - total[..., None, :], -jnp.inf)
    to_end = jnp.where(start == start[..., -1:], total[..., -1:] - total, -jnp.inf)
    return _Decays(
        jnp.exp(between),
        jnp.exp(since_start)[..., None],
        jnp.exp(to_end)[..., None],
        (start >= 0)[..., None],
    )


def _cut(x: Array, length: int) -> Array:
    """[B, T, ...] as chunks [C, B, L, ...]; the last one is filled with zeros."""
    padding = -x.shape[1] % length
    x = jnp.pad(x, ((0, 0), (0, padding), *((0, 0) for _ in x.shape[2:])))
    return x.reshape(x.shape[0], -1, length, *x.shape[2:]).swapaxes(0, 1)
