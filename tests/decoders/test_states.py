"""Layers that keep a state: padding leaves it as it is, and every text begins with the prefix's."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_cases import WITH_STATE
from family_models import tokens
from flax import nnx

from adapt_jax.decoders.attention import PackedRows, causal_mask
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.execution import UNROLLED, Execution
from adapt_jax.decoders.prefix import Prefix, PrefixCaches, encode_prefix
from adapt_jax.sampling import likelihood
from adapt_jax.sampling.engine import Engine
from adapt_jax.sampling.likelihood import MultipleChoiceRequest, score_continuations
from adapt_jax.sampling.types import GenerationConfig, Request

PREFIX = tuple(tokens(1, 21)[0].tolist())
LITTLE_EFFORT = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def assert_close(found: Any, expected: Any, tolerance: float = 2e-5) -> None:
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    for one, other in zip(found, expected, strict=True):
        atol = tolerance * max(float(np.abs(other).max()), 1e-3)
        np.testing.assert_allclose(one, other, atol=atol, rtol=0)


@pytest.fixture(params=WITH_STATE)
def model(request: pytest.FixtureRequest, made: Any) -> Any:
    return made(request.param)[2]


def read(
    decoder: Decoder,
    ids: np.ndarray,
    segments: np.ndarray | None = None,
    packed: bool = False,
    **options: Any,
) -> tuple[jax.Array, list[Any]]:
    """Hidden states and what the layers keep; positions are counted in each segment."""
    segments = np.ones_like(ids) if segments is None else np.asarray(segments)
    rows = PackedRows(jnp.asarray(segments))
    first = options.pop("first", 0)
    positions = jnp.where(segments > 0, jnp.arange(ids.shape[1]) - rows.starts + first, 0)
    mask = rows if packed else causal_mask(rows.segments)
    graphdef, state = nnx.split(decoder)

    @partial(jax.jit, compiler_options=LITTLE_EFFORT)
    def run(state: Any, ids: jax.Array) -> Any:
        decoder = nnx.merge(graphdef, state)
        return decoder(decoder.embed(ids), positions, mask, **options)

    return run(state, jnp.asarray(ids))


def select_states(decoder: Decoder, kept: list[Any]) -> list[Any]:
    return kept[len(decoder.config.layers_with_kv_cache) :]


@pytest.mark.parametrize("packed", [False, True])
def test_padding_leaves_the_state_as_it_is(model: Any, packed: bool) -> None:
    decoder, ids = model.decoder, tokens(3, 20)
    real = np.ones_like(ids)
    real[1, :7], real[2, -9:] = 0, 0
    hidden, kept = read(decoder, ids, real, packed)
    states = select_states(decoder, kept)
    for row, place in enumerate((slice(0, 20), slice(7, 20), slice(0, 11))):
        alone, of_alone = read(decoder, ids[row : row + 1, place])
        assert_close(hidden[row, place], alone[0])
        expected = jax.tree.map(lambda x: x[0], select_states(decoder, of_alone))
        assert_close(jax.tree.map(lambda x, row=row: x[row], states), expected)


def test_a_row_of_padding_alone_keeps_the_state_of_the_prefix(model: Any) -> None:
    decoder = model.decoder
    prefix = encode_prefix(decoder, decoder.embed(jnp.asarray(PREFIX)))
    ids = tokens(2, 6)
    _, kept = read(decoder, ids, [[0] * 6, [1] * 6], prefix=prefix.blocks, first=len(PREFIX))
    found = jax.tree.map(lambda x: x[0], select_states(decoder, kept))
    assert_close(found, select_states(decoder, prefix.layers), 0)


def test_padding_of_the_prefix_is_not_read(model: Any) -> None:
    decoder = model.decoder
    embeddings = decoder.embed(jnp.asarray(PREFIX))
    plain = encode_prefix(decoder, embeddings)
    padded = jnp.pad(embeddings, ((0, 11), (0, 0)), constant_values=3.0)
    found = jax.jit(lambda x, length: encode_prefix(decoder, x, length))(padded, len(PREFIX))
    assert_close(select_states(decoder, found.layers), select_states(decoder, plain.layers))


def test_packed_texts_behind_a_soft_prefix_are_those_alone_and_so_are_their_gradients(
    model: Any,
) -> None:
    decoder, ids = model.decoder, tokens(2, 90)
    segments = np.array([[1] * 2 + [2] * 70 + [3] * 18, [1] * 75 + [2] * 1 + [0] * 14])
    texts = [(0, 0, 2), (0, 2, 72), (0, 72, 90), (1, 0, 75), (1, 75, 76)]
    size = decoder.config.embed_dim
    soft = jnp.asarray(np.random.default_rng(0).normal(size=(5, size)), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(2, 90, size)), jnp.float32)
    graphdef, state = nnx.split(decoder)

    def pack(state: Any, soft: jax.Array, execution: Execution) -> Any:
        decoder, rows = nnx.merge(graphdef, state), PackedRows(jnp.asarray(segments))
        cache = encode_prefix(decoder, soft, execution=execution)
        return decoder(
            decoder.embed(jnp.asarray(ids)),
            5 + jnp.arange(90) - rows.starts,
            rows,
            prefix=cache.blocks,
            keep_kv=False,
            execution=execution,
        )[0]

    def repeat(state: Any, soft: jax.Array) -> Any:
        decoder = nnx.merge(graphdef, state)
        # a row for each text, which padding on the right makes as long as the longest
        whole, real = np.zeros((len(texts), 80), int), np.zeros((len(texts), 80), int)
        for number, (row, start, stop) in enumerate(texts):
            whole[number, 5 : 5 + stop - start] = ids[row, start:stop]
            real[number, : 5 + stop - start] = 1
        rows = decoder.embed(jnp.asarray(whole)).at[:, :5].set(soft)
        positions = jnp.broadcast_to(jnp.arange(80), whole.shape)
        alone, _ = decoder(rows, positions, causal_mask(jnp.asarray(real)))
        hidden = jnp.zeros((2, 90, size))
        for number, (row, start, stop) in enumerate(texts):
            hidden = hidden.at[row, start:stop].set(alone[number, 5 : 5 + stop - start])
        return hidden

    @partial(jax.jit, static_argnums=0, compiler_options=LITTLE_EFFORT)
    def differentiate(function: Any, state: Any, soft: jax.Array) -> Any:
        def loss(state: Any, soft: jax.Array) -> Any:
            hidden = jnp.where(segments[..., None] > 0, function(state, soft), 0)
            return jnp.sum(hidden * weights), hidden

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(state, soft)

    of_expected, expected = differentiate(repeat, state, soft)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(of_expected[1])) > 1e-3
    for execution in (UNROLLED, Execution(scan_layers=True, remat="layers")):
        of_found, found = differentiate(partial(pack, execution=execution), state, soft)
        assert_close(found, expected)
        assert_close(of_found, of_expected, 1e-4)


def test_texts_behind_prefixes_side_by_side_are_those_alone(model: Any) -> None:
    decoder, ids = model.decoder, tokens(3, 9)
    prefixes = [PREFIX, (), (7, 8, 9)]
    encoded = [encode_prefix(decoder, decoder.embed(jnp.asarray(one, int))) for one in prefixes]
    both, which = PrefixCaches.concatenate(encoded), jnp.asarray([2, 0, 1])
    hidden, _ = decoder(
        decoder.embed(jnp.asarray(ids)),
        both.lengths[which][:, None] + jnp.arange(9),
        causal_mask(jnp.ones((3, 9), jnp.int32)),
        prefix=both.blocks(which, 9),
        prefix_positions=both.positions,
    )
    for row, prefix in enumerate(map(prefixes.__getitem__, which.tolist())):
        whole = np.asarray([[*prefix, *ids[row]]])
        assert_close(hidden[row], read(decoder, whole)[0][0, len(prefix) :])


def test_token_by_token_is_the_whole_text(model: Any) -> None:
    decoder, ids = model.decoder, tokens(2, 30)
    expected, _ = read(decoder, ids)
    engine = Engine(model, Prefix(), GenerationConfig(), seed=0)
    cache, hidden = engine._make_slots(2, 32)[0], []

    @partial(jax.jit, compiler_options=LITTLE_EFFORT)
    def step(token: jax.Array, at: jax.Array, cache: Any) -> Any:
        visible = jnp.broadcast_to(jnp.arange(32) <= at, (2, 1, 32))
        place = jnp.full((2, 1), at)
        return decoder(decoder.embed(token), place, visible, cache=cache, write_at=place[:, 0])

    for at in range(30):
        one, cache = step(jnp.asarray(ids[:, at : at + 1]), at, cache)
        hidden.append(one)
    assert_close(jnp.concatenate(hidden, axis=1), expected)


def test_answers_do_not_depend_on_slots_or_on_what_they_held_before(model: Any) -> None:
    """Few slots are used again and again; a question of one token begins at the prefix's state."""
    questions = [(7,), (19, 33), (88, 3, 150, 151, 9, 30, 222), (4, 5, 6), (7,)]
    requests = [Request(str(number), question) for number, question in enumerate(questions)]
    options = GenerationConfig(max_new_tokens=12)

    def generate(prefix: tuple[int, ...], **more: Any) -> dict[Any, Any]:
        engine = Engine(model, Prefix((prefix,)), options, seed=0, **more)
        return {at: one.token_ids for at, _, one in engine.run(requests)}

    found = generate(PREFIX, max_concurrent_sequences=3)
    assert found == generate(PREFIX, max_concurrent_sequences=16)
    assert found[0] == found[4] != generate(())[0]
    for at in (0, 2):  # greedy: each token is the most probable one
        answer = found[at]
        whole = np.asarray([[*PREFIX, *questions[at], *answer]])
        logits = model.decoder.logits(read(model.decoder, whole)[0])[0]
        assert jnp.argmax(logits, axis=-1)[-len(answer) - 1 : -1].tolist() == list(answer)


