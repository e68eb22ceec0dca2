"""AFM-4.5B (Arcee AI, 2025): Llama with an ungated feed-forward layer and squared ReLU."""

from dataclasses import replace

from adapt_jax.decoders.families import llama

FAMILY = replace(
    llama.FAMILY,
    architecture="ArceeForCausalLM",
    model_type="arcee",
    fields={
        **llama.FAMILY.fields,
        "context_length": ("max_position_embeddings", 4096),
        "activation": ("hidden_act", "relu2"),
        "norm_eps": ("rms_norm_eps", 1e-5),
        "bos_id": ("bos_token_id", 128000),
        "eos_ids": ("eos_token_id", 128001),
    },
    fixed_fields={"gated": False},
)
