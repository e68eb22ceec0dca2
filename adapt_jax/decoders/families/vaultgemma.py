"""VaultGemma (2510.15001): Gemma 2 without norms after attention and feed-forward layer."""

from dataclasses import replace

from adapt_jax.decoders.families import gemma2

FAMILY = replace(
    gemma2.FAMILY,
    architecture="VaultGemmaForCausalLM",
    model_type="vaultgemma",
    fixed_fields={"norm": "rms_plus_one"},
)
