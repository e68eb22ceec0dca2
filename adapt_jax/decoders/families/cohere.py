"""Command R and R+, Aya 23 and Aya Expanse (Cohere): parallel residuals, scaled logits."""

from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families import cohere2
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.families.tables import FIELDS
from adapt_jax.decoders.rope import Rope


def _computed_fields(hf: HFConfig) -> HFConfig:
    """The divisor of logits, and whether queries and keys are normed."""
    return {
        "logit_divisor": cohere2.read_logit_divisor(hf),
        "qk_norm": "each_head" if hf.get("use_qk_norm") else None,
    }


def _extra_hf_fields(config: DecoderConfig) -> HFConfig:
    """The scale of logits, and whether queries and keys are normed."""
    return {"logit_scale": 1 / config.logit_divisor, "use_qk_norm": config.qk_norm is not None}


FAMILY = replace(
    cohere2.FAMILY,
    architecture="CohereForCausalLM",
    model_type="cohere",
    fields={**cohere2.FAMILY.fields, "head_dim": FIELDS["head_dim"]},
    computed_fields=_computed_fields,
    extra_hf_fields=_extra_hf_fields,
    layer_rules=LayerRules(rope=Rope(theta=5e5, interleaved=True)),
)
