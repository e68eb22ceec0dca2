"""From logits to tokens: each truncation against its definition, draws against their shares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adapt_jax.sampling.logits import (
    SamplingParams,
    apply_repetition_penalty,
    argmax,
    sample_token,
    truncate_logits,
)

OPTIONS = {
    "whole": SamplingParams(0.8),
    "top_k": SamplingParams(0.8, top_k=12),
    "top_p": SamplingParams(0.8, top_p=0.7),
    "min_p": SamplingParams(0.8, min_p=0.1),
    "all": SamplingParams(1.3, top_k=60, top_p=0.9, min_p=0.02),
}


def surviving_tokens(logits: np.ndarray, sampling: SamplingParams) -> np.ndarray:
    """The definition, for one row: ties survive together, and at least one token does."""
    logits = logits.astype(np.float64) / sampling.temperature
    keep = np.ones(len(logits), bool)
    if 0 < sampling.top_k < len(logits):
        keep &= logits >= np.sort(logits)[-sampling.top_k]
    shares = np.where(keep, np.exp(logits - logits.max()), 0)
    if sampling.top_p < 1:
        above = np.array([shares[shares > share].sum() for share in shares])
        keep &= above < sampling.top_p * shares.sum()
    return keep & (shares >= sampling.min_p * shares.max())


@pytest.mark.parametrize("name", OPTIONS)
def test_truncations_keep_what_their_definitions_keep(name: str) -> None:
    sampling, draws = OPTIONS[name], np.random.default_rng(0)
    logits = draws.normal(0, 2, (6, 333)).astype(np.float32)
    logits[3:] = np.round(logits[3:])  # many ties
    found = np.isfinite(np.asarray(truncate_logits(jnp.asarray(logits), sampling)))
    for row in range(len(logits)):
        np.testing.assert_array_equal(found[row], surviving_tokens(logits[row], sampling))


@pytest.mark.parametrize("name", OPTIONS)
def test_draws_follow_their_shares(name: str) -> None:
    sampling, count = OPTIONS[name], 20_000
    logits = np.random.default_rng(1).normal(0, 2, 333).astype(np.float32)
    shares = np.exp(logits.astype(np.float64) / sampling.temperature)
    shares = (
        np.where(surviving_tokens(logits, sampling), shares, 0)
        / shares[surviving_tokens(logits, sampling)].sum()
    )
    keys = jax.random.split(jax.random.key(5), count)
    rows = jnp.broadcast_to(jnp.asarray(logits), (count, len(logits)))
    drawn = np.bincount(sample_token(rows, keys, sampling), minlength=len(logits))
    assert drawn[shares == 0].sum() == 0
    common = shares * count >= 5
    observed = np.append(drawn[common], drawn[~common].sum())
    wanted = np.append(shares[common], shares[~common].sum()) * count
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    freedom = len(wanted) - 1
    assert ((observed - wanted) ** 2 / wanted).sum() < freedom + 5 * np.sqrt(2 * freedom)


def test_the_first_of_the_likeliest_is_taken_at_temperature_0() -> None:
    logits = jnp.asarray([[0.0, 3.0, 3.0, 1.0], [-jnp.inf, -5.0, -jnp.inf, -5.0]])
    assert argmax(logits).tolist() == [1, 1]
    keys = jax.random.split(jax.random.key(0), 2)
    assert sample_token(logits, keys, SamplingParams()).tolist() == [1, 1]


@pytest.mark.parametrize("temperature", [1e-45, 1e-30, 1e-5])
def test_the_coldest_temperatures_take_the_likeliest(temperature: float) -> None:
    logits = jnp.asarray(np.random.default_rng(3).normal(0, 3, (6, 320)), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 6)
    found = jax.jit(lambda *given: sample_token(*given, SamplingParams(temperature)))(logits, keys)
    assert found.tolist() == argmax(logits).tolist()


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    torch = pytest.importorskip("torch", reason="the test extra brings torch")
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = np.random.default_rng(2).normal(0, 2, (2, 50)).astype(np.float32)
    said = np.array([[3, 4, 4, 7], [0, 1, 2, 49]])
    theirs = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor(said), torch.tensor(logits))
    seen = np.zeros(logits.shape, bool)
    np.put_along_axis(seen, said, True, axis=1)
    np.testing.assert_allclose(
        apply_repetition_penalty(logits, seen, 1.7), theirs.numpy(), rtol=1e-6
    )
