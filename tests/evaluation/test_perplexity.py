"""Perplexity and bits per byte against the decoder's own logits, in windows as the harness cuts."""

import json
import math

import numpy as np
import pytest

from adapt_jax.cli.main import main
from adapt_jax.evaluation.perplexity import TextLikelihood, measure_perplexity
from adapt_jax.sampling.model import Model, load_pretrained
from adapt_jax.utils.errors import UserError

TEXT = "Jane has 2 apples and Joe has 3. Together they have 5 apples, says Jane’s mother."


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def score(model: Model, context: list[int], continuation: list[int]) -> float:
    """The log-probability of the continuation out of one forward pass."""
    joint = [*context, *continuation]
    [logits] = model.logits([joint])
    rows = log_softmax(np.asarray(logits, np.float64))
    places = range(len(context), len(joint))
    return math.fsum(float(rows[place - 1, joint[place]]) for place in places)


def begin_token(model: Model) -> int:
    bos = model.config.bos_id
    return model.config.eos_ids[0] if bos is None else bos


def test_a_text_that_fits_is_scored_in_one_pass(tiny):
    model = Model.of(tiny)
    tokens = model.encode(TEXT, bos=False)
    found = measure_perplexity(model, [TEXT])
    expected = score(model, [begin_token(model)], tokens)
    assert found.log_likelihood == pytest.approx(expected, abs=1e-3)
    assert (found.texts, found.words, found.tokens) == (1, len(TEXT.split()), len(tokens))
    assert found.utf8_bytes == len(TEXT) + 2  # one letter of three bytes
    assert found.perplexity == pytest.approx(math.exp(-expected / len(tokens)), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(
        -expected / math.log(2) / found.utf8_bytes, rel=1e-4
    )


def test_a_longer_text_is_cut_as_the_harness_cuts_it(tiny, tiny_folder):
    lm_eval_utils = pytest.importorskip("lm_eval.utils")
    model = load_pretrained(tiny_folder, context_length=8)
    tokens = model.encode(TEXT, bos=False)
    assert len(tokens) > 16
    windows = lm_eval_utils.get_rolling_token_windows(tokens, begin_token(model), 8, 1)
    expected = math.fsum(
        score(Model.of(tiny), *lm_eval_utils.make_disjoint_window(window)) for window in windows
    )
    found = measure_perplexity(model, [TEXT])
    assert found.tokens == len(tokens)
    assert found.log_likelihood == pytest.approx(expected, abs=2e-3)


def test_several_texts_are_summed(tiny):
    alone = [measure_perplexity(tiny, [text]) for text in (TEXT, "Joe has 3.")]
    both = measure_perplexity(tiny, [TEXT, "Joe has 3."])
    assert both.tokens == sum(one.tokens for one in alone)
    total = sum(one.log_likelihood for one in alone)
    assert both.log_likelihood == pytest.approx(total, abs=1e-3)


def test_the_numbers_follow_from_counts():
    found = TextLikelihood(1, words=2, utf8_bytes=8, tokens=4, log_likelihood=-8 * math.log(2))
    assert found.to_dict() == pytest.approx(
        {"texts": 1, "words": 2, "utf8_bytes": 8, "tokens": 4, "log_likelihood": -8 * math.log(2)}
        | {"perplexity": 4, "word_perplexity": 16, "byte_perplexity": 2, "bits_per_byte": 1}
    )
    assert TextLikelihood(1, 1, 1, 1, -1e6).perplexity == math.inf
    with pytest.raises(UserError, match="found an empty one"):
        measure_perplexity(None, ["  "])


def test_the_command_prints_all_numbers(tiny_folder, tmp_path, capsys):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "Joe has 3."}) + "\n")
    files = [str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")]
    assert main(["perplexity", str(tiny_folder), *files, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["texts"] == 2 and found["perplexity"] > 1
    assert main(["perplexity", str(tiny_folder), *files, "--quiet"]) == 0
    assert f"bits per byte    {found['bits_per_byte']:.4f}" in capsys.readouterr().out
    assert main(["perplexity", str(tiny_folder), str(tmp_path / "c.txt")]) == 2
