"""GLM-4.7-Flash: DeepSeek-V3 with other defaults and a list of its dense layers."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families import deepseek
from adapt_jax.decoders.families.experts import read_shared_experts
from adapt_jax.decoders.families.latent import read_latent_attention
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules

SIZES = {"kv_rank": 512, "query_rank": 768, "nope_dim": 192, "rope_dim": 64, "value_dim": 256}


def _read_mlp_layer_types(hf: HFConfig) -> list[str]:
    """Whether each layer is "dense" or has experts, "sparse"; by default the first one is dense.

    Raises:
        ValueError: a name that is neither, or more or fewer names than layers.
    """
    count = hf["num_hidden_layers"]
    named = list(hf.get("mlp_layer_types") or ["dense", *["sparse"] * (count - 1)])
    if len(named) != count or not {"dense", "sparse"}.issuperset(named):
        raise ValueError(f"mlp_layer_types: expected dense or sparse for each of {count} layers")
    return named


def _write_glm(config: DecoderConfig) -> HFConfig:
    hf = deepseek.write_v3(config)
    del hf["first_k_dense_replace"], hf["num_nextn_predict_layers"]
    is_moe = [config.layer_config(index).is_moe for index in range(config.num_layers)]
    return hf | {"mlp_layer_types": ["sparse" if one else "dense" for one in is_moe]}


FAMILY = replace(
    deepseek.V3,
    architecture="Glm4MoeLiteForCausalLM",
    model_type="glm4_moe_lite",
    fields={
        **deepseek.V3.fields,
        "num_kv_heads": ("num_key_value_heads", 20),
        "context_length": ("max_position_embeddings", 202752),
        "norm_eps": ("rms_norm_eps", 1e-5),
    },
    computed_fields=lambda hf: read_latent_attention(hf, **SIZES),
    moe_fields={
        **deepseek.V3.moe_fields,
        "num_experts": (("n_routed_experts", "num_local_experts"), 64),
        "experts_per_token": ("num_experts_per_tok", 4),
        "ffn_dim": ("moe_intermediate_size", 1536),
        "weight_scale": ("routed_scaling_factor", 1.8),
        "num_groups": ("n_group", 1),
        "groups_per_token": ("topk_group", 1),
    },
    computed_moe_fields=read_shared_experts(ffn_dim=1536),
    extra_hf_fields=_write_glm,
    supported_values={**deepseek.V3.supported_values, "first_k_dense_replace": (1,)},
    layer_rules=LayerRules(
        adjust=lambda hf, index, layer: replace(
            deepseek.choose_rope_pairs(hf, layer),
            is_moe=_read_mlp_layer_types(hf)[index] == "sparse",
        )
    ),
)
