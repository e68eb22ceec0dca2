"""GLM-4-9B of 2024 (2406.12793): GLM-4 (0414) without norms after attention and feed-forward."""

from dataclasses import replace

from adapt_jax.decoders.families import glm4

FAMILY = replace(glm4.FAMILY, architecture="GlmForCausalLM", model_type="glm", fixed_fields={})
