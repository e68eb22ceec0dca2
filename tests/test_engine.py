"""The sampling engine: equal to transformers, independent of neighbours, exact behind a prefix."""

import jax.numpy as jnp
import numpy as np
import pytest

import adapt_jax
from adapt_jax.decoders.prefix import Prefix
from adapt_jax.errors import UserError
from adapt_jax.sampling.engine import Decoding, Engine, Request

torch = pytest.importorskip("torch", reason="the test extra brings torch")


def greedy(model, requests, prefix=(), slots=8, **options):
    engine = Engine(model, Prefix((tuple(prefix),)), Decoding(**options), seed=0, slots=slots)
    found = {}
    for index, number, candidate in engine.run(requests):
        found[index, number] = candidate
    return found


def draws(length, seed=0):
    return tuple(int(i) for i in np.random.default_rng(seed).integers(3, 300, length))


def test_greedy_tokens_equal_transformers_for_lengths_around_the_buckets(tiny_folder, tiny):
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    lengths = (1, 2, 31, 32, 33, 63, 64, 65, 100)
    requests = [Request(str(length), draws(length, length)) for length in lengths]
    found = greedy(tiny, requests, max_new_tokens=12)
    for index, request in enumerate(requests):
        ids = torch.tensor([request.tokens])
        mask = torch.ones_like(ids)
        text = theirs.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
        assert list(found[index, 0].token_ids) == text[0, len(request.tokens) :].tolist()


def test_a_shared_prefix_gives_what_repeating_it_in_the_prompt_gives(tiny):
    front = draws(70, 5)
    requests = [Request(str(i), draws(9 + i, i)) for i in range(4)]
    whole = [Request(one.id, front + one.tokens) for one in requests]
    behind = greedy(tiny, requests, front, max_new_tokens=10)
    repeated = greedy(tiny, whole, max_new_tokens=10)
    for key, candidate in behind.items():
        assert candidate.token_ids == repeated[key].token_ids
        assert candidate.log_probability == pytest.approx(repeated[key].log_probability, abs=1e-3)


def test_a_candidate_does_not_depend_on_who_is_asked_beside_it_or_in_which_order(tiny):
    requests = [Request(f"id{i}", draws(5 + i, i)) for i in range(12)]
    options = {"max_new_tokens": 9, "temperature": 1.0, "candidates": 3}
    one = greedy(tiny, requests, slots=4, **options)
    turned = greedy(tiny, requests[::-1], slots=4, **options)
    for (index, number), candidate in one.items():
        assert turned[11 - index, number].token_ids == candidate.token_ids
    texts = {one[0, number].token_ids for number in range(3)}
    assert len(texts) > 1  # candidates differ


def test_a_request_that_has_enough_gets_no_more_candidates_and_the_others_do_not_move(tiny):
    requests = [Request(f"id{i}", draws(5 + i, i)) for i in range(12)]
    decoding = Decoding(max_new_tokens=9, temperature=1.0, candidates=6)
    engine = Engine(tiny, Prefix(), decoding, seed=0, slots=4)
    everything = {(i, n): c.token_ids for i, n, c in engine.run(requests)}
    found, entered = {}, []

    def enough(index: int) -> bool:
        return index % 2 == 0 and {(index, 0), (index, 1)} <= found.keys()

    for index, number, candidate in engine.run(requests, enough=enough):
        found[index, number] = candidate.token_ids
        entered.append(number)
    assert found.items() <= everything.items()
    assert {(i, n) for i in range(12) for n in range(6 if i % 2 else 2)} <= found.keys()
    assert len(found) < len(everything) - 6 * 2  # what was written beside the second is lost
    assert np.mean(entered[:8]) < np.mean(entered[-8:])  # breadth first


def test_what_is_left_of_an_interrupted_run_comes_out_to_the_bit(tiny):
    requests = [Request(f"id{i}", draws(5 + 3 * i, i)) for i in range(20)]
    decoding = Decoding(max_new_tokens=9, temperature=1.0, candidates=2)
    engine = Engine(tiny, Prefix((draws(9),)), decoding, seed=0, slots=8)
    everything = {(i, n): (c.token_ids, c.log_probability) for i, n, c in engine.run(requests)}
    done = {0, 1, 4, 5, 6, 7, 8, 13, 19}
    left = {
        (i, n): (c.token_ids, c.log_probability)
        for i, n, c in engine.run(requests, enough=lambda _: False, answered=done)
    }
    assert left == {key: said for key, said in everything.items() if key[0] not in done}


def test_sampled_tokens_follow_the_decoders_own_distribution(tiny):
    tokens = draws(6, 3)
    positions, segments = jnp.arange(6)[None], jnp.ones((1, 6, 6), bool)
    hidden, _ = tiny.decoder(
        tiny.decoder.embed(jnp.asarray([tokens])), positions, jnp.tril(segments)
    )
    logits = np.asarray(tiny.decoder.logits(hidden[0, -1]), np.float64)
    expected = np.exp(logits - logits.max())
    expected /= expected.sum()
    count = 2000
    found = greedy(
        tiny, [Request("q", tokens)], slots=256, max_new_tokens=1, temperature=1.0, candidates=count
    )
    drawn = np.bincount([c.token_ids[0] for c in found.values()], minlength=len(expected))
    common = expected * count >= 5
    observed = np.append(drawn[common], drawn[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum()) * count
    keep = wanted > 0
    chi_square = ((observed - wanted)[keep] ** 2 / wanted[keep]).sum()
    freedom = keep.sum() - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)


def test_the_golden_text_of_stories260k(shared):
    folder = shared / "models" / "stories260k"
    model = adapt_jax.load_pretrained(folder)
    bos = (model.config.bos_id,)
    candidate = greedy(model, [Request("story", bos)], slots=1, max_new_tokens=200)[0, 0]
    golden = (folder / "golden_greedy_200.txt").read_text()
    assert candidate.text.strip() == golden.strip()


def test_a_request_that_leaves_no_room_is_too_long_and_the_others_go_on(tiny):
    context = tiny.config.context_length
    found = greedy(
        tiny, [Request("long", draws(context)), Request("short", draws(4))], max_new_tokens=3
    )
    assert found[0, 0].finish_reason == "too_long"
    assert len(found[1, 0].token_ids) > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"candidates": 0}, "candidates"),
        ({"candidates": 2}, "temperature 0"),
        ({"stop": ("",)}, "stop"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_contradictory_options_are_one_clear_line(options, said):
    with pytest.raises(UserError, match=said):
        Decoding(**options)


def test_a_stop_string_cuts_at_its_earliest_match_and_never_in_the_prompt(tiny):
    prompt = "Q: Jane has 2 apples."
    [[whole]] = adapt_jax.generate(tiny, [prompt], max_new_tokens=24)
    piece = whole.text[5:8]
    assert piece
    [[cut]] = adapt_jax.generate(tiny, [prompt], max_new_tokens=24, stop=(piece,))
    assert cut.finish_reason == "stop"
    assert cut.text == whole.text[: whole.text.index(piece)]
