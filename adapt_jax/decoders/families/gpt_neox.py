"""GPT-NeoX and Pythia (2204.06745, 2304.01373): parallel residuals, partly rotated heads."""

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import FIELDS, LAYER, norm, projection
from adapt_jax.decoders.rope import Rope

HF_LAYER = "gpt_neox.layers.{n}."
QKV = tuple(f"{LAYER}attention.{name}" for name in ("query", "key", "value"))


def _computed_fields(hf: HFConfig) -> HFConfig:
    """Sizes of heads, and the residual (by default parallel)."""
    parallel = hf.get("use_parallel_residual", True)
    return {
        "num_kv_heads": hf["num_attention_heads"],
        "head_dim": hf["hidden_size"] // hf["num_attention_heads"],
        "residual": "parallel" if parallel else "sequential",
    }


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """Whether residuals are parallel."""
    return {"use_parallel_residual": config.residual == "parallel"}


FAMILY = Family(
    architecture="GPTNeoXForCausalLM",
    model_type="gpt_neox",
    tensors=(
        ("gpt_neox.embed_in.weight", "embedding", False),
        *norm("gpt_neox.final_layer_norm", "norm"),
        ("embed_out.weight", "output.kernel", False),
        *norm(HF_LAYER + "input_layernorm", LAYER + "attention_norm"),
        *norm(HF_LAYER + "post_attention_layernorm", LAYER + "ffn_norm"),
        # One group for each head: its query, key and value.
        (
            HF_LAYER + "attention.query_key_value.weight",
            tuple(f"{part}.kernel" for part in QKV),
            False,
            "num_heads",
        ),
        (
            HF_LAYER + "attention.query_key_value.bias",
            tuple(f"{part}.bias" for part in QKV),
            False,
            "num_heads",
        ),
        *projection(HF_LAYER + "attention.dense", LAYER + "attention.output"),
        *projection(HF_LAYER + "mlp.dense_h_to_4h", LAYER + "ffn.up"),
        *projection(HF_LAYER + "mlp.dense_4h_to_h", LAYER + "ffn.down"),
    ),
    fields={
        **{key: FIELDS[key] for key in FIELDS if key not in ("num_kv_heads", "head_dim")},
        "activation": ("hidden_act", "gelu"),
        "norm_eps": ("layer_norm_eps", 1e-5),
        "bos_id": ("bos_token_id", 0),
        "qkv_bias": ("attention_bias", True),
        "output_bias": ("attention_bias", True),
    },
    fixed_fields={"norm": "layer", "norm_bias": True, "gated": False, "mlp_bias": True},
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(
        rope=Rope(partial_rotary_factor=0.25),
        theta_field="rotary_emb_base",
        partial_rotary_field="rotary_pct",
    ),
    ignored_tensors=("*rotary_emb.inv_freq", "*.attention.bias", "*.attention.masked_bias"),
    prefix_aliases=(("lm_head.", "embed_out."),),
)