def test_continuations_of_one_context_are_scored_as_alone(model: Any) -> None:
    """Contexts are read once, those of one token too, and continuations go on from their states."""
    requests = [
        MultipleChoiceRequest((5, 9, 17), ((30, 4, 8), (200,), (31, 77)), (1, 0, 0)),
        MultipleChoiceRequest((7,), ((30, 4), (8,))),
        MultipleChoiceRequest(tuple(range(3, 50)), (tuple(range(60, 80)),)),
    ]
    found = dict(score_continuations(model, Prefix((PREFIX,)), requests))
    logits = partial(read, model.decoder)
    for index, request in enumerate(requests):
        skips = request.unscored or (0,) * len(request.continuations)
        for one, skip, scored in zip(request.continuations, skips, found[index], strict=True):
            whole = [*PREFIX, *request.context, *one]
            logs = jax.nn.log_softmax(model.decoder.logits(logits(np.asarray([whole]))[0])[0])
            first = len(whole) - len(one) + skip
            expected = sum(float(logs[at - 1, whole[at]]) for at in range(first, len(whole)))
            assert abs(scored.log_probability - expected) < 2e-4
    left = dict(score_continuations(model, Prefix((PREFIX,)), requests, answered={0}))
    assert left == {1: found[1], 2: found[2]}  # bitwise


def test_each_context_is_read_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[tuple[int, ...]] = []
    encode = likelihood.encode_questions
    monkeypatch.setattr(
        likelihood,
        "encode_questions",
        lambda *arrays: rows.extend(map(tuple, arrays[4][:, :2].tolist())) or encode(*arrays),
    )
    requests = [
        MultipleChoiceRequest((5, 9, 17), tuple((n, n) for n in range(3, 43))),
        MultipleChoiceRequest((6, 8, 17), ((3,), (4,))),
    ]
    found = dict(score_continuations(model, Prefix(), requests))
    assert [len(found[index]) for index in (0, 1)] == [40, 2]
    assert sorted(row for row in rows if any(row)) == [(5, 9), (6, 8)]
