"""Nemotron-4 and Minitron (2402.16819): layer norms (their stored scale is one less), ReLU²."""

from dataclasses import replace

from adapt_jax.decoders.families import arcee
from adapt_jax.decoders.families.layer_rules import LayerRules
from adapt_jax.decoders.rope import Rope

FAMILY = replace(
    arcee.FAMILY,
    architecture="NemotronForCausalLM",
    model_type="nemotron",
    fields={
        **arcee.FAMILY.fields,
        "norm_eps": ("norm_eps", 1e-5),
        "bos_id": ("bos_token_id", 2),
        "eos_ids": ("eos_token_id", 3),
    },
    fixed_fields={"norm": "layer_plus_one", "norm_bias": True, "gated": False},
    layer_rules=LayerRules(
        rope=Rope(partial_rotary_factor=0.5), partial_rotary_field="partial_rotary_factor"
    ),
)
