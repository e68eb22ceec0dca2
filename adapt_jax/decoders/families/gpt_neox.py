"""GPT-NeoX and Pythia (2204.06745, 2304.01373): parallel residuals, partly turned heads."""

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.family import Family
from adapt_jax.decoders.families.layers import HF, Layers
from adapt_jax.decoders.families.tables import FIELDS, OWN, norm, projection
from adapt_jax.decoders.rope import Rope

LAYER = "gpt_neox.layers.{n}."
QKV = tuple(f"{OWN}attention.{name}" for name in ("query", "key", "value"))


def derived(hf: HF) -> HF:
    """Attention and feed-forward part read the same input, unless the file says otherwise."""
    parallel = hf.get("use_parallel_residual", True)
    return {
        "num_kv_heads": hf["num_attention_heads"],
        "head_dim": hf["hidden_size"] // hf["num_attention_heads"],
        "residual": "parallel" if parallel else "sequential",
    }


def spelled(config: DecoderConfig) -> HF:
    """The same in the words of ``config.json``."""
    return {"use_parallel_residual": config.residual == "parallel"}


FAMILY = Family(
    architecture="GPTNeoXForCausalLM",
    model_type="gpt_neox",
    tensors=(
        ("gpt_neox.embed_in.weight", "embedding", False),
        *norm("gpt_neox.final_layer_norm", "norm"),
        ("embed_out.weight", "output.kernel", False),
        *norm(LAYER + "input_layernorm", OWN + "attention_norm"),
        *norm(LAYER + "post_attention_layernorm", OWN + "ffn_norm"),
        # Query, key and value of one head stand together.
        (
            LAYER + "attention.query_key_value.weight",
            tuple(f"{part}.kernel" for part in QKV),
            False,
            "num_heads",
        ),
        (
            LAYER + "attention.query_key_value.bias",
            tuple(f"{part}.bias" for part in QKV),
            False,
            "num_heads",
        ),
        *projection(LAYER + "attention.dense", OWN + "attention.output"),
        *projection(LAYER + "mlp.dense_h_to_4h", OWN + "ffn.up"),
        *projection(LAYER + "mlp.dense_4h_to_h", OWN + "ffn.down"),
    ),
    fields={
        **{key: FIELDS[key] for key in FIELDS if key not in ("num_kv_heads", "head_dim")},
        "activation": ("hidden_act", "gelu"),
        "norm_eps": ("layer_norm_eps", 1e-5),
        "bos_id": ("bos_token_id", 0),
        "qkv_bias": ("attention_bias", True),
        "output_bias": ("attention_bias", True),
    },
    fixed={"norm": "layer", "norm_bias": True, "gated": False, "mlp_bias": True},
    derived=derived,
    spelled=spelled,
    layers=Layers(rope=Rope(fraction=0.25), theta="rotary_emb_base", fraction="rotary_pct"),
    ignored=("*rotary_emb.inv_freq", "*.attention.bias", "*.attention.masked_bias"),
    renamed=(("lm_head.", "embed_out."),),
)
