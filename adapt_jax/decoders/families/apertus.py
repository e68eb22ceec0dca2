"""Apertus (2509.14233): Llama with QK-norm and an ungated feed-forward layer with xIELU."""

from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import LayerRules
from adapt_jax.decoders.families.tables import (
    ATTENTION,
    ATTENTION_BIAS,
    EMBEDDING_AND_OUTPUT,
    FIELDS,
    GATED_FFN,
    HF_LAYER,
    LAYER,
    norm,
)
from adapt_jax.decoders.rope import ORIGINAL_MAX_POSITIONS, Rope

LLAMA3 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    ORIGINAL_MAX_POSITIONS: 8192,
}
XIELU = ("alpha_n", "alpha_p", "beta", "eps")

FAMILY = Family(
    architecture="ApertusForCausalLM",
    model_type="apertus",
    tensors=(
        *EMBEDDING_AND_OUTPUT,
        *ATTENTION,
        *norm(HF_LAYER + "attention_layernorm", LAYER + "attention_norm"),
        *norm(HF_LAYER + "feedforward_layernorm", LAYER + "ffn_norm"),
        *GATED_FFN,
        *((HF_LAYER + f"mlp.act_fn.{n}", LAYER + f"ffn.xielu.{n}", False) for n in XIELU),
    ),
    fields={
        **FIELDS,
        **ATTENTION_BIAS,
        "context_length": ("max_position_embeddings", 65536),
        "activation": ("hidden_act", "xielu"),
        "norm_eps": ("rms_norm_eps", 1e-5),
        "pad_id": ("pad_token_id", 3),
    },
    fixed_fields={"qk_norm": "head", "gated": False},
    supported_values={"mlp_bias": (False,), "qk_norm": (True,), "post_norm": (False,)},
    layer_rules=LayerRules(rope=Rope("llama3", theta=12e6, params=tuple(sorted(LLAMA3.items())))),
)
