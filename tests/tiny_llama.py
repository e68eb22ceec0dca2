"""A tiny random Llama with its tokenizer, written as a Hugging Face folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
TINY: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
TEXT = """Q: Jane has 2 apples. She bought 3 more. How many apples does she have in total?
A: Jane starts with 2 apples and buys 3 more, so 2 + 3 = 5. The answer is 5.

Q: Joe has 12 oranges and gives 4 to Ann. How many oranges are left?
A: There were 12 oranges and 4 are gone, so 12 - 4 = 8. The answer is 8.

"""


def tiny_tokenizer() -> Tokenizer:
    """A byte-level BPE with digits apart and BOS in front: it can encode any text."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=TINY["vocab_size"],
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def tensor_shapes(hf: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a Llama checkpoint with this ``config.json``, and its shape."""
    embed, ffn, head = hf["hidden_size"], hf["intermediate_size"], hf["head_dim"]
    wide, narrow = hf["num_attention_heads"] * head, hf["num_key_value_heads"] * head
    attention = {"q": (wide, embed), "k": (narrow, embed), "v": (narrow, embed), "o": (embed, wide)}
    feed = {"gate": (ffn, embed), "up": (ffn, embed), "down": (embed, ffn)}
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (hf["vocab_size"], embed),
        "model.norm.weight": (embed,),
    }
    if not hf["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (hf["vocab_size"], embed)
    for layer in range(hf["num_hidden_layers"]):
        prompt_prefix = f"model.layers.{layer}."
        shapes[prompt_prefix + "input_layernorm.weight"] = (embed,)
        shapes[prompt_prefix + "post_attention_layernorm.weight"] = (embed,)
        for room, parts, bias in (
            ("self_attn", attention, hf["attention_bias"]),
            ("mlp", feed, hf["mlp_bias"]),
        ):
            for name, shape in parts.items():
                shapes[f"{prompt_prefix}{room}.{name}_proj.weight"] = shape
                if bias:
                    shapes[f"{prompt_prefix}{room}.{name}_proj.bias"] = shape[:1]
    return shapes


def write_tiny_llama(folder: Path, *, seed: int = 0, std: float = 0.2, **config: Any) -> Path:
    """Writes a tiny random Llama as a Hugging Face folder with a tokenizer, and returns it.

    Weights have a standard deviation of 0.2: with 0.02 errors in the rotary frequencies hide.
    A ``config`` value of None leaves the field out of ``config.json``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    hf = {**TINY, **config}
    draws = np.random.default_rng(seed)
    sized = {**hf, "head_dim": hf["head_dim"] or hf["hidden_size"] // hf["num_attention_heads"]}
    weights = {
        name: (draws.normal(1.0 if "norm" in name else 0.0, std, shape)).astype(np.float32)
        for name, shape in tensor_shapes(sized).items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    written = {key: value for key, value in hf.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(written, indent=2))
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    named = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    return folder
