"""Each tuning method, end to end on a tiny random decoder that must stay as it was."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from training_cases import ITEMS, TASK

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.methods.base import RunOptions
from adapt_jax.methods.fine_tuning import FineTuning, select_parameters
from adapt_jax.methods.instruction_tuning import InstructionTuning
from adapt_jax.methods.lora import LoRAConfig, attach_lora, detach_lora
from adapt_jax.methods.prompt_tuning import PromptTuning
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.pretrained.lora_factors import LoRAWeights
from adapt_jax.pretrained.saving import save_pretrained
from adapt_jax.prompting.prompt import MethodNotApplicable, Prompt, tokenize
from adapt_jax.tasks.templates import Template
from adapt_jax.training.examples import tokenize_examples
from adapt_jax.utils.errors import UserError

TRAINING = {"steps": 6, "batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 0}
EOS = 1


def weights(model):
    flat = jax.tree_util.tree_leaves_with_path(nnx.state(model.decoder))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


def assert_unchanged(model, before):
    after = weights(model)
    assert after.keys() == before.keys()
    for path, leaf in after.items():
        np.testing.assert_array_equal(leaf, before[path])


def changed(model, before):
    return {path for path, leaf in weights(model).items() if (leaf != before[path]).any()}


# From examples to tokens


def test_training_sees_the_tokens_of_generation_and_eos_once_as_target(tiny):
    prompt = Prompt(instruction="Solve the problem.", reasoning=True)
    asked = [prompt.template.format_question(example.question) for example in ITEMS]
    prompt_prefix, questions = tokenize(tiny, prompt, asked)
    prepared = tokenize_examples(tiny, prompt, ITEMS)
    assert prepared.prompt_prefix == tuple(prompt_prefix)
    for example, question, item in zip(prepared.examples, questions, ITEMS, strict=True):
        assert example.tokens[: example.target_start] == tuple(question)
        target = example.tokens[example.target_start :]
        assert target.count(EOS) == 1 and target[-1] == EOS
        assert tiny.decode(target) == f" {item.reasoning} The answer is {item.answer}."
    whole = tokenize_examples(tiny, prompt, ITEMS[:1]).with_prefix()
    (first,) = whole.examples
    assert whole.prompt_prefix == ()
    begun = prompt.text + prompt.template.format_question(ITEMS[0].question)
    assert list(first.tokens[: first.target_start]) == tiny.encode(begun)
    assert first.tokens.count(0) == 1  # BOS


def test_reasoning_is_left_out_of_the_target_where_it_is_not_wanted(tiny):
    (example,) = tokenize_examples(tiny, Prompt(reasoning=False), ITEMS[:1]).examples
    assert tiny.decode(example.tokens[example.target_start :]) == " The answer is 4."


def test_an_eos_spelled_in_the_data_is_not_a_second_target(tiny):
    spelled = replace(ITEMS[0], reasoning="Two and two.<|eos|>")
    (example,) = tokenize_examples(tiny, Prompt(reasoning=True), [spelled]).examples
    assert example.tokens.count(EOS) == 1 and example.tokens[-1] == EOS


def test_unusable_examples_are_dropped_and_counted(tiny):
    long = replace(ITEMS[0], question="word " * 600)
    prepared = tokenize_examples(tiny, Prompt(), [*ITEMS[:3], long, replace(ITEMS[4], answer="")])
    assert (len(prepared.examples), prepared.too_long, prepared.without_answer) == (3, 1, 1)
    length = max(len(e.tokens) for e in prepared.examples) + len(prepared.prompt_prefix)
    assert tokenize_examples(tiny, Prompt(), ITEMS[:3], max_length=length).too_long == 0
    assert tokenize_examples(tiny, Prompt(), ITEMS[:3], max_length=length - 1).too_long > 0
    with pytest.raises(MethodNotApplicable, match="1 do not fit"):
        tokenize_examples(tiny, Prompt(), [long]).check_not_empty()


def test_a_merge_across_the_border_of_question_and_answer_is_an_error(tiny):
    merging = Template(question="Q: {question}\nA: Ja", answer="ne has {answer}.")
    assert len(tiny.encode("Jane", bos=False)) < len(tiny.encode("Ja", bos=False)) + len(
        tiny.encode("ne", bos=False)
    )
    with pytest.raises(UserError, match="example 'train-2-2': the tokenizer merges"):
        tokenize_examples(tiny, Prompt(template=merging), ITEMS[:1])


# Prompt tuning


def test_prompt_tuning_trains_the_soft_prompt_alone(shallow, tmp_path):
    before = weights(shallow)
    method = PromptTuning(length=7, training=TRAINING)
    steps = []
    tuned = method.adapt(
        shallow, TASK, RunOptions(folder=tmp_path, on_step=lambda *told: steps.append(told))
    )
    assert tuned.adaptation.model is shallow
    assert_unchanged(shallow, before)
    assert tuned.adaptation.soft_prompt.embeddings[...].shape == (7, 32)
    assert tuned.adaptation.soft_prompt.embeddings[...].dtype == jnp.float32
    assert tuned.trainable_parameters == 7 * 32
    assert tuned.losses[-1] < tuned.losses[0] and len(tuned.losses) == 6
    assert [step for step, *_ in steps] == list(range(7))  # 0: before it is compiled
    assert tuned.adaptation.prompt.demonstrations == () and tuned.adaptation.prompt.reasoning
    assert tuned.details["examples"] == 12 and json.dumps(tuned.details)
    again = method.adapt(shallow, TASK)
    np.testing.assert_array_equal(
        again.adaptation.soft_prompt.embeddings[...], tuned.adaptation.soft_prompt.embeddings[...]
    )


# LoRA


@pytest.mark.parametrize("dora", [False, True])
def test_lora_changes_nothing_before_training_and_merging_changes_no_logit(tiny, dora):
    decoder = nnx.clone(tiny.decoder)
    ids = jnp.asarray([tiny.encode(ITEMS[0].question)])
    mask = jnp.tril(jnp.ones((1, ids.shape[1], ids.shape[1]), bool))

    def logits(decoder):
        hidden, _ = decoder(decoder.embed(ids), jnp.arange(ids.shape[1])[None], mask)
        return np.asarray(decoder.logits(hidden))

    plain = logits(decoder)
    attach_lora(decoder, ["query", "down"], 4, 2.0, nnx.Rngs(0), dora=dora)
    np.testing.assert_allclose(logits(decoder), plain, atol=5e-6 if dora else 0)
    lora = decoder.layers[1].ffn.down.lora
    assert lora.a[...].shape == (4, 64) and lora.b[...].shape == (32, 4) and lora.scale == 2.0
    assert 0.8 * 64**-0.5 < np.abs(lora.a[...]).max() <= 64**-0.5
    for layer in decoder.layers:
        for linear in (layer.attention.query, layer.ffn.down):
            noise = jax.random.normal(jax.random.key(1), linear.lora.b[...].shape)
            linear.lora.b[...] = noise.astype(jnp.float32)
            if dora:
                linear.lora.magnitude[...] *= 1 + 0.1 * noise[:, 0]
    tuned = logits(decoder)
    assert np.abs(tuned - plain).max() > 0.1
    answering = nnx.clone(decoder)
    LoRAConfig().prepare_to_answer(answering)
    np.testing.assert_allclose(logits(answering), tuned, atol=1e-5)
    assert (answering.layers[0].ffn.down.lora.fixed_row_scale is not None) == dora
    updates = LoRAWeights(detach_lora(decoder, 8.0), tiny.fingerprint)
    assert decoder.layers[0].attention.query.lora is None
    np.testing.assert_array_equal(logits(decoder), plain)
    np.testing.assert_allclose(logits(updates.merge_into(tiny).decoder), tuned, atol=2e-4)


def test_lora_finds_all_projections_and_names_those_that_are_not_there(tiny):
    decoder = nnx.clone(tiny.decoder)
    attach_lora(decoder, "all", 2, 1.0, nnx.Rngs(0))
    assert len(detach_lora(decoder, 2.0)) == 2 * 7
    for layer in decoder.layers:
        layer.ffn.gate = None  # as in GPT-2
    attach_lora(decoder, "all", 2, 1.0, nnx.Rngs(0))
    assert len(detach_lora(decoder, 2.0)) == 2 * 6
    with pytest.raises(UserError, match="no layer of this decoder has gate .found: query"):
        attach_lora(decoder, ["query", "gate"], 2, 1.0, nnx.Rngs(0))


@pytest.mark.parametrize("dora", [False, True])
def test_lora_trains_factors_and_yields_a_decoder_of_its_own(shallow, tmp_path, dora):
    before = weights(shallow)
    method = LoRAConfig(
        rank=2, modules=["query", "up"], rank_stabilized=True, dora=dora, training=TRAINING
    )
    tuned = method.adapt(shallow, TASK)
    assert (
        tuned.adaptation.lora_weights is not None
        and tuned.adaptation.lora_weights.base_fingerprint == shallow.fingerprint
    )
    assert (
        tuned.adaptation.lora_weights.merge_into(shallow).fingerprint
        == tuned.adaptation.model.fingerprint
    )
    assert_unchanged(shallow, before)
    assert tuned.adaptation.soft_prompt is None and tuned.losses[-1] < tuned.losses[0]
    magnitudes = 32 + 64 if dora else 0
    assert tuned.trainable_parameters == 2 * (32 + 32) + 2 * (32 + 64) + magnitudes
    assert tuned.adaptation.lora_weights.has_magnitudes == dora
    assert (
        tuned.adaptation.model is not shallow
        and tuned.adaptation.model.fingerprint != shallow.fingerprint
    )
    moved = changed(tuned.adaptation.model, before)
    assert len(moved) == 2 and all("query" in path or "up" in path for path in moved)
    save_pretrained(
        tuned.adaptation.model, tmp_path / "tuned"
    )  # merged: an ordinary Hugging Face folder
    assert load_pretrained(tmp_path / "tuned").fingerprint == tuned.adaptation.model.fingerprint
    again = Adaptation.load(tuned.adaptation.save(tmp_path / "saved"), shallow)  # factors alone
    assert again.model.fingerprint == tuned.adaptation.model.fingerprint


def test_a_row_of_zeros_stays_zero_with_dora(tiny):
    """Its norm is zero: as padded rows of a vocabulary, it would make every logit NaN."""
    decoder = nnx.clone(tiny.decoder)
    query = decoder.layers[0].attention.query
    query.kernel[...] = query.kernel[...].at[3].set(0)
    attach_lora(decoder, ["query"], 2, 1.0, nnx.Rngs(0), dora=True)
    x = jnp.ones((1, 32))
    assert query(x)[0, 3] == 0 and np.isfinite(query(x)).all()
    gradients = jax.grad(lambda b: nnx.merge(*replace_b(query, b))(x).sum())(query.lora.b[...])
    assert np.isfinite(gradients).all()
    factors = detach_lora(decoder, 2.0)
    model = replace(tiny, decoder=decoder)
    merged = LoRAWeights(factors, model.fingerprint).merge_into(model).decoder
    assert np.isfinite(merged.layers[0].attention.query.kernel[...]).all()


def replace_b(linear, b):
    """The projection in two parts, with other factors B."""
    graph, state = nnx.split(linear)
    state["lora"]["b"] = state["lora"]["b"].replace(b)
    return graph, state


# Fine-tuning


def test_fine_tuning_trains_every_parameter_of_a_copy(shallow):
    before = weights(shallow)
    tuned = FineTuning(training=TRAINING, reasoning=False).adapt(shallow, TASK)
    assert_unchanged(shallow, before)
    assert changed(tuned.adaptation.model, before) == before.keys()
    assert tuned.trainable_parameters == sum(leaf.size for leaf in before.values())
    assert tuned.losses[-1] < tuned.losses[0] and not tuned.adaptation.prompt.reasoning


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("embedding", lambda path: "embedding" in path),
        ("attention", lambda path: "['attention']" in path),
        ("ffn", lambda path: "['ffn']" in path),
        ("norm", lambda path: "norm" in path),
        ("layers.1", lambda path: "['layers'][1]" in path),
        ([r"query\.kernel", "norm"], lambda path: "query" in path or "norm" in path),
    ],
)
def test_fine_tuning_of_a_part_leaves_the_rest_bit_identical(tiny, part, expected):
    chosen = select_parameters(tiny.decoder, part)
    picked = nnx.to_flat_state(nnx.state(tiny.decoder, chosen))
    everything = nnx.to_flat_state(nnx.state(tiny.decoder))
    quoted = {
        path: "".join(f"['{key}']" if isinstance(key, str) else f"[{key}]" for key in path)
        for path, _ in everything
    }
    assert {path for path, _ in picked} == {p for p, name in quoted.items() if expected(name)}
    if part == "layers.1":
        before = weights(tiny)
        tuned = FineTuning(training=TRAINING, trainable=part).adapt(tiny, TASK)
        moved = changed(tuned.adaptation.model, before)
        assert len(moved) == len(picked) and all("layers" in path for path in moved)


def test_an_unknown_part_is_reported(tiny, monkeypatch):
    with pytest.raises(UserError, match="'atention' selects no parameter"):
        select_parameters(tiny.decoder, "atention")
    with pytest.raises(UserError, match="tied to the embedding"):
        select_parameters(tiny.decoder, ["norm", "output"])
    with pytest.raises(UserError, match="no regular expression"):
        select_parameters(tiny.decoder, "(")
    monkeypatch.setattr("adapt_jax.methods.fine_tuning.MAX_PATTERN_SECONDS", 0.0)
    with pytest.raises(UserError, match="takes too long"):
        select_parameters(tiny.decoder, "(?:a|a)*$")


def test_bfloat16_weights_are_trained_in_float32_and_come_back_in_bfloat16(shallow_folder):
    model = load_pretrained(shallow_folder, dtype=jnp.bfloat16)
    training = {**TRAINING, "steps": 2}
    tuned = FineTuning(training=training, trainable="norm").adapt(model, TASK).adaptation.model
    leaves = jax.tree.leaves(nnx.state(tuned.decoder))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.bfloat16)}
    # a decoder of its own keeps tokenizer and path
    assert isinstance(tuned, PretrainedDecoder)
    assert tuned.tokenizer is model.tokenizer and tuned.path == model.path


@pytest.mark.parametrize("method", [PromptTuning, LoRAConfig, FineTuning, InstructionTuning])
def test_a_task_without_training_examples_cannot_be_trained_on(tiny, method):
    with pytest.raises(MethodNotApplicable, match="no training split"):
        method().adapt(tiny, replace(TASK, train=()))


# Prompt tuning: where it stands and what it starts from


def test_a_prompt_behind_bos_is_trained_where_it_will_stand(shallow):
    method = PromptTuning(length=4, position="after_bos", training={**TRAINING, "steps": 2})
    tuned = method.adapt(shallow, TASK)
    assert not tuned.adaptation.soft_prompt.before_bos
    assert tuned.details["learning_rate"] == 1e-2 and tuned.details["length"] == 4
    before = PromptTuning(length=4, training={**TRAINING, "steps": 2}).adapt(shallow, TASK)
    assert before.adaptation.soft_prompt.before_bos and before.losses[0] != tuned.losses[0]


def test_a_prompt_as_long_as_the_context_is_refused(tiny):
    with pytest.raises(UserError, match="length 512 leaves no room.*context is 512 tokens"):
        PromptTuning(length=512).adapt(tiny, TASK)
