"""Rotary frequencies equal transformers, for each rope type; unknown fields are refused by name."""

from typing import Any

import numpy as np
import pytest

from adapt_jax.decoders.families import FAMILIES
from adapt_jax.decoders.rope import ROPE_TYPES, Rope

SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 8192,
}
ORIGINAL = "original_max_position_embeddings"
YARN = {"rope_type": "yarn", "factor": 8.0, ORIGINAL: 1024}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.1 * n for n in range(16)],
    "long_factor": [1.0 + n for n in range(16)],
}
PLAIN: list[dict[str, Any]] = [
    {"rope_type": "default", "rope_theta": 500000.0},
    {"type": "linear", "factor": 2.5},
    {"rope_type": "dynamic", "factor": 4.0},
    {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    | {ORIGINAL: 1024, "rope_theta": 500000.0},
    {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0}
    | {ORIGINAL: 1024, "rope_theta": 500000.0},
    YARN,
    YARN | {"attention_factor": 1.3, "rope_theta": 1e6},
    YARN | {"mscale": 0.7, "mscale_all_dim": 1.2},
    YARN | {"mscale": 0.7},
    YARN | {"beta_fast": 48.0, "beta_slow": 3.0, "truncate": False},
    YARN | {"factor": 0.5},
    {"type": "yarn", "factor": 4.0},  # the pretrained length is max_position_embeddings
    LONG | {ORIGINAL: 1024},
    LONG | {ORIGINAL: 1024, "factor": 3.0},
    LONG | {ORIGINAL: 1024, "attention_factor": 1.7},
]


@pytest.mark.parametrize("given", PLAIN, ids=lambda given: "-".join(map(str, given)))
@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("length", [None, 5000, 20000])
def test_frequencies_equal_transformers(
    given: dict[str, Any], spelling: str, length: int | None
) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    theirs = LlamaConfig(**SIZES, rope_parameters=dict(given))
    if theirs.rope_parameters["rope_type"] == "default":
        theirs.rope_parameters |= {"rope_type": "linear", "factor": 1.0}
    function = ROPE_INIT_FUNCTIONS[theirs.rope_parameters["rope_type"]]
    frequencies, scaling = function(theirs, seq_len=length)
    config = FAMILIES["LlamaForCausalLM"].to_config({**SIZES, spelling: given})
    (layer,) = config.layer_configs
    assert layer.rope is not None
    found = layer.rope.frequencies(config.head_dim, length)
    np.testing.assert_allclose(found, frequencies.numpy(), rtol=2e-6)
    assert layer.rope.attention_scaling == pytest.approx(scaling, rel=1e-6)


def test_proportional_frequencies_rotate_the_first_pairs_only() -> None:
    found = Rope("proportional", theta=1e4, partial_rotary_factor=0.25).frequencies(32)
    whole = Rope(theta=1e4).frequencies(32)
    np.testing.assert_array_equal(found, np.where(np.arange(16) < 4, whole, 0))


@pytest.mark.parametrize("name", [name for name in ROPE_TYPES if ROPE_TYPES[name].required])
def test_a_missing_parameter_is_named(name: str) -> None:
    with pytest.raises(KeyError, match=ROPE_TYPES[name].required[0]):
        Rope(name)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rope_scaling": {"rope_type": "spiral"}}, "rope_type 'spiral'.*supported: default"),
        ({"rope_scaling": {**LONG, "long_factor": [1.0]}}, "short_factor and long_factor need 16"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial"),
        ({"rope_parameters": {"full_attention": YARN}}, "by layer type"),
        ({"hidden_act": "cosine"}, "hidden_act 'cosine'.*supported: silu"),
    ],
)
def test_an_unknown_value_is_never_a_silent_default(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FAMILIES["LlamaForCausalLM"].to_config({**SIZES, **fields})


@pytest.mark.parametrize(
    ("architecture", "fields", "said"),
    [
        ("Gemma2ForCausalLM", {"layer_types": ["chunked_attention"] * 2}, "'chunked_attention'"),
        ("Gemma2ForCausalLM", {"layer_types": ["full_attention"]}, "1 entries for 2 layers"),
        ("Gemma2ForCausalLM", {"sliding_window": None}, "no sliding_window"),
        ("Gemma3ForCausalLM", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("MixtralForCausalLM", {"num_experts_per_tok": 9}, "expected 1 to 8"),
        ("MistralForCausalLM", {"sliding_window": 0}, "sliding_window 0"),
    ],
)
def test_impossible_layers_are_refused(
    architecture: str, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        FAMILIES[architecture].to_config({**SIZES, "num_key_value_heads": 2, **fields})
