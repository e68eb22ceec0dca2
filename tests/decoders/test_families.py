"""Every family against transformers: the same logits, gradients and texts."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_cases import CASES, LEAKS
from family_kinds import config_of, kind_of_last_layer, kinds_at_any_length, kinds_of_decoding
from family_models import run, tokens
from flax import nnx
from safetensors.numpy import load_file, save_file
from tiny_llama import write_tiny_llama

from adapt_jax.decoders.attention import causal_mask
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.execution import Execution
from adapt_jax.decoders.families import FAMILIES, llama
from adapt_jax.decoders.prefix import Prefix, SoftPrompt, encode_prefix
from adapt_jax.pretrained.hf_config import read_config
from adapt_jax.pretrained.loading import PretrainedDecoder, get_parameters, load_pretrained
from adapt_jax.sampling.engine import Engine
from adapt_jax.sampling.memory import count_slot_bytes
from adapt_jax.sampling.types import GenerationConfig, Request
from adapt_jax.utils.errors import UserError

# One case at least of each kind in family_kinds.py: more would run the same lines again.
DECODED = [
    *("llama, llama3", "llama, dynamic", "mistral", "ministral3", "qwen3_moe", "gpt_oss", "gemma2"),
    *("gemma4", "gemma4, experts", "gemma4, per-layer embeddings", "phi3, longrope", "smollm3"),
    *("gemma3n", "gemma3n, other streams", "falcon_h1", "mamba"),
    *("exaone4", "minicpm3", "llama4", "lfm2", "qwen3_5", "mamba2", "nemotron_h", "gpt2", "opt"),
    *("bloom", "falcon, alibi", "opt, norms of sums"),
]
FAR = [
    *("llama, llama3", "llama, yarn, biases", "llama, linear", "llama, dynamic", "mistral"),
    *("ministral", "ministral3", "gpt_oss", "gemma2", "gemma4", "phi3, longrope", "smollm3"),
    *("exaone4", "minicpm3", "minicpm3, yarn, biases", "llama4", "lfm2", "qwen3_5", "mamba2"),
    *("nemotron_h", "gpt2", "opt", "gemma3n", "falcon_h1", "mamba", "bloom", "falcon, alibi"),
]
LAST_LAYERS = [
    *("qwen3", "olmoe", "gemma2", "gemma4", "gemma4, experts", "gemma4, per-layer embeddings"),
    *("olmo2", "stablelm, parallel", "minicpm3", "deepseek_v3", "lfm2, biases", "qwen3_5"),
    *("mamba2", "nemotron_h", "qwen3_5_moe", "gpt_neox", "gemma3n", "falcon_h1"),
    *("mamba", "nemotron_h, experts", "opt, norms of sums"),
]
# The length of the text decides their frequencies.
LENGTH_DEPENDENT = ("llama, dynamic", "phi3, longrope", "phimoe, longrope")
# transformers goes on from no state of theirs but token by token.
READ_AT_ONCE = (*LENGTH_DEPENDENT, "mamba")
# transformers scales queries, or rounds ALiBi, by the place of a token in its row, whatever its
# position is.
SCALED_BY_PLACE = ("llama4", "falcon, alibi")
FAR_AWAY = 4104  # a position past 4,096, where a chunk of 9 tokens begins
PROMPT = (5, 9, 17, 30, 4, 8, 200, 310, 77, 12, 40, 41, 42, 300)


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients_equal_transformers_padded_and_at_far_positions(
    name: str, made: Any
) -> None:
    import torch

    _, model, ours = made(name)
    ids, real = tokens(3, 48), np.ones((3, 48), np.int32)
    real[1, :11], real[2, -7:] = 0, 0  # padded on the left, on the right
    if name in LEAKS:
        real[1, :11] = 1
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    if name not in (*LENGTH_DEPENDENT, *SCALED_BY_PLACE):
        positions[2] += FAR_AWAY
    targets = np.roll(ids, -1, axis=1)
    counted = (real * np.roll(real, -1, axis=1)).astype(np.float32)
    counted[:, -1] = 0

    embeds = model.get_input_embeddings()(torch.tensor(ids)).detach()
    if model.config.model_type == "falcon_h1":  # scales behind the table
        embeds = embeds * model.config.embedding_multiplier
    embeds.requires_grad_()
    by_token = {}
    if getattr(model.config, "hidden_size_per_layer_input", 0):
        by_token["per_layer_inputs"] = model.model.get_per_layer_inputs(torch.tensor(ids))
    theirs = model(
        inputs_embeds=embeds,
        **by_token,
        attention_mask=torch.tensor(real),
        position_ids=torch.tensor(positions),
    ).logits
    nats = torch.nn.functional.cross_entropy(
        theirs.flatten(0, 1), torch.tensor(targets, dtype=torch.long).flatten(), reduction="none"
    )
    (nats * torch.tensor(counted).flatten()).sum().backward()

    graphdef, state = nnx.split(ours.decoder)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss_and_gradient(x: jax.Array, state: nnx.State) -> Any:
        decoder = nnx.merge(graphdef, state)
        mask = causal_mask(jnp.asarray(real))
        logits = decoder.logits(decoder(x, jnp.asarray(positions), mask)[0])
        logs = jax.nn.log_softmax(logits)
        target_logs = jnp.take_along_axis(logs, jnp.asarray(targets)[..., None], axis=-1)[..., 0]
        return -(target_logs * counted).sum(), logits

    embeddings = ours.decoder.embed(jnp.asarray(ids))
    (_, logits), gradient = loss_and_gradient(embeddings, state)
    expected, is_real = theirs.detach().numpy(), real.astype(bool)
    scale = np.abs(expected[is_real]).max()
    assert np.std(expected[is_real]) > 0.1  # weights large enough to show an error
    np.testing.assert_allclose(
        np.asarray(logits)[is_real], expected[is_real], atol=1e-4 * scale, rtol=0
    )
    expected_gradient = embeds.grad.numpy()
    np.testing.assert_allclose(
        np.asarray(gradient)[is_real][:, : expected_gradient.shape[-1]],
        expected_gradient[is_real],
        atol=1e-3 * np.abs(expected_gradient).max(),
        rtol=0,
    )


@pytest.mark.parametrize("name", FAR)
def test_logits_equal_transformers_past_4096_tokens(name: str, made: Any) -> None:
    import torch

    _, model, ours = made(name)
    ids = tokens(1, 4200)
    # In pieces, whose scores stay in the cache, unless the length of all decides the frequencies.
    piece = 4200 if name in READ_AT_ONCE else 300
    cache = None
    with torch.no_grad():
        for part in torch.tensor(ids).split(piece, dim=1):
            output = model(part, past_key_values=cache, use_cache=True, logits_to_keep=64)
            cache = output.past_key_values
    expected = output.logits.numpy()
    found = run(ours.decoder, ids, last=64)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("name", DECODED)
def test_greedy_text_behind_a_shared_prefix_equals_transformers(name: str, made: Any) -> None:
    import torch

    _, model, ours = made(name)
    questions = [(7, 19, 33), (88, 3, 150, 151, 9, 30, 222)]
    engine = Engine(ours, Prefix((PROMPT,)), GenerationConfig(max_new_tokens=64), seed=0)
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


@pytest.mark.parametrize("name", LAST_LAYERS)
def test_hidden_states_at_output_positions_are_those_of_the_whole_batch(
    name: str, made: Any
) -> None:
    decoder = made(name)[2].decoder
    embeddings = decoder.embed(jnp.asarray(tokens(2, 24)))
    positions = jnp.broadcast_to(jnp.arange(24), (2, 24))
    mask = causal_mask(jnp.ones((2, 24), jnp.int32))
    wanted = jnp.asarray([40, 3, 3, 17, 47])  # in any order, also twice

    cotangent = np.random.default_rng(0).standard_normal((5, decoder.config.input_dim))
    cotangent = jnp.asarray(cotangent, jnp.float32)

    def select_from_all(decoder: Decoder, x: jax.Array) -> jax.Array:
        return decoder(x, positions, mask)[0].reshape(48, -1)[wanted]

    def run_selected(decoder: Decoder, x: jax.Array, execution: Execution) -> jax.Array:
        return decoder(x, positions, mask, output_positions=wanted, execution=execution)[0]

    graphdef, state = nnx.split(decoder)
    selected = [partial(run_selected, execution=Execution(remat=one)) for one in ("none", "layers")]

    @jax.jit  # in one function, because XLA compiles what they have in common once
    def outputs_and_gradients(state: nnx.State, x: jax.Array) -> Any:
        def output_and_gradient(function: Any) -> Any:
            out, vjp = jax.vjp(lambda x: function(nnx.merge(graphdef, state), x), x)
            return out, vjp(cotangent)[0]

        return [output_and_gradient(function) for function in (select_from_all, *selected)]

    expected, *found = outputs_and_gradients(state, embeddings)
    for ours, theirs in [pair for one in found for pair in zip(one, expected, strict=True)]:
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max(), rtol=0)


def test_no_family_has_a_kind_of_layer_that_the_cases_above_lack() -> None:
    """A case that fails here belongs in DECODED, in FAR or in LAST_LAYERS."""
    for kinds_of, chosen in ((kinds_of_decoding, DECODED), (kinds_at_any_length, FAR)):
        covered = set().union(*(kinds_of(config_of(name)) for name in chosen))
        assert {name: kinds_of(config_of(name)) - covered for name in CASES} == {
            name: set() for name in CASES
        }
    last = {kind_of_last_layer(config_of(name)) for name in LAST_LAYERS}
    assert [name for name in CASES if kind_of_last_layer(config_of(name)) not in last] == []


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
    layouts = family.tensor_layouts(config)
    expected = {name for path in get_parameters(decoder) for name in layouts[path].names}
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    loaded = (name for name in index["weight_map"] if not family.ignores_tensor(name, config))
    real = {family.canonical_name(name) for name in loaded}
    if config.tie_embeddings:
        real.discard("lm_head.weight")
    assert real == expected


def test_a_soft_prompt_has_the_per_layer_embeddings_of_padding(made: Any) -> None:
    """As images have in transformers, whose embeddings belong to no token either."""
    import torch

    _, model, ours = made("gemma4, per-layer embeddings")
    draws = np.random.default_rng(3)
    soft = draws.normal(size=(6, 32)).astype(np.float32)
    question, width = tokens(1, 9), ours.config.embed_dim
    padding = np.full((1, 6), ours.config.pad_id)
    ids = torch.tensor(np.concatenate([padding, question], axis=1))
    embeds = model.get_input_embeddings()(ids).detach()
    embeds[0, :6] = torch.tensor(soft)
    with torch.no_grad():
        per_layer = model.model.get_per_layer_inputs(ids)
        expected = model(inputs_embeds=embeds, per_layer_inputs=per_layer).logits.numpy()[:, 6:]
    prompt = Prefix((SoftPrompt(jnp.asarray(soft)),))
    embedded = prompt.embeddings(ours.decoder)
    assert embedded.shape[1] > width
    cache = encode_prefix(ours.decoder, embedded)
    hidden, _ = ours.decoder(
        ours.decoder.embed(jnp.asarray(question)),
        6 + jnp.arange(9)[None],
        causal_mask(jnp.ones((1, 9), jnp.int32)),
        prefix=cache.blocks,
    )
    found = ours.decoder.logits(hidden)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def test_layers_that_share_keys_and_values_take_no_memory_in_caches(made: Any) -> None:
    config = made("gemma4, per-layer embeddings")[2].config
    assert config.layers_with_kv_cache == [0, 1, 2]
    assert [config.layer_config(layer).kv_shared_with for layer in (3, 4)] == [2, 1]
    heads = 2 * (8 + 16 + 8)  # two heads each; the full layer's are twice as wide
    assert count_slot_bytes(config, 10, 4) - count_slot_bytes(config, 0, 4) == 10 * 2 * heads * 4


def test_a_family_registered_from_outside_is_loaded(
    tmp_path: Path, tiny: PretrainedDecoder
) -> None:
    """A Llama under another name, whose files call the gate of the feed-forward layer otherwise."""
    rows = [(name.replace("gate_proj", "w1"), *rest) for name, *rest in llama.FAMILY.tensors]
    family = replace(llama.FAMILY, architecture="MyForCausalLM", tensors=tuple(rows))
    write_tiny_llama(tmp_path, architectures=["MyForCausalLM"])
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {name.replace("gate_proj", "w1"): value for name, value in tensors.items()}
    save_file(renamed, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="MyForCausalLM"):
        load_pretrained(tmp_path)
    FAMILIES.register("MyForCausalLM")(family)
    try:
        found = run(load_pretrained(tmp_path).decoder, tokens(1, 20))
    finally:
        del FAMILIES._entries["MyForCausalLM"]
    np.testing.assert_array_equal(found, run(tiny.decoder, tokens(1, 20)))
