"""StableLM 2 (2402.17834): Llama with layer norms and a quarter of each head turned."""

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layers import HF, Layers
from adapt_jax.decoders.families.tables import FIELDS, TENSORS, even_share
from adapt_jax.decoders.rope import Rope


def derived(hf: HF) -> HF:
    """Whether attention and feed-forward part read the same input; they share the norm then."""
    parallel = hf.get("use_parallel_residual", False)
    return {
        "head_dim": even_share(hf),
        "residual": "parallel_shared" if parallel else "sequential",
    }


def spelled(config: DecoderConfig) -> HF:
    """The same in the words of ``config.json``."""
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
    fixed={"norm": "layer", "norm_bias": True},
    derived=derived,
    spelled=spelled,
    must_be={"qk_layernorm": (False,)},
    layers=Layers(rope=Rope(fraction=0.25), fraction="partial_rotary_factor"),
)
