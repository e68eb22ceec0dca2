"""Hugging Face folders: the same logits as transformers, there and back, and clear refusals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from tiny_llama import write_tiny_llama

from adapt_jax.decoders.attention import causal_mask
from adapt_jax.decoders.families import FAMILIES
from adapt_jax.decoders.families.llama import FAMILY
from adapt_jax.pretrained.hf_folder import EMBEDDED
from adapt_jax.pretrained.loading import PretrainedDecoder, get_parameters, load_pretrained
from adapt_jax.pretrained.saving import save_pretrained
from adapt_jax.utils.errors import UserError

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "factor": 4.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "tied_answers": {},
    "untied": {"tie_word_embeddings": False},
    "query heads only": {"num_key_value_heads": 4},
    "one key/value head": {"num_key_value_heads": 1},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "head size of its own": {"head_dim": 16},
    "head size left out": {"head_dim": None},
    "theta": {"rope_theta": 500.0},
    "linear": {"rope_scaling": LINEAR},
    "linear, old spelling": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 5000.0},
    "transformers 5": {"rope_theta": None, "rope_parameters": {**LLAMA3, "rope_theta": 5000.0}},
    "norm epsilon": {"rms_norm_eps": 0.3},
}


def logits(model: PretrainedDecoder, tokens: np.ndarray) -> np.ndarray:
    """The decoder's logits at every position, [B, T, V]."""

    @jax.jit
    def forward(tokens: jax.Array) -> jax.Array:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        embeddings, mask = model.decoder.embed(tokens), causal_mask(jnp.ones_like(tokens))
        return model.decoder.logits(model.decoder(embeddings, positions, mask)[0])

    return np.asarray(forward(jnp.asarray(tokens)))


def reference_logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """What transformers makes of the same folder."""
    import torch
    from transformers import LlamaForCausalLM

    reference = LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        return reference(torch.tensor(tokens)).logits.numpy()


def random_tokens(rows: int, length: int, vocab_size: int = 320) -> np.ndarray:
    return np.random.default_rng(1).integers(0, vocab_size, (rows, length)).astype(np.int32)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(variant: str, tmp_path: Path) -> None:
    folder, tokens = write_tiny_llama(tmp_path, **VARIANTS[variant]), random_tokens(2, 150)
    expected = reference_logits(folder, tokens)
    assert np.std(expected) > 0.1  # weights large enough to show an error
    np.testing.assert_allclose(logits(load_pretrained(folder), tokens), expected, atol=1e-4)


def test_logits_equal_transformers_past_4096_tokens(tmp_path: Path) -> None:
    scaling = {**LLAMA3, "original_max_position_embeddings": 1024}
    one_layer = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    folder = write_tiny_llama(
        tmp_path, max_position_embeddings=8192, rope_scaling=scaling, **one_layer
    )
    tokens = random_tokens(1, 4200)
    expected = reference_logits(folder, tokens)[:, -100:]
    np.testing.assert_allclose(
        logits(load_pretrained(folder), tokens)[:, -100:], expected, atol=1e-4
    )


@pytest.mark.parametrize(
    "field",
    [
        {"rope_theta": 9000.0},
        {"rms_norm_eps": 1e-2},
        {"rope_scaling": LINEAR},
        {"rope_scaling": LLAMA3},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 9000.0}},
        {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4},
    ],
    ids=lambda field: "-".join(field),
)
def test_every_config_field_that_keeps_the_shapes_moves_the_logits(
    field: dict[str, Any], tmp_path: Path, tiny: PretrainedDecoder
) -> None:
    changed, tokens = write_tiny_llama(tmp_path, **field), random_tokens(1, 150)
    moved = np.abs(logits(load_pretrained(changed), tokens) - logits(tiny, tokens)).max()
    assert moved > 1e-3


def test_rope_parameters_and_the_two_older_fields_mean_the_same(tmp_path: Path) -> None:
    old = write_tiny_llama(tmp_path / "old", rope_theta=5000.0, rope_scaling=LLAMA3)
    both = {**LLAMA3, "rope_theta": 5000.0}
    new = write_tiny_llama(tmp_path / "new", rope_theta=None, rope_parameters=both)
    assert load_pretrained(old).config == load_pretrained(new).config


