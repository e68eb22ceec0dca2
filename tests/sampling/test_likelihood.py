"""Logits and log-likelihoods of given texts: those of transformers, in bounded memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import adapt_jax
from adapt_jax.decoders.prefix import Prefix
from adapt_jax.sampling import likelihood
from adapt_jax.sampling.likelihood import MultipleChoiceRequest, score_continuations
from adapt_jax.utils.errors import UserError

torch = pytest.importorskip("torch", reason="the test extra brings torch")

TEXTS = ["Jane has 2 apples.", "How many oranges are left? There were 12 oranges and 4 are gone."]


@pytest.fixture(scope="module")
def theirs(tiny_folder: Path) -> Callable[[list[int]], np.ndarray]:
    """The logits [T, V] that transformers computes."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)

    def compute(ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0].numpy()

    return compute


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> adapt_jax.Model:
    return adapt_jax.load_pretrained(tiny_folder)


def test_logits_are_those_of_transformers(model, theirs):
    ids = [model.encode(text) for text in TEXTS]
    for given in (ids[0], np.asarray(ids[0]), jax.numpy.asarray(ids[0]), TEXTS[0], [TEXTS[0]]):
        logits = model.logits(given)
        assert logits.shape == (1, len(ids[0]), 320) and logits.dtype == np.float32
        np.testing.assert_allclose(logits[0], theirs(ids[0]), atol=1e-4)
    square = np.asarray([ids[0][:8], ids[1][:8]])
    np.testing.assert_allclose(model.logits(square)[1], theirs(ids[1][:8]), atol=1e-4)


def test_logits_of_texts_of_several_lengths_are_nan_behind_their_ends(model, theirs):
    ids = [model.encode(text) for text in TEXTS]
    logits = model.logits(TEXTS)
    assert logits.shape[:2] == (2, len(ids[1]))
    for row, one in enumerate(ids):
        np.testing.assert_allclose(logits[row, : len(one)], theirs(one), atol=1e-4)
    assert np.isnan(logits[0, len(ids[0]) :]).all()


def expected_likelihood(theirs: Any, context: list[int], continuation: list[int]) -> Any:
    scores = torch.log_softmax(torch.tensor(theirs(context + continuation)).double(), -1)
    rows = scores[len(context) - 1 : -1]
    wanted = torch.tensor(continuation)
    total = float(rows.gather(1, wanted[:, None]).sum())
    return total, bool((rows.argmax(-1) == wanted).all())


def test_log_likelihood_is_that_of_transformers(model, theirs):
    context, continuation = "Q: How many apples", " does she have in total?"
    before, joint = model.encode(context), model.encode(context + continuation)
    assert joint[: len(before)] == before
    found = model.log_likelihood(context, continuation)
    total, is_greedy = expected_likelihood(theirs, before, joint[len(before) :])
    assert found.log_probability == pytest.approx(total, abs=1e-3) and not is_greedy
    assert found.is_greedy == is_greedy
    assert model.log_likelihood(before, joint[len(before) :]) == found


def test_what_the_decoder_generates_greedily_is_greedy(model, theirs):
    [[candidate]] = model.generate([TEXTS[0]], max_new_tokens=5)
    context = model.encode(TEXTS[0])
    found = model.log_likelihood(context, candidate.token_ids)
    assert found.is_greedy
    assert found.log_probability == pytest.approx(candidate.log_probability, abs=1e-3)
    other = (candidate.token_ids[0], (candidate.token_ids[1] + 1) % 320)
    assert not model.log_likelihood(context, other).is_greedy


def test_a_token_across_the_border_belongs_to_the_continuation(model):
    context, continuation = "Jane has 2 app", "les."
    before, joint = model.encode(context), model.encode(context + continuation)
    assert joint[: len(before)] != before  # "apples" is one token
    border = next(i for i, (a, b) in enumerate(zip(before, joint, strict=False)) if a != b)
    whole = model.log_likelihood(joint[:border], joint[border:])
    assert model.log_likelihood(context, continuation) == whole


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.logits([]), "empty"),
        (lambda model: model.logits([[3, 4], []]), "empty"),
        (lambda model: model.logits([3, 320]), "320: no token id .* expected 0 to 319"),
        (lambda model: model.logits([3.5]), "no token id"),
        (lambda model: model.logits([3] * 513), "513 tokens; the context of .* holds 512"),
        (lambda model: model.log_likelihood("a", [3]), "two texts, or two sequences"),
        (lambda model: model.log_likelihood([], [3]), "the context has no tokens"),
        (lambda model: model.log_likelihood("a", ""), "the continuation has no tokens"),
        (lambda model: model.log_likelihood([3] * 500, [3] * 14), "514 tokens; the context"),
    ],
)
def test_what_has_no_likelihood_is_one_clear_line(model, call, message):
    with pytest.raises(UserError, match=message) as error:
        call(model)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_the_last_token_is_not_read_so_it_may_be_one_past_the_context(model):
    assert np.isfinite(model.log_likelihood([3] * 500, [3] * 13).log_probability)


def test_many_continuations_are_spread_over_rows_of_bounded_length(tiny, monkeypatch):
    draws = np.random.default_rng(0)
    tokens = lambda count: tuple(int(i) for i in draws.integers(3, 300, count))  # noqa: E731
    requests = [
        MultipleChoiceRequest(tokens(9), tuple(tokens(n % 5 + 1) for n in range(50))),
        MultipleChoiceRequest(tokens(4), (tokens(40), tokens(2))),
    ]
    prefix = Prefix((tokens(7),))
    whole = dict(score_continuations(tiny, prefix, requests))
    monkeypatch.setattr(likelihood, "MAX_ROW_TARGETS", 16)
    parts = requests[0].split()
    assert len(parts) > 8 and max(one.num_targets for one in parts) <= 16
    assert [c for one in parts for c in one.continuations] == list(requests[0].continuations)
    split = dict(score_continuations(tiny, prefix, requests))
    for index, found in whole.items():
        assert [one.log_probability for one in split[index]] == pytest.approx(
            [one.log_probability for one in found], abs=1e-4
        )
    left = dict(score_continuations(tiny, prefix, requests, answered={1}))
    assert left == {0: split[0]}


def test_two_thousand_choices_take_batches_of_bounded_size(tiny, monkeypatch):
    sizes = []
    build = likelihood._build_rows

    def build_and_note(requests, num_rows, length):
        rows = build(requests, num_rows, length)
        sizes.append((rows.tokens.shape, rows.places.shape))
        return rows

    monkeypatch.setattr(likelihood, "_build_rows", build_and_note)
    draws = np.random.default_rng(0).integers(3, 300, (2000, 3))
    request = MultipleChoiceRequest((5, 6, 7), tuple(map(tuple, draws.tolist())))
    [(_, found)] = score_continuations(tiny, Prefix(), [request])
    assert len(found) == 2000
    for (rows, length), (_, targets) in sizes:
        assert rows * length**2 <= likelihood.MAX_MASK and targets <= 1024 + 16
