"""OLMo 3: OLMo 2 with three sliding layers to a full one; only full layers scale their RoPE."""

from dataclasses import replace

from adapt_jax.decoders.families import olmo2
from adapt_jax.decoders.families.layer_rules import LayerRules
from adapt_jax.decoders.rope import Rope

FAMILY = replace(
    olmo2.FAMILY,
    architecture="Olmo3ForCausalLM",
    model_type="olmo3",
    layer_rules=LayerRules(
        rope=Rope(theta=5e5),
        sliding_rope=Rope(theta=5e5),
        window=lambda hf: hf.get("sliding_window", 4096),
        is_sliding=lambda hf, index: (index + 1) % 4 != 0,
    ),
)
