"""What a soft prompt starts from: words of the task, a text, labels, another adaptation."""

import jax.numpy as jnp
import numpy as np
import pytest
from training_cases import ITEMS

from adapt_jax.methods import soft_prompt_init
from adapt_jax.methods.prompt_tuning import PromptTuning
from adapt_jax.methods.soft_prompt_init import draw_soft_prompt, list_text_tokens
from adapt_jax.pretrained.peft.folder import PROMPT_EMBEDDINGS
from adapt_jax.pretrained.safetensors_io import write_tensors
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.training.examples import tokenize_examples
from adapt_jax.utils.errors import UserError


def test_initial_rows_are_the_most_frequent_words_of_the_task_without_replacement(tiny):
    examples = tokenize_examples(tiny, Prompt(), ITEMS).examples
    rows = draw_soft_prompt(PromptTuning(length=30), tiny, examples, seed=0)
    table = np.asarray(tiny.decoder.embedding[...])
    ids = [int(np.flatnonzero((table == row).all(axis=1))[0]) for row in rows]
    assert len(set(ids)) == 30 and set(ids) <= set(list_text_tokens(tiny))
    counts = [sum(example.tokens.count(token) for example in examples) for token in ids]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1] > 0


def test_initial_rows_are_real_and_not_special(tiny):
    real = list_text_tokens(tiny)
    assert not {0, 1, 2} & set(real) and max(real) < len(tiny.tokenizer)
    table = np.asarray(tiny.decoder.embedding[...])
    examples = tokenize_examples(tiny, Prompt(), ITEMS).examples
    method = PromptTuning(length=len(real), init="sampled_vocabulary")
    rows = draw_soft_prompt(method, tiny, examples, seed=0)
    assert {row.tobytes() for row in rows} == {table[token].tobytes() for token in real}
    other = draw_soft_prompt(method, tiny, examples, seed=1)
    assert (rows != other).any()
    everything = PromptTuning(length=len(real))  # more than the task's own words
    rows = draw_soft_prompt(everything, tiny, examples, seed=0)
    assert len({row.tobytes() for row in rows}) == len(real)


def test_initial_rows_from_text_and_uniform(tiny):
    table = np.asarray(tiny.decoder.embedding[...])
    ids = tiny.encode("How many apples?", bos=False)
    method = PromptTuning(length=len(ids) + 2, init="text", init_text="How many apples?")
    np.testing.assert_array_equal(draw_soft_prompt(method, tiny, [], 0), table[[*ids, *ids[:2]]])
    rows = draw_soft_prompt(PromptTuning(length=50, init="uniform"), tiny, [], 0)
    assert rows.dtype == np.float32 and 0.45 < np.abs(rows).max() <= 0.5
    with pytest.raises(UserError, match="needs an init_text"):
        draw_soft_prompt(PromptTuning(init="text"), tiny, [], 0)
    with pytest.raises(UserError, match="length 400 is more than the"):
        draw_soft_prompt(PromptTuning(length=400), tiny, [], 0)


def test_initial_rows_from_labels_are_the_means_of_their_tokens(tiny):
    method = PromptTuning(length=5, init="labels")
    labels = ["apples", "12", "apples"]
    rows = draw_soft_prompt(method, tiny, [], 0, labels)
    table = np.asarray(tiny.decoder.embedding[...])
    for row, label in zip(rows, ("apples", "12"), strict=False):
        np.testing.assert_allclose(
            row, table[tiny.encode(f" {label}", bos=False)].mean(0), atol=1e-6
        )
    assert all((table == row).all(axis=1).any() for row in rows[2:])  # sampled vocabulary
    with pytest.raises(UserError, match="'labels' needs training examples"):
        draw_soft_prompt(method, tiny, [], 0)


def test_only_as_many_labels_are_tokenized_as_the_prompt_is_long(tiny, monkeypatch):
    asked = []
    real = soft_prompt_init.list_text_tokens
    monkeypatch.setattr(soft_prompt_init, "list_text_tokens", lambda m: asked.append(m) or real(m))
    encoded = []
    encode = type(tiny).encode

    def count(model, text, **options):
        encoded.append(text)
        return encode(model, text, **options)

    monkeypatch.setattr(type(tiny), "encode", count)
    labels = [str(number) for number in range(100)]
    draw_soft_prompt(PromptTuning(length=5, init="labels"), tiny, [], 0, labels)
    assert len(encoded) == 5 and len(asked) == 2  # for the labels, and for what follows them


def test_a_prompt_goes_on_from_another_adaptation(tiny, tmp_path):
    earlier = np.random.default_rng(0).normal(size=(6, 32)).astype(np.float32)
    file, shapes = tmp_path / "adapter_model.safetensors", {PROMPT_EMBEDDINGS: earlier.shape}
    method = PromptTuning(length=6, init=str(tmp_path))
    for dtype in (jnp.bfloat16, np.float32):
        write_tensors(file, shapes, dtype, iter([(PROMPT_EMBEDDINGS, earlier)]))
        expected = earlier.astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(draw_soft_prompt(method, tiny, [], 0), expected)
    with pytest.raises(UserError, match="length 7 is more than the 6 rows"):
        draw_soft_prompt(PromptTuning(length=7, init=str(tmp_path)), tiny, [], 0)
    with pytest.raises(UserError, match="did you mean 'vocabulary'"):
        draw_soft_prompt(PromptTuning(init="vocabulry"), tiny, [], 0)
    with pytest.raises(UserError, match="holds no soft prompt"):
        (tmp_path / "empty").mkdir()
        draw_soft_prompt(PromptTuning(init=str(tmp_path / "empty")), tiny, [], 0)
    file.write_bytes(b"x")
    with pytest.raises(UserError, match="not readable as safetensors"):
        draw_soft_prompt(method, tiny, [], 0)