def test_generation_config_has_the_last_word_on_eos(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 7]}))
    config = load_pretrained(folder).config
    assert (config.eos_ids, config.bos_id) == ((1, 7), 0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_config_survives_the_round_trip(variant: str, tmp_path: Path) -> None:
    config = load_pretrained(write_tiny_llama(tmp_path, **VARIANTS[variant])).config
    assert FAMILY.to_config(FAMILY.to_hf(config)) == config


@pytest.mark.parametrize("variant", ["tied_answers", "untied", "biases", "llama3"])
def test_saved_folder_is_bit_exact_and_transformers_loads_it(variant: str, tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "original", **VARIANTS[variant])
    model = load_pretrained(folder)
    save_pretrained(model, tmp_path / "saved")
    original, saved = (
        load_file(path / "model.safetensors") for path in (folder, tmp_path / "saved")
    )
    assert original.keys() == saved.keys()
    assert all(np.array_equal(original[name], saved[name]) for name in original)
    again = load_pretrained(tmp_path / "saved")
    assert (again.config, again.fingerprint) == (model.config, model.fingerprint)
    assert again.encode("Jane has 12 apples.") == model.encode("Jane has 12 apples.")
    tokens = random_tokens(1, 80)
    expected = reference_logits(tmp_path / "saved", tokens)
    np.testing.assert_allclose(logits(model, tokens), expected, atol=1e-4)


def test_saving_over_a_folder_leaves_only_whole_files(tmp_path: Path) -> None:
    model = load_pretrained(write_tiny_llama(tmp_path / "one"))
    other = write_tiny_llama(tmp_path / "two", seed=5)
    save_pretrained(model, other)
    assert load_pretrained(other).fingerprint == model.fingerprint
    assert not [file for file in other.iterdir() if file.name.startswith(".")]


def test_numbers_that_are_too_large_for_a_dtype_are_not_written(
    tiny: PretrainedDecoder, tmp_path: Path
) -> None:
    decoder = nnx.clone(tiny.decoder)
    down = decoder.layers[1].ffn.down.kernel
    down[...] = down[...].at[3, 5:7].set(70_000.0)
    model = replace(tiny, decoder=decoder)
    expected = r"layers\.1\.mlp\.down_proj\.weight: 2 numbers are too large for float16.* bfloat16"
    with pytest.raises(UserError, match=expected):
        save_pretrained(model, tmp_path / "narrow", dtype=jnp.float16)
    assert not list((tmp_path / "narrow").glob("*"))
    save_pretrained(model, tmp_path / "wide", dtype=jnp.bfloat16)


def test_bfloat16_weights_travel_unchanged(tmp_path: Path) -> None:
    model = load_pretrained(write_tiny_llama(tmp_path / "wide"))
    save_pretrained(model, tmp_path / "narrow", dtype=jnp.bfloat16)
    narrow = load_pretrained(tmp_path / "narrow", dtype=jnp.bfloat16)
    assert narrow.decoder.embedding[...].dtype == jnp.bfloat16
    upcast = load_pretrained(tmp_path / "narrow")
    assert upcast.decoder.embedding[...].dtype == jnp.float32
    assert upcast.fingerprint == narrow.fingerprint != model.fingerprint
    written = load_file(tmp_path / "narrow" / "model.safetensors")
    expected = np.asarray(model.decoder.embedding[...].astype(jnp.bfloat16))
    assert np.array_equal(written["model.embed_tokens.weight"], expected)


def test_shards_load_like_one_file(tmp_path: Path, tiny: PretrainedDecoder) -> None:
    folder = write_tiny_llama(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in shards.items() for name in held}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    assert load_pretrained(folder).fingerprint == tiny.fingerprint
    (folder / "b.safetensors").unlink()
    with pytest.raises(UserError, match="b.safetensors"):
        load_pretrained(folder)


def test_fingerprint_tells_weights_and_config_apart(tmp_path: Path) -> None:
    one = load_pretrained(write_tiny_llama(tmp_path / "one"))
    other = load_pretrained(write_tiny_llama(tmp_path / "other", seed=1))
    theta = load_pretrained(write_tiny_llama(tmp_path / "theta", rope_theta=9000.0))
    assert len({one.fingerprint, other.fingerprint, theta.fingerprint}) == 3
    assert len(one.fingerprint) == 16


def test_rotary_buffers_of_old_checkpoints_are_left_unread(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    save_file(tensors, folder / "model.safetensors")
    assert load_pretrained(folder).config.num_layers == 2


def test_a_tied_file_may_repeat_its_embedding_but_not_contradict_it(
    tmp_path: Path, tiny: PretrainedDecoder
) -> None:
    folder = write_tiny_llama(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, folder / "model.safetensors")
    assert load_pretrained(folder).fingerprint == tiny.fingerprint
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match="not known to this config: lm_head.weight"):
        load_pretrained(folder)


# Refusals


def without(*names: str) -> Any:
    """Mends a folder's tensors: drops these."""
    return lambda tensors: [tensors.pop(name) for name in names]


def renamed(old: str, new: str) -> Any:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


def retyped(name: str, dtype: Any) -> Any:
    return lambda tensors: tensors.update({name: tensors[name].astype(dtype)})


@pytest.mark.parametrize(
    ("mend", "config", "said"),
    [
        (without("model.norm.weight"), {}, "1 tensor missing: model.norm.weight"),
        (renamed("model.norm.weight", "model.gnorm"), {}, r"missing.*not known.*model\.gnorm"),
        (retyped("model.norm.weight", np.int8), {}, "model.norm.weight is I8"),
        (None, {"vocab_size": 300}, r"embed_tokens.weight is \[320, 32\].*\[300, 32\]"),
        (None, {"num_hidden_layers": 3}, r"9 tensors missing: .*layers.2.self_attn.v_proj.weight"),
        (None, {"tie_word_embeddings": False}, "missing: lm_head.weight"),
        (None, {"intermediate_size": 65}, r"layers.0.mlp.down_proj.*layers.1.mlp.up_proj"),
        (None, {"architectures": ["LlamaForCausalML"]}, "'LlamaForCausalML' is not supported"),
        (None, {"model_type": "mistral"}, "architectures says 'LlamaForCausalLM' and model_type"),
        (None, {"architectures": []}, "architecture 'none' is not supported"),
        (None, {"quantization_config": {"bits": 4}}, "quantised"),
        (None, {"rope_scaling": {"rope_type": "spiral", "factor": 2.0}}, "rope_type 'spiral'"),
        (None, {"hidden_act": "cosine"}, "hidden_act 'cosine'"),
        (None, {"hidden_size": None}, "no field 'hidden_size'"),
        (None, {"num_key_value_heads": 3}, "not a multiple"),
        (None, {"head_dim": 7}, "head_dim 7 is odd"),
    ],
)
def test_disagreeing_folders_are_refused_in_one_line(
    mend: Any, config: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = write_tiny_llama(tmp_path)
    hf = json.loads((folder / "config.json").read_text()) | config
    hf = {name: value for name, value in hf.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(hf))
    if mend is not None:
        tensors = load_file(folder / "model.safetensors")
        mend(tensors)
        save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=said) as caught:
        load_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", None, "no config.json"),
        ("config.json", "{", "line 1: not valid JSON"),
        ("config.json", "[]", "expected a JSON object"),
        ("model.safetensors", None, "no weights"),
        ("model.safetensors", "nonsense", "not readable as safetensors"),
        ("tokenizer.json", "{}", "no usable tokenizer"),
    ],
)
def test_absent_and_broken_files_are_named(
    file: str, content: str | None, said: str, tmp_path: Path
) -> None:
    folder = write_tiny_llama(tmp_path)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        load_pretrained(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_named_but_never_opened(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin are never opened"):
        load_pretrained(folder)


@pytest.mark.parametrize("path", ["/no/such/folder", "missing", "someone/some-model", "./here"])
def test_missing_folder_is_one_clear_line(path: str) -> None:
    with pytest.raises(UserError, match="no such folder") as caught:
        load_pretrained(path)
    assert path in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(UserError, match="is a file"):
        load_pretrained(file)


# Real weights


def test_stories260k_writes_its_golden_text(shared: Path) -> None:
    folder, length = shared / "models" / "stories260k", 201
    model = load_pretrained(folder)
    decoder, bos = model.decoder, model.config.bos_id
    assert bos is not None
    mask = jnp.arange(length)

    @jax.jit
    def step(cache: Any, token: Any, position: Any) -> Any:
        hidden, cache = decoder(
            decoder.embed(token[None, None]),
            position[None, None],
            (mask <= position)[None, None],
            cache=cache,
            write_at=position[None],
        )
        return cache, jnp.argmax(decoder.logits(hidden[0, 0]))

    shape = (1, model.config.num_kv_heads, length, model.config.head_dim)
    cache = [(jnp.zeros(shape), jnp.zeros(shape))] * model.config.num_layers
    ids = [bos]
    for position in range(length - 1):
        cache, best = step(cache, jnp.asarray(ids[-1]), jnp.asarray(position))
        ids.append(int(best))
    assert model.decode(ids) == (folder / "golden_greedy_200.txt").read_text()


def test_stories260k_equals_transformers(shared: Path) -> None:
    folder, tokens = shared / "models" / "stories260k", random_tokens(2, 200, 512)
    expected = reference_logits(folder, tokens)
    np.testing.assert_allclose(logits(load_pretrained(folder), tokens), expected, atol=1e-4)


def test_the_embedded_decoder_equals_transformers() -> None:
    model, tokens = load_pretrained("embedded"), random_tokens(2, 300)
    assert EMBEDDED.is_dir() and model.path == "embedded"
    expected = reference_logits(EMBEDDED, tokens)
    np.testing.assert_allclose(logits(model, tokens), expected, atol=1e-4)


def test_every_parameter_is_in_the_familys_table(tiny: PretrainedDecoder) -> None:
    table = FAMILIES["LlamaForCausalLM"].tensor_layouts(tiny.config)
    assert get_parameters(tiny.decoder).keys() <= table.keys()
