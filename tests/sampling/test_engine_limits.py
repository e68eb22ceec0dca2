"""What the engine refuses, and how a request ends at the edge of the context."""

import jax
import jax.numpy as jnp
import pytest
from engine_cases import draws, greedy

import adapt_jax
from adapt_jax.decoders.prefix import Prefix
from adapt_jax.decoders.sharding import make_mesh
from adapt_jax.sampling import memory
from adapt_jax.sampling.engine import Engine
from adapt_jax.sampling.shapes import RunShape, pad_question
from adapt_jax.sampling.types import GenerationConfig, Request
from adapt_jax.utils.errors import UserError

torch = pytest.importorskip("torch", reason="the test extra brings torch")


def test_logits_that_are_not_finite_name_the_example(tiny_folder):
    model = adapt_jax.load_pretrained(tiny_folder)
    model.decoder.norm.scale[...] = jnp.full(32, jnp.nan)
    with pytest.raises(UserError, match="'bad one'.*not finite"):
        greedy(model, [Request("bad one", (5, 6))], max_new_tokens=2)


def test_slots_that_do_not_fit_are_refused_with_how_many_would(tiny, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 2 * 2**20)
    with pytest.raises(UserError, match=r"max_concurrent_sequences: 5000 do not fit.*; \d+ would"):
        greedy(tiny, [Request("q", (5,))], max_concurrent_sequences=5000, max_new_tokens=2)
    engine = Engine(tiny, Prefix(), GenerationConfig(), seed=0)
    assert (
        engine._count_slots(10_000, 64) < memory.MAX_USEFUL_SLOTS
    )  # left to the engine: what fits


def test_more_slots_fit_where_tensor_divides_the_heads_of_the_cache(tiny, monkeypatch):
    def count(tensor: int) -> int:
        mesh = make_mesh(data=1, tensor=tensor, devices=jax.devices()[:tensor])
        return memory.count_slot_bytes(tiny.config, 1024, 4, mesh)

    logits, cache = 4 * 320 * 4, 2 * 2 * 2 * 8 * 1024 * 4  # two layers of two heads of eight
    assert count(2) == cache + logits  # simulated devices share the memory of one machine
    monkeypatch.setattr(memory, "_devices_share_memory", lambda: False)
    assert memory.count_slot_bytes(tiny.config, 1024, 4) == count(1) == cache + logits
    assert count(2) == cache // 2 + logits
    assert count(4) == cache + logits  # four devices do not divide two heads
    monkeypatch.setattr(memory, "free_bytes", lambda: 10 * (cache // 2 + logits))
    assert memory.count_fitting_slots(count(2), 1) == 8
    assert memory.count_fitting_slots(count(2), 4) == 32


@pytest.mark.parametrize(
    ("prefixes", "request_", "said"),
    [
        ((), Request("q", (5,)), "none was given"),
        (Prefix((tuple([5] * 512),)), Request("q", (5,)), "context"),
        (Prefix(), Request("q", ()), "'q': has no tokens"),
        (Prefix(), Request("q", (5,), prefix=2), "prefix 2; there are 1"),
    ],
)
def test_what_cannot_be_asked_is_one_clear_line(tiny, prefixes, request_, said):
    with pytest.raises(UserError, match=said):
        list(Engine(tiny, prefixes, GenerationConfig(), seed=0).run([request_]))


@pytest.mark.parametrize("seed", [-1, 2**32, 2**63])
def test_a_seed_that_a_key_cannot_hold_is_refused(tiny, seed):
    with pytest.raises(UserError, match="seed: .*expected 0 to 4294967295"):
        Engine(tiny, Prefix(), GenerationConfig(), seed=seed)


@pytest.mark.parametrize("prefix_length", [0, 5])
def test_the_last_token_that_fits_is_generated_as_in_transformers(prefix_length, tmp_path):
    """Learned positions end with the context; the last token takes none."""
    from family_models import make

    from adapt_jax.pretrained.loading import load_pretrained

    reference = make(tmp_path, "gpt2", n_positions=24)
    model = load_pretrained(tmp_path)
    ids = draws(9)
    for new in (14, 15, 16, 99):
        engine = Engine(
            model,
            Prefix((ids[:prefix_length],) if prefix_length else ()),
            GenerationConfig(max_new_tokens=new),
            seed=0,
        )
        found = [candidate for *_, candidate in engine.run([Request("0", ids[prefix_length:])])]
        expected = reference.generate(
            torch.tensor([ids]), max_new_tokens=min(new, 16), do_sample=False, pad_token_id=2
        )
        assert list(found[0].token_ids) == expected[0, 9:].tolist()
        assert (len(found[0].token_ids), found[0].finish_reason) == (min(new, 16), "length")


def test_a_request_that_leaves_no_room_is_too_long_and_the_others_go_on(tiny):
    context = tiny.config.context_length
    found = greedy(
        tiny, [Request("long", draws(context + 1)), Request("short", draws(4))], max_new_tokens=3
    )
    assert found[0, 0].finish_reason == "too_long"
    assert len(found[1, 0].token_ids) > 0


def test_the_last_token_that_fits_is_generated_as_by_transformers(make_tiny_llama, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = make_tiny_llama(tmp_path / "short", max_position_embeddings=40, seed=3)
    model = adapt_jax.load_pretrained(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt_prefix = draws(20, 1)
    requests = [Request(str(n), draws(n, n)) for n in (14, 19, 20)]
    found = greedy(model, requests, prompt_prefix, max_new_tokens=30)
    for index, request in enumerate(requests):
        ids = torch.tensor([prompt_prefix + request.tokens])
        fitting = 40 - ids.shape[1] + 1  # the last token is never read
        text = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=fitting, do_sample=False
        )
        assert list(found[index, 0].token_ids) == text[0, ids.shape[1] :].tolist()
        assert len(found[index, 0].token_ids) == fitting
        assert found[index, 0].finish_reason == "length"
    again = greedy(model, requests[:1], prompt_prefix, max_new_tokens=6)  # to the context's end
    assert again[0, 0].token_ids == found[0, 0].token_ids[:6]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"candidates": 2**63}, "candidates"),
        ({"temperature": 1e30}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature: 'hot'; expected 0"),
        ({"top_k": 2.5}, "top_k"),
        ({"max_new_tokens": True}, "max_new_tokens"),
        ({"stop": (5,)}, "stop"),
        ({"candidates": 0}, "candidates"),
        ({"candidates": 2}, "temperature 0"),
        ({"stop": ("",)}, "stop"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"top_p": 0.0}, "top_p"),
    ],
)
def test_contradictory_options_are_one_clear_line(options, said):
    with pytest.raises(UserError, match=said):
        GenerationConfig(**options)


@pytest.mark.parametrize("length", [1, 32, 33, 48, 49, 64, 65, 97, 500, 513, 1025])
def test_a_question_is_padded_to_at_most_half_of_its_length_more(length: int):
    padded = pad_question(length)
    assert length <= padded <= max(32, 1.5 * length)
    assert padded == pad_question(padded)


@pytest.mark.parametrize(("tokens", "rows"), [(None, 16), (1024, 10), (100, 1), (64, 1)])
def test_a_batch_of_questions_has_a_bounded_number_of_tokens(tokens: int | None, rows: int):
    shape = RunShape(32, 256, 16, tokens, questions_at_once=32)
    assert shape.count_rows(96) == rows
    assert shape.count_batches(96) == 32 // rows
