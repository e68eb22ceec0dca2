"""The mixture of experts against a loop over tokens and experts, for every way to route."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adapt_jax.decoders.config import DecoderConfig, MoEConfig
from adapt_jax.decoders.moe import MoE

TOKENS, EMBED, FFN, EXPERTS = 11, 8, 6, 8
PLAIN: dict[str, Any] = {"num_experts": EXPERTS, "experts_per_token": 3, "ffn_dim": FFN}
# what DeepSeek-V3 has (2412.19437, section 2.1.2)
CORRECTED: dict[str, Any] = {
    **PLAIN,
    "scores": "sigmoid",
    "correction_bias": True,
    "num_groups": 4,
    "groups_per_token": 2,
    "scores_per_group": 2,
    "weight_scale": 2.5,
    "min_weight_sum": 1e-20,
}
WAYS = {
    "softmax, normalized": PLAIN,
    "softmax": {**PLAIN, "normalize_weights": False},
    "biases": {**PLAIN, "router_bias": True, "expert_bias": True, "swiglu_clamp": (1.7, 0.5)},
    "groups": {**PLAIN, "num_groups": 2, "normalize_weights": False, "weight_scale": 3.0},
    "corrected": CORRECTED,
    "corrected softmax": {**PLAIN, "correction_bias": True, "min_weight_sum": 0.5},
    "scaled inputs": {
        **PLAIN,
        "experts_per_token": 1,
        "scores": "sigmoid",
        "normalize_weights": False,
        "scale_inputs": True,
        "shared_ffn_dim": 5,
    },
    "shared": {**PLAIN, "shared_ffn_dim": 5, "shared_gate": True},
}


def make(fields: dict[str, Any]) -> MoE:
    """A mixture whose weights, also biases, are random."""
    config = DecoderConfig("", 10, EMBED, 12, 1, 2, 2, 4, 32, moe=MoEConfig(**fields))
    moe = MoE(config, nnx.Rngs(0))
    draws = np.random.default_rng(0)
    state = nnx.state(moe, nnx.Param)
    nnx.update(moe, jax.tree.map(lambda x: jnp.asarray(draws.normal(size=x.shape)), state))
    return moe


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def value(parameter: Any) -> np.ndarray:
    return np.asarray(parameter[...], np.float64)


def route(moe: MoE, x: np.ndarray) -> list[tuple[int, float]]:
    """The experts of one token, and their weights."""
    how, logits = moe.moe, value(moe.router) @ x
    if moe.router_bias is not None:
        logits = logits + value(moe.router_bias)
    powers = np.exp(logits - logits.max())
    scores = sigmoid(logits) if how.scores == "sigmoid" else powers / powers.sum()
    ranks = scores + (0 if moe.correction_bias is None else value(moe.correction_bias))
    size = EXPERTS // how.num_groups
    groups = [range(n * size, (n + 1) * size) for n in range(how.num_groups)]
    best = sorted(
        groups, key=lambda g: -sum(sorted(ranks[g], reverse=True)[: how.scores_per_group])
    )
    allowed = [expert for group in best[: how.groups_per_token] for expert in group]
    chosen = sorted(allowed, key=lambda expert: -ranks[expert])[: how.experts_per_token]
    total = max(sum(scores[chosen]), how.min_weight_sum) if how.normalize_weights else 1.0
    return [(expert, scores[expert] / total * how.weight_scale) for expert in chosen]


def expert_output(moe: MoE, x: np.ndarray, expert: int) -> np.ndarray:
    gate, up = x @ value(moe.gate)[expert], x @ value(moe.up)[expert]
    if moe.gate_bias is not None:
        gate, up = gate + value(moe.gate_bias)[expert], up + value(moe.up_bias)[expert]
    if moe.moe.swiglu_clamp is None:
        hidden = gate * sigmoid(gate) * up
    else:
        alpha, limit = moe.moe.swiglu_clamp
        gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
        hidden = (up + 1) * gate * sigmoid(alpha * gate)
    out = hidden @ value(moe.down)[expert]
    return out if moe.down_bias is None else out + value(moe.down_bias)[expert]


def mixture(moe: MoE, x: np.ndarray) -> np.ndarray:
    out = np.zeros(EMBED)
    for expert, weight in route(moe, x):
        scaled = moe.moe.scale_inputs
        y = expert_output(moe, x * weight if scaled else x, expert)
        out += y if scaled else y * weight
    if moe.shared is not None:
        gate, up, down = (value(part.kernel) for part in _parts(moe.shared))
        shared = down @ (gate @ x * sigmoid(gate @ x) * (up @ x))
        if moe.shared_gate is not None:
            shared = shared * sigmoid(value(moe.shared_gate.kernel) @ x)
        out += shared
    return out


def _parts(ffn: Any) -> tuple[Any, Any, Any]:
    return ffn.gate, ffn.up, ffn.down


@pytest.mark.parametrize("way", WAYS)
def test_each_token_passes_its_experts(way: str) -> None:
    moe = make(WAYS[way])
    x = np.random.default_rng(1).normal(size=(TOKENS, EMBED)).astype(np.float32)
    expected = np.stack([mixture(moe, token) for token in x.astype(np.float64)])
    found = moe(jnp.asarray(x)[None])[0]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_the_correction_chooses_and_has_no_gradient() -> None:
    moe = make(CORRECTED)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, TOKENS, EMBED)), jnp.float32)
    graphdef, state = nnx.split(moe)
    before = moe(x)
    gradient = jax.grad(lambda state: (nnx.merge(graphdef, state)(x) ** 2).sum())(state)
    assert moe.correction_bias is not None
    assert not np.any(gradient["correction_bias"].get_value())
    assert np.any(gradient["router"].get_value())
    # an expert whose correction is large is chosen by every token
    moe.correction_bias.set_value(jnp.asarray([0.0] * 7 + [100.0]))
    _, chosen = moe._route(x[0])
    assert np.all(np.any(np.asarray(chosen) == 7, axis=1))
    assert not np.allclose(moe(x), before)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"experts_per_token": 0}, "num_experts_per_tok 0; expected 1 to 8"),
        ({"experts_per_token": 9}, "num_experts_per_tok 9; expected 1 to 8"),
        ({"scores": "tanh"}, "router scores 'tanh' are not supported"),
        ({"num_groups": 3}, "8 experts do not divide into 3 groups"),
        ({"num_groups": 4, "groups_per_token": 5}, "topk_group 5; expected 1 to 4"),
        ({"num_groups": 4}, "num_experts_per_tok 3; 1 groups of 2 experts have fewer"),
        ({"num_groups": 8, "groups_per_token": 3, "scores_per_group": 2}, "have no 2 best"),
    ],
    ids=str,
)
def test_a_mixture_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MoEConfig(**{**PLAIN, **changes})
