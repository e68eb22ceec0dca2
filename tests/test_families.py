"""Every family against transformers: the same logits, gradients, texts; nothing of it by accident.

Each case is a row of data: a ``config.json`` with the sizes of ``SIZES``. Weights are random, with
a standard deviation of 0.2: with small ones an error in the rotary positions hides. Everything but
the engine runs op by op, so that the cases share their compilations.
"""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_tokenizer
from flax import nnx

from adapt_jax.decoders.attention import causal_mask
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.families import FAMILIES, tensor_names
from adapt_jax.decoders.folders import read_config
from adapt_jax.decoders.prefix import Prefix, SoftPrompt, encode_prefix
from adapt_jax.decoders.pretrained import PretrainedDecoder, load_pretrained, parameters
from adapt_jax.decoders.saving import save_pretrained
from adapt_jax.errors import UserError
from adapt_jax.sampling.decoding import Decoding, Request
from adapt_jax.sampling.engine import Engine
from adapt_jax.sampling.generate import generate
from adapt_jax.sampling.memory import slot_bytes

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "bos_token_id": 0,
    "eos_token_id": None,
    "pad_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
    "rope_theta": 5000.0,
}
YARN = {
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 1024,
    "beta_fast": 10.0,
    "beta_slow": 1.0,
    "rope_theta": 100.0,
}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.5, 2.0],
    "long_factor": [2.0, 3.0, 5.0],
    "rope_theta": 5000.0,
    "partial_rotary_factor": 0.75,
}
HALF_TURNED = {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5}
FULL, SLIDING = "full_attention", "sliding_attention"
TWO_ROPES = {FULL: YARN, SLIDING: {"rope_type": "default", "rope_theta": 50.0}}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24}
GPT2 = {
    "vocab_size": 320,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 8192,
    "n_inner": 80,
    "bos_token_id": 0,
    "eos_token_id": None,
    "pad_token_id": 2,
}
GEMMA4 = {
    "head_dim": 8,
    "global_head_dim": 16,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "sliding_window": 9,
    "hidden_size_per_layer_input": 0,
    "layer_types": [SLIDING, FULL],
    "rope_parameters": {
        FULL: {"rope_type": "proportional", "rope_theta": 300.0, "partial_rotary_factor": 0.5},
        SLIDING: {"rope_type": "default", "rope_theta": 50.0},
    },
}
# name -> (model type, fields beside SIZES)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, llama3": ("llama", {"rope_parameters": LLAMA3, "rms_norm_eps": 1e-3}),
    "llama, yarn, biases": (
        "llama",
        {"rope_parameters": YARN, "attention_bias": True, "mlp_bias": True, "head_dim": 16},
    ),
    "llama, linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 300.0}},
    ),
    "llama, dynamic": (
        "llama",
        {
            "rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 300.0},
            "max_position_embeddings": 256,
        },
    ),
    "mistral": ("mistral", {"sliding_window": 9, "head_dim": 16}),
    "ministral": (
        "ministral",
        {"head_dim": 8, "sliding_window": 9, "layer_types": [SLIDING, FULL]},
    ),
    "ministral3": (
        "ministral3",
        {
            "head_dim": 16,
            "rope_parameters": {**YARN, "llama_4_scaling_beta": 0.4, "mscale": 0.5}
            | {"mscale_all_dim": 1.5, "original_max_position_embeddings": 16}
            | {"beta_fast": 0.5, "beta_slow": 0.1},
        },
    ),
    "qwen2": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}),
    "qwen3_moe": (
        "qwen3_moe",
        {"head_dim": 16, "mlp_only_layers": [1], "norm_topk_prob": True, **EXPERTS},
    ),
    "qwen3_moe, not normalized": (
        "qwen3_moe",
        {"head_dim": 8, "use_sliding_window": True, "sliding_window": 9, **EXPERTS},
    ),
    "mixtral": ("mixtral", {"num_local_experts": 4, "sliding_window": 9}),
    "gemma": ("gemma", {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 16,
            "sliding_window": 9,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 5.0,
        },
    ),
    "gemma2, full": ("gemma2", {"head_dim": 16, "layer_types": [FULL, FULL]}),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 16,
            "sliding_window": 9,
            "query_pre_attn_scalar": 24,
            "rope_parameters": TWO_ROPES,
            "layer_types": [SLIDING, FULL],
        },
    ),
    "gemma4": ("gemma4_text", {**GEMMA4, "final_logit_softcapping": 5.0}),
    "gemma4, experts": (
        "gemma4_text",
        {
            **GEMMA4,
            "enable_moe_block": True,
            "num_experts": 6,
            "top_k_experts": 3,
            "moe_intermediate_size": 24,
            "use_bidirectional_attention": "vision",
        },
    ),
    "gemma4, layer inputs": (
        "gemma4_text",
        {
            **GEMMA4,
            "num_hidden_layers": 5,
            "layer_types": [SLIDING, FULL, SLIDING, SLIDING, FULL],
            "attention_k_eq_v": False,
            "attention_bias": True,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "hidden_size_per_layer_input": 6,
            "vocab_size_per_layer_input": 330,
        },
    ),
    "gemma4, unified": (
        "gemma4_unified_text",
        {name: value for name, value in GEMMA4.items() if "per_layer" not in name},
    ),
    "phi3": ("phi3", {"sliding_window": 9}),
    "phi3, longrope": (
        "phi3",
        {"rope_parameters": LONG, "original_max_position_embeddings": 128},
    ),
    "olmo2": ("olmo2", {"rope_parameters": LLAMA3}),
    "olmo3": (
        "olmo3",
        {"sliding_window": 9, "rope_parameters": TWO_ROPES, "layer_types": [SLIDING, FULL]},
    ),
    "smollm3": (
        "smollm3",
        {"no_rope_layers": [1, 0], "use_sliding_window": True, "sliding_window": 9},
    ),
    "granite": (
        "granite",
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "attention_multiplier": 0.2,
            "logits_scaling": 2.0,
        },
    ),
    "seed_oss": ("seed_oss", {"head_dim": 16, "attention_out_bias": True, "mlp_bias": True}),
    "glm4": ("glm4", {"head_dim": 16, "rope_parameters": HALF_TURNED}),
    "starcoder2": ("starcoder2", {"sliding_window": 9}),
    "stablelm": ("stablelm", {"rope_parameters": HALF_TURNED, "use_qkv_bias": True}),
    "stablelm, parallel": (
        "stablelm",
        {"rope_parameters": HALF_TURNED, "use_parallel_residual": True},
    ),
    "exaone4": ("exaone4", {"sliding_window": 9, "layer_types": [SLIDING, FULL]}),
    "cohere2": (
        "cohere2",
        {
            "sliding_window": 9,
            "layer_types": [SLIDING, FULL],
            "logit_scale": 0.25,
            "attention_bias": True,
        },
    ),
    "gpt2": ("gpt2", GPT2),
    "gpt_neox": ("gpt_neox", {"rope_parameters": HALF_TURNED}),
    "gpt_neox, sequential": (
        "gpt_neox",
        {
            "use_parallel_residual": False,
            "attention_bias": False,
            "hidden_act": "gelu_new",
            "rope_parameters": HALF_TURNED,
        },
    ),
}
# The first case of each family; the others differ in what has nothing to do with decoding.
FIRST = [name for name in CASES if "," not in name or name == "llama, llama3"]
FIRST += ["gemma4, experts", "gemma4, layer inputs"]
ROPES = ["llama, yarn, biases", "llama, linear", "llama, dynamic", "phi3, longrope"]
PROMPT = (5, 9, 17, 30, 4, 8, 200, 310, 77, 12, 40, 41, 42, 300)


