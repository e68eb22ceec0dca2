"""Llama 2, 3 and all that call themselves ``LlamaForCausalLM`` (2307.09288, 2407.21783)."""

from typing import Any

from adapt_jax.decoders.config import DecoderConfig, rope_frequencies

LAYER, ATTENTION, FFN = "model.layers.{n}.", "layers.{n}.attention.", "layers.{n}.ffn."

# Hugging Face keeps a projection as [out, in], the decoder as [in, out]: its axes are swapped.
TENSORS: tuple[tuple[Any, ...], ...] = (
    ("model.embed_tokens.weight", "embedding", False),
    (LAYER + "input_layernorm.weight", "layers.{n}.attention_norm.scale", False),
    (LAYER + "self_attn.q_proj.weight", ATTENTION + "query.kernel", True),
    (LAYER + "self_attn.q_proj.bias", ATTENTION + "query.bias", False),
    (LAYER + "self_attn.k_proj.weight", ATTENTION + "key.kernel", True),
    (LAYER + "self_attn.k_proj.bias", ATTENTION + "key.bias", False),
    (LAYER + "self_attn.v_proj.weight", ATTENTION + "value.kernel", True),
    (LAYER + "self_attn.v_proj.bias", ATTENTION + "value.bias", False),
    (LAYER + "self_attn.o_proj.weight", ATTENTION + "output.kernel", True),
    (LAYER + "self_attn.o_proj.bias", ATTENTION + "output.bias", False),
    (LAYER + "post_attention_layernorm.weight", "layers.{n}.ffn_norm.scale", False),
    (LAYER + "mlp.gate_proj.weight", FFN + "gate.kernel", True),
    (LAYER + "mlp.gate_proj.bias", FFN + "gate.bias", False),
    (LAYER + "mlp.up_proj.weight", FFN + "up.kernel", True),
    (LAYER + "mlp.up_proj.bias", FFN + "up.bias", False),
    (LAYER + "mlp.down_proj.weight", FFN + "down.kernel", True),
    (LAYER + "mlp.down_proj.bias", FFN + "down.bias", False),
    ("model.norm.weight", "norm.scale", False),
    ("lm_head.weight", "output.kernel", True),
)
# Old checkpoints store what the config already says.
IGNORED: tuple[str, ...] = ("rotary_emb.inv_freq",)


def to_config(hf: dict[str, Any]) -> DecoderConfig:
    """Translates a ``config.json``; absent fields mean what transformers takes them to mean.

    Raises:
        KeyError: a size that has no default is absent.
        ValueError: a field asks for what this decoder does not compute.
    """
    activation = hf.get("hidden_act", "silu")
    if activation != "silu":
        raise ValueError(f"hidden_act {activation!r} is not supported; supported: silu")
    heads = hf["num_attention_heads"]
    # transformers 5 keeps everything rotary in `rope_parameters`, older ones in two fields.
    rope = {**(hf.get("rope_scaling") or {}), **(hf.get("rope_parameters") or {})}
    theta = rope.pop("rope_theta", hf.get("rope_theta"))
    if rope.get("partial_rotary_factor", hf.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ValueError("partial_rotary_factor is not supported; expected 1.0")
    rope["rope_type"] = rope.pop("type", None) or rope.get("rope_type", "default")
    if rope["rope_type"] == "default":
        rope = {}
    eos = hf.get("eos_token_id", 2)
    config = DecoderConfig(
        family="LlamaForCausalLM",
        vocab_size=hf["vocab_size"],
        embed_dim=hf["hidden_size"],
        ffn_dim=hf["intermediate_size"],
        num_layers=hf["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=hf.get("num_key_value_heads") or heads,
        head_dim=hf.get("head_dim") or hf["hidden_size"] // heads,
        context_length=hf.get("max_position_embeddings", 2048),
        norm_eps=hf.get("rms_norm_eps", 1e-6),
        rope_theta=10000.0 if theta is None else theta,
        rope_scaling=tuple(sorted(rope.items())),
        tie_embeddings=hf.get("tie_word_embeddings", False),
        attention_bias=hf.get("attention_bias", False),
        mlp_bias=hf.get("mlp_bias", False),
        bos_id=hf.get("bos_token_id", 1),
        eos_ids=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        pad_id=hf.get("pad_token_id"),
    )
    rope_frequencies(config)  # an unknown rope_type is refused here, before any weight is read
    return config


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The ``config.json`` of this decoder, for transformers 4 and 5 alike."""
    scaling = dict(config.rope_scaling)
    eos = list(config.eos_ids)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling or None,
        "rope_parameters": {"rope_type": "default", **scaling, "rope_theta": config.rope_theta},
        "hidden_act": "silu",
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "bos_token_id": config.bos_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "pad_token_id": config.pad_id,
    }
