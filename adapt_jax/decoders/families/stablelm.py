"""StableLM 2 (2402.17834): Llama with layer norms and a quarter of each head rotated."""

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import FIELDS, TENSORS, default_head_dim
from adapt_jax.decoders.rope import Rope


def _computed_fields(hf: HFConfig) -> HFConfig:
    """The head size, and the residual; parallel ones share their norm."""
    parallel = hf.get("use_parallel_residual", False)
    return {
        "head_dim": default_head_dim(hf),
        "residual": "parallel_shared" if parallel else "sequential",
    }


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """Whether residuals are parallel."""
    return {"use_parallel_residual": config.residual == "parallel_shared"}


FAMILY = Family(
    architecture="StableLmForCausalLM",
    model_type="stablelm",
    tensors=TENSORS,
    fields={
        **{key: FIELDS[key] for key in FIELDS if key != "head_dim"},
        "num_kv_heads": ("num_key_value_heads", 32),
        "context_length": ("max_position_embeddings", 4096),
        "norm_eps": ("layer_norm_eps", 1e-5),
        "bos_id": ("bos_token_id", 0),
        "eos_ids": ("eos_token_id", 0),
        "qkv_bias": ("use_qkv_bias", False),
    },
    fixed_fields={"norm": "layer", "norm_bias": True},
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    supported_values={"qk_layernorm": (False,)},
    layer_rules=LayerRules(
        rope=Rope(partial_rotary_factor=0.25), partial_rotary_field="partial_rotary_factor"
    ),
)