def make(folder: Path, name: str, **changes: Any) -> Any:
    """Writes a random checkpoint of a case with transformers; returns the PyTorch model."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    model_type, fields = CASES[name]
    sizes = {} if model_type == "gpt2" else dict(SIZES)
    if model_type == "gpt_neox":
        del sizes["num_key_value_heads"]
    config = CONFIG_MAPPING[model_type](**copy.deepcopy({**sizes, **fields, **changes}))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            scale = "norm" in key or "ln_" in key
            centre = 1.0 if scale and key.endswith("weight") and value.ndim == 1 else 0.0
            value.copy_(torch.randn(value.shape) * 0.2 + centre)
        for key, value in model.named_buffers():
            if key.endswith("layer_scalar"):
                value.copy_(torch.randn(value.shape) * 0.2 + 1.0)
        model.tie_weights()
    model.save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|pad|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder, the PyTorch model and the decoder of a case, made once."""
    kept: dict[str, tuple[Path, Any, PretrainedDecoder]] = {}

    def get(name: str) -> tuple[Path, Any, PretrainedDecoder]:
        if name not in kept:
            folder = tmp_path_factory.mktemp("family")
            model = make(folder, name)
            kept[name] = folder, model, load_pretrained(folder)
        return kept[name]

    return get


def tokens(rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(1).integers(3, 320, (rows, length)).astype(np.int32)


def run(decoder: Decoder, ids: np.ndarray, real: np.ndarray | None = None) -> jax.Array:
    """Logits [B, T, V]; ``real`` is 1 where a token is no padding."""
    real = np.ones_like(ids) if real is None else real
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    hidden, _ = decoder(
        decoder.embed(jnp.asarray(ids)), jnp.asarray(positions), causal_mask(jnp.asarray(real))
    )
    return decoder.logits(hidden)


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients_equal_transformers_however_rows_are_padded(
    name: str, made: Any
) -> None:
    import torch

    _, model, ours = made(name)
    ids, real = tokens(3, 48), np.ones((3, 48), np.int32)
    real[1, :11], real[2, -7:] = 0, 0  # padded on the left, on the right
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    targets = np.roll(ids, -1, axis=1)
    counted = (real * np.roll(real, -1, axis=1)).astype(np.float32)
    counted[:, -1] = 0

    embeds = model.get_input_embeddings()(torch.tensor(ids)).detach().requires_grad_()
    by_token = {}
    if getattr(model.config, "hidden_size_per_layer_input", 0):
        by_token["per_layer_inputs"] = model.model.get_per_layer_inputs(torch.tensor(ids))
    theirs = model(
        inputs_embeds=embeds,
        **by_token,
        attention_mask=torch.tensor(real),
        position_ids=torch.tensor(positions),
    ).logits
    surprise = torch.nn.functional.cross_entropy(
        theirs.flatten(0, 1), torch.tensor(targets, dtype=torch.long).flatten(), reduction="none"
    )
    (surprise * torch.tensor(counted).flatten()).sum().backward()

    decoder = ours.decoder

    def loss(x: jax.Array) -> Any:
        mask = causal_mask(jnp.asarray(real))
        logits = decoder.logits(decoder(x, jnp.asarray(positions), mask)[0])
        logs = jax.nn.log_softmax(logits)
        said = jnp.take_along_axis(logs, jnp.asarray(targets)[..., None], axis=-1)[..., 0]
        return -(said * counted).sum(), logits

    (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(decoder.embed(jnp.asarray(ids)))
    expected, seen = theirs.detach().numpy(), real.astype(bool)
    scale = np.abs(expected[seen]).max()
    assert np.std(expected[seen]) > 0.1  # weights large enough to show an error
    np.testing.assert_allclose(np.asarray(logits)[seen], expected[seen], atol=1e-4 * scale, rtol=0)
    slope = embeds.grad.numpy()
    np.testing.assert_allclose(
        np.asarray(gradient)[seen][:, : slope.shape[-1]],
        slope[seen],
        atol=1e-3 * np.abs(slope).max(),
        rtol=0,
    )


@pytest.mark.parametrize("name", [*FIRST, *ROPES])
def test_logits_equal_transformers_past_4096_tokens(name: str, made: Any) -> None:
    import torch

    _, model, ours = made(name)
    ids = tokens(1, 4200)
    with torch.no_grad():
        expected = model(torch.tensor(ids), logits_to_keep=64).logits.numpy()
    found = run(ours.decoder, ids)[:, -64:]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("name", [*FIRST, "llama, dynamic", "phi3, longrope"])
def test_greedy_text_behind_a_shared_prefix_equals_transformers(name: str, made: Any) -> None:
    import torch

    _, model, ours = made(name)
    questions = [(7, 19, 33), (88, 3, 150, 151, 9, 30, 222)]
    engine = Engine(ours, Prefix((PROMPT,)), Decoding(max_new_tokens=64), seed=0)
    requests = [Request(str(number), question) for number, question in enumerate(questions)]
    found = {index: candidate.token_ids for index, _, candidate in engine.run(requests)}
    for index, question in enumerate(questions):
        ids = torch.tensor([[*PROMPT, *question]])
        mask = torch.ones_like(ids)
        with torch.no_grad():
            whole = model.generate(
                ids, attention_mask=mask, max_new_tokens=64, do_sample=False, pad_token_id=2
            )
        assert found[index] == tuple(whole[0, ids.shape[1] :].tolist())


CHECKPOINTS = (
    "llama-2-7b",
    "llama-3.2-3b",
    "mistral-devstral-24b",
    "qwen2.5-14b-cogito",
    "qwen3-1.7b",
    "gemma-2b-it",
    "gemma3-27b-medgemma",
    "phi3-mini-slerp",
)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_the_tensors_of_real_checkpoints_are_those_of_the_decoder(
    checkpoint: str, shared: Path
) -> None:
    folder = shared / "data" / "hf_checkpoints" / checkpoint
    family, config = read_config(folder)
    decoder = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    stored = tensor_names(family, config)
    expected = {name for path in parameters(decoder) for name in stored[path].names}
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    held = (name for name in index["weight_map"] if not family.ignores(name, config))
    real = {family.canonical(name) for name in held}
    if config.tie_embeddings:
        real.discard("lm_head.weight")
    assert real == expected


# What of config.json changes no logits: training, bookkeeping, other names of the same.
INERT = {
    *("architectures", "model_type", "transformers_version", "dtype", "use_cache", "torch_dtype"),
    *("initializer_range", "attention_dropout", "hidden_dropout", "classifier_dropout"),
    *("attn_pdrop", "embd_pdrop", "resid_pdrop", "pretraining_tp", "is_decoder"),
    *("residual_dropout", "embedding_dropout"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"),
    *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
    *("summary_first_dropout", "reorder_and_upcast_attn", "output_router_logits"),
    *("router_aux_loss_coef", "router_jitter_noise", "no_rope_layer_interval", "ffn_dim"),
    *("rope_type",),  # has cases of its own
}
# Silent where another field has told already, or where nothing depends on them.
TOLD_ELSEWHERE = {"max_window_layers", "_sliding_window_pattern", "sliding_window_pattern"}
SILENT = {
    "qwen3": {"use_sliding_window"},  # layer_types has told
    "qwen3_moe": {"use_sliding_window"},  # there is no window
    "qwen3_moe, not normalized": {"intermediate_size"},  # no layer is dense
    "gemma4": {"vocab_size_per_layer_input", "use_double_wide_mlp"},  # no layer is told, or reads
    "gemma4, experts": {"vocab_size_per_layer_input", "use_double_wide_mlp"},
    "gemma4, unified": {"use_double_wide_mlp"},
    "gemma2, full": {"sliding_window"},  # no layer slides
    "cohere2": {"head_dim"},  # heads always share out the hidden size
    "phi3": {"original_max_position_embeddings"},  # no LongRoPE
    "phi3, longrope": {"rope_parameters.original_max_position_embeddings"},
}
OTHER: dict[str, Any] = {
    "hidden_act": "relu",
    "hidden_activation": "relu",
    "activation_function": "relu",
    "layer_types": lambda types: [FULL if name == SLIDING else SLIDING for name in types],
    "no_rope_layers": lambda layers: [1 - layer for layer in layers],
    "mlp_only_layers": lambda layers: [0] if layers != [0] else [],
    "attn_logit_softcapping": lambda cap: 1.0 if cap is None else cap / 2,
    "final_logit_softcapping": lambda cap: 1.0 if cap is None else cap / 2,
    "use_bidirectional_attention": True,
    "norm_topk_prob": lambda told: not told,
    "truncate": lambda told: not told,
    "partial_rotary_factor": lambda share: share / 2,
    "rms_norm_eps": 0.3,
    "layer_norm_eps": 0.3,
    "layer_norm_epsilon": 0.3,
    "num_experts_per_tok": lambda count: count - 1,
    "num_kv_shared_layers": lambda count: count + 1,
    "hidden_size_per_layer_input": lambda size: size + 2,
    "sliding_window": lambda window: window - 4,
    "low_freq_factor": lambda factor: factor * 2,
}


def altered(value: Any, name: str) -> Any:
    """Another value for a field of ``config.json``."""
    if name in OTHER:
        return OTHER[name](value) if callable(OTHER[name]) else OTHER[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [2 * number for number in value]
    return 2 * value


def fields(hf: dict[str, Any], at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every field of ``config.json`` that ought to change the logits."""
    found: list[tuple[str, ...]] = []
    for name, value in hf.items():
        if isinstance(value, dict):
            found += fields(value, (*at, name))
        elif name not in INERT and (value is not None or name.endswith("capping")):
            found.append((*at, name))
    return found


MOVED: set[tuple[str, ...]] = set()  # what was seen to move the logits, in any case


@pytest.mark.parametrize("name", CASES)
def test_no_field_of_the_config_can_be_altered_unnoticed(name: str, made: Any) -> None:
    folder, _, ours = made(name)
    family, hf = FAMILIES[ours.config.family], json.loads((folder / "config.json").read_text())
    silent = set()
    for path in fields(hf):
        other = copy.deepcopy(hf)
        inner = other
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = altered(inner[path[-1]], path[-1])
        try:
            config = family.to_config(other)
        except (ValueError, KeyError, IndexError):
            continue  # refused by name
        differ = tuple(
            one for one in vars(config) if getattr(config, one) != getattr(ours.config, one)
        )
        if differ == ("context_length",):
            continue  # how long a text may be
        kinds = {kind.rope.kind for kind in config.layer_kinds if kind.rope}
        key = (*differ, *((path[-1], *sorted(kinds)) if "layer_kinds" in differ else ()))
        if differ and key in MOVED:
            continue
        if differ and moves(ours.decoder, config):
            MOVED.add(key)
        else:
            silent.add(".".join(path))
    assert silent <= TOLD_ELSEWHERE | SILENT.get(name, set())


def moves(decoder: Decoder, config: DecoderConfig) -> bool:
    """Whether the decoder's weights are refused by another config, or yield other logits."""
    other = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    shapes = [{key: x.shape for key, x in parameters(one).items()} for one in (decoder, other)]
    if shapes[0] != shapes[1]:
        return True
    other = nnx.merge(nnx.split(other)[0], nnx.split(decoder)[1])
    limits = [kind.rope.limit for kind in config.layer_kinds if kind.rope]
    for length in (40, 300) if any(limits) else (40,):
        one, two = (np.asarray(run(one, tokens(1, length))) for one in (decoder, other))
        if np.abs(one - two).max() > 1e-3 * np.abs(one).max():
            return True
    return False


@pytest.mark.parametrize("name", CASES)
def test_a_saved_folder_is_bit_exact_and_transformers_loads_it(
    name: str, made: Any, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    _, model, ours = made(name)
    save_pretrained(ours, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    there = again.state_dict()
    assert all(torch.equal(value, there[key]) for key, value in model.state_dict().items())
    ids = torch.tensor(tokens(1, 40))
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    assert read_config(tmp_path)[1] == ours.config


# What older files say, where transformers 5 has rope_parameters and layer_types.
THETA = {"rope_theta": 777.0}
LINEAR = {"rope_scaling": {"type": "linear", "factor": 3.0}}
OLDER: dict[str, list[dict[str, Any]]] = {
    "llama": [THETA, {**THETA, **LINEAR}, {**THETA, "rope_scaling": {**LLAMA3}}],
    "mistral": [{**THETA, "sliding_window": None}, {**THETA, **LINEAR, "sliding_window": 9}],
    "mixtral": [{**THETA, "sliding_window": 9}],
    "qwen2": [
        {**THETA, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
        {**THETA, "use_sliding_window": False, "sliding_window": 9, "max_window_layers": 1},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    ],
    "qwen3": [{**THETA, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 0}],
    "qwen3_moe": [{**THETA, "decoder_sparse_step": 2}, {"mlp_only_layers": [0]}],
    "gemma": [{**THETA, "hidden_act": "gelu"}],
    "gemma2": [{**THETA, "sliding_window": 9}],
    "gemma3_text": [
        {
            **THETA,
            "rope_scaling": {"rope_type": "linear", "factor": 3.0},
            "rope_local_base_freq": 55.0,
            "sliding_window_pattern": 2,
        },
        {"rope_parameters": {FULL: {"rope_type": "default", "rope_theta": 9.0}}},
    ],
    "phi3": [
        {"rope_scaling": {**LONG, "type": "su"}, "original_max_position_embeddings": 64, **THETA},
        {"rope_scaling": LONG, "partial_rotary_factor": 0.75},
    ],
    "olmo2": [{**THETA, **LINEAR}],
    "olmo3": [{**THETA, "rope_scaling": YARN}, {"rope_theta": 5.0}],
    "smollm3": [{**THETA, "no_rope_layer_interval": 2}, {"no_rope_layers": [0, 1], **LINEAR}],
    "granite": [{**THETA, **LINEAR}],
    "gemma4_text": [
        {"global_head_dim": 24, "num_hidden_layers": 7, "num_kv_shared_layers": 1},
        {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
        {"num_global_key_value_heads": 1, "hidden_size_per_layer_input": 0},
    ],
    "glm4": [{**THETA, "partial_rotary_factor": 0.25}],
    "stablelm": [{**THETA, "partial_rotary_factor": 0.5}],
    "starcoder2": [{**THETA, "sliding_window": 9}],
    "exaone4": [{**THETA, "sliding_window": None, "layer_types": [FULL, FULL]}],
    "cohere2": [{**THETA, "sliding_window_pattern": 2}],
    "gpt_neox": [{"rotary_emb_base": 777, "rotary_pct": 0.5}, {**LINEAR, "rotary_pct": 1.0}],
    "ministral3": [{}],
}


@pytest.mark.parametrize(
    ("model_type", "older"),
    [
        *((model_type, {}) for model_type in sorted({case[0] for case in CASES.values()})),
        *((model_type, older) for model_type, rows in OLDER.items() for older in rows),
    ],
    ids=str,
)
def test_silence_and_older_spellings_mean_what_transformers_takes_them_to_mean(
    model_type: str, older: dict[str, Any]
) -> None:
    from transformers import CONFIG_MAPPING

    sizes = {key: value for key, value in SIZES.items() if not key.endswith("_id")}
    del sizes["max_position_embeddings"]
    if model_type == "gpt2":
        sizes = {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4}
    given = {**sizes, **older}
    theirs = CONFIG_MAPPING[model_type](**copy.deepcopy(given)).to_dict()
    family = next(one for one in FAMILIES.values() if one.model_type == model_type)
    if theirs.get("head_dim", 0) is None:
        del theirs["head_dim"]
    config = family.to_config(given)
    assert config == family.to_config(theirs)
    assert family.to_config(family.to_hf(config)) == config


@pytest.mark.parametrize("kind", ["gemma3", "gemma4", "mistral3"])
def test_the_text_decoder_comes_out_of_a_multimodal_checkpoint(kind: str, tmp_path: Path) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    inner = {
        "gemma3": ("gemma3", "siglip_vision_model"),
        "gemma4": ("gemma4, layer inputs", "gemma4_vision"),
        "mistral3": ("ministral3", "pixtral"),
    }
    text_case, vision_type = inner[kind]
    model_type, changes = CASES[text_case]
    text = CONFIG_MAPPING[model_type](**copy.deepcopy({**SIZES, **changes}))
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    vision |= {"num_attention_heads": 2, "num_key_value_heads": 2, "patch_size": 14}
    vision |= {"image_size": 28} if kind != "gemma4" else {"position_embedding_size": 16}
    config = CONFIG_MAPPING[kind](
        text_config=text.to_dict(),
        vision_config={"model_type": vision_type, **vision},
        tie_word_embeddings=kind == "gemma4",
        eos_token_id=7,
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape) * 0.2)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|pad|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    ours = load_pretrained(tmp_path)
    assert ours.config.eos_ids == (7,)
    ids = tokens(2, 40)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(ids)).logits.numpy()
    found = run(ours.decoder, ids)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("name", ["llama, dynamic", "phi3, longrope"])
def test_a_declared_length_fixes_the_frequencies_before_anything_is_read(
    name: str, made: Any
) -> None:
    import torch

    folder, model, ours = made(name)
    ids = tokens(1, 300)
    with torch.no_grad():
        expected = model(torch.tensor(ids)).logits.numpy()
    declared = load_pretrained(folder, context_length=300)
    # A beginning, a prefix and what stands behind it know the length of the whole.
    scale = np.abs(expected).max()
    found = run(declared.decoder, ids[:, :40])
    np.testing.assert_allclose(found, expected[:, :40], atol=1e-4 * scale, rtol=0)
    decoder = declared.decoder
    prefix = encode_prefix(decoder, decoder.embed(jnp.asarray(ids[0, :90])))
    rest = jnp.asarray(ids[:, 90:])
    hidden, _ = decoder(
        decoder.embed(rest),
        90 + jnp.arange(210)[None],
        causal_mask(jnp.ones_like(rest)),
        prefix=prefix.blocks,
    )
    np.testing.assert_allclose(decoder.logits(hidden), expected[:, 90:], atol=1e-4 * scale, rtol=0)
    undeclared = np.asarray(run(ours.decoder, ids[:, :40]))
    assert np.abs(undeclared - expected[:, :40]).max() > 0.01 * scale
    # Padding is no part of the length: a padded prefix keeps the pretrained frequencies.
    front = ours.decoder.embed(jnp.asarray(ids[0, :90]))
    padded = encode_prefix(ours.decoder, jnp.pad(front, ((0, 210), (0, 0))), 90)
    for one, other in zip(padded.layers, encode_prefix(ours.decoder, front).layers, strict=True):
        np.testing.assert_allclose(one[0][:, :90], other[0], atol=1e-4)
    with pytest.raises(UserError, match="context"):
        generate(ours, ["9" * 290], max_new_tokens=20)
    with pytest.raises(UserError, match="context_length 99999"):
        load_pretrained(folder, context_length=99999)


def test_mistral_with_layer_types_is_read_as_ministral(made: Any, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder, _, ours = made("ministral")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    hf = json.loads((folder / "config.json").read_text())
    hf |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    (tmp_path / "config.json").write_text(json.dumps(hf))
    assert read_config(tmp_path)[1] == ours.config
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    ids = tokens(1, 48)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    found = run(load_pretrained(tmp_path).decoder, ids)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_tensors_named_without_what_stands_in_front_are_found(
    name: str, made: Any, tmp_path: Path
) -> None:
    """As the base class of transformers saves them; both decoders have tied embeddings."""
    from safetensors.numpy import load_file, save_file

    folder, _, ours = made(name)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(folder / "model.safetensors")
    bare = {key.removeprefix("model."): value for key, value in tensors.items()}
    assert bare.keys() != tensors.keys()
    save_file(bare, tmp_path / "model.safetensors")
    assert load_pretrained(tmp_path).fingerprint == ours.fingerprint


def test_keys_and_values_of_layers_that_read_others_are_left_unread(
    made: Any, tmp_path: Path
) -> None:
    folder, _, ours = made("gemma4, layer inputs")
    from safetensors.numpy import load_file, save_file

    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(folder / "model.safetensors")
    beside = {f"model.layers.4.self_attn.{part}.weight" for part in ("k_proj", "v_proj", "k_norm")}
    tensors |= {name: np.ones((2, 2), np.float32) for name in beside}
    save_file(tensors, tmp_path / "model.safetensors")
    ids = tokens(1, 20)
    assert np.array_equal(run(load_pretrained(tmp_path).decoder, ids), run(ours.decoder, ids))
    tensors["model.layers.0.self_attn.z_proj.weight"] = np.ones((2, 2), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="not known to this config: model.layers.0.self_attn.z"):
        load_pretrained(tmp_path)


def test_a_soft_prompt_tells_the_layers_what_padding_does(made: Any) -> None:
    """As transformers has it for images, whose embeddings have no token either."""
    import torch

    _, model, ours = made("gemma4, layer inputs")
    draws = np.random.default_rng(3)
    soft = draws.normal(size=(6, 32)).astype(np.float32)
    question, width = tokens(1, 9), ours.config.embed_dim
    padding = np.full((1, 6), ours.config.pad_id)
    ids = torch.tensor(np.concatenate([padding, question], axis=1))
    embeds = model.get_input_embeddings()(ids).detach()
    embeds[0, :6] = torch.tensor(soft)
    with torch.no_grad():
        told = model.model.get_per_layer_inputs(ids)
        expected = model(inputs_embeds=embeds, per_layer_inputs=told).logits.numpy()[:, 6:]
    prompt = Prefix((SoftPrompt(jnp.asarray(soft)),))
    embedded = prompt.embeddings(ours.decoder)
    assert embedded.shape[1] > width
    front = encode_prefix(ours.decoder, embedded)
    hidden, _ = ours.decoder(
        ours.decoder.embed(jnp.asarray(question)),
        6 + jnp.arange(9)[None],
        causal_mask(jnp.ones((1, 9), jnp.int32)),
        prefix=front.blocks,
    )
    found = ours.decoder.logits(hidden)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llama", {"per_layer_config": {"1": {"rms_norm_eps": 0.1}}}, "per_layer_config is not"),
        ("gemma4_text", {"per_layer_config": {"1": {"head_dim": 8}}}, "layers of the same type"),
        ("gemma4_text", {"per_layer_config": {"5": {"sliding_window": 8}}}, "sliding_window is"),
        ("gemma4_text", {"layer_types": [FULL] * 5 + [SLIDING]}, "ends with 'sliding_attention'"),
        ("gemma4_text", {"num_kv_shared_layers": 1}, "leaves no full_attention layer to read"),
        ("gemma4_text", {"enable_moe_block": True}, "expected num_experts, top_k_experts, moe_"),
        ("gemma4_text", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ("gemma4_text", {"vocab_size_per_layer_input": 300}, "expected at least 320"),
        ("exaone4", {"layer_types": [FULL] * 6}, "full_attention alone beside sliding_window"),
        ("stablelm", {"qk_layernorm": True}, "qk_layernorm True is not supported"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    name: str, changes: dict[str, Any], said: str
) -> None:
    family = next(one for one in FAMILIES.values() if one.model_type == name)
    hf = {**SIZES, "num_hidden_layers": 6, "sliding_window": 9}
    family.to_config(hf)
    with pytest.raises(ValueError, match=said):
        family.to_config({**hf, **changes})


def test_layers_that_read_others_take_no_room_in_caches(made: Any) -> None:
    config = made("gemma4, layer inputs")[2].config
    assert config.keepers == [0, 1, 2]
    assert [config.layer(layer).reads for layer in (3, 4)] == [2, 1]
    heads = 2 * (8 + 16 + 8)  # two heads each; the full layer's are twice as wide
    assert slot_bytes(config, 10, 4) - slot_bytes(config, 0, 4) == 10 * 2 * heads * 4
