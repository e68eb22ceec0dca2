"""Ensembles of soft prompts: trained together as each would be alone, asked in one pass, voted."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scripted import scripted

from adapt_jax.adaptation import session as session_module
from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.export import export_adaptation
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.methods.base import RunOptions
from adapt_jax.methods.prompt_tuning import PromptTuning
from adapt_jax.methods.soft_prompt_init import draw_members
from adapt_jax.prompting.multiple_choice import MultipleChoiceConfig
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.sampling.types import Candidate, GenerationConfig
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.packing import TrainingExample
from adapt_jax.training.trainer import TrainingData, train
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.training.validation import Validation
from adapt_jax.utils.errors import UserError

ITEMS = [
    Example(f"{a}-{b}", f"Jane has {a} apples and got {b} more. How many?", str(a + b))
    for a in range(2, 6)
    for b in range(2, 5)
]
TASK = Task("sums", ITEMS[:8], (), ITEMS[8:], instruction="Solve the problem.")
TRAINING = {"steps": 2, "batch_size": 4, "warmup_steps": 0}


def made_examples(count: int) -> list[TrainingExample]:
    draws = np.random.default_rng(0)
    sizes = draws.integers(6, 30, count).tolist()
    return [
        TrainingExample(str(n), tuple(draws.integers(3, 320, size).tolist()), size // 3)
        for n, size in enumerate(sizes)
    ]


def starts(members: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.2, (members, 5, 32)).astype(np.float32)


def test_a_member_is_trained_to_the_values_of_one_alone(tiny):
    config = TrainingConfig(
        steps=3,
        batch_size=6,
        optimizer="adafactor",  # which looks at whole arrays
        learning_rate=0.01,
        clip_norm=0.05,  # clipping is of each member's gradient, not of all of them together
        warmup_steps=0,
        gradient_accumulation_steps=2,
        validate_every=3,
    )
    examples = made_examples(12)

    def trained(rows):
        soft = SoftPrompt(rows, before_bos=False)
        model = TunedDecoder(tiny.decoder, soft)
        chosen = nnx.PathContains("soft_prompt")
        validation = Validation(examples[:4])
        result = train(
            model,
            chosen,
            TrainingData(examples, (0, 7), validation=validation),
            config,
            seed=0,
        )
        return np.asarray(soft.embeddings[...]), result

    rows = starts(2)
    together, result = trained(rows)
    alone, results = zip(*(trained(one) for one in rows), strict=True)
    assert np.abs(together - rows).max() > 0.01 and result.trainable_parameters == rows.size
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)
    mean = np.mean([one.losses for one in results], axis=0)
    np.testing.assert_allclose(result.losses, mean, atol=1e-5)
    assert result.best.value == pytest.approx(
        np.mean([one.best.value for one in results]), abs=1e-5
    )


def test_an_ensemble_is_trained_saved_and_asked_as_its_members_are(tiny, tmp_path: Path):
    method = PromptTuning(length=4, ensemble=3, max_new_tokens=6, training=TRAINING)
    adapted = method.adapt(tiny, TASK, RunOptions(folder=tmp_path / "run"))
    adaptation = adapted.adaptation
    assert adapted.details["ensemble"] == 3 and adapted.trainable_parameters == 3 * 4 * 32
    assert adaptation.prompt.vote == "majority"
    adaptation.save(tmp_path / "saved")
    loaded = Adaptation.load(tmp_path / "saved", tiny)
    assert loaded.identity == adaptation.identity
    said = loaded.answer(ITEMS[:5])
    members = [
        replace(adaptation, soft_prompt=one).answer(ITEMS[:5])
        for one in adaptation.soft_prompt.members
    ]
    for row, *alone in zip(said, *members, strict=True):
        assert [c.text for c in row.candidates] == [one.candidates[0].text for one in alone]
        assert row.prompt_tokens == sum(one.prompt_tokens for one in alone)
    assert len({candidate.text for row in said for candidate in row.candidates}) > 1
    rest = dict(loaded.stream(ITEMS[:5], answered=[0, 1, 3]))
    assert {i: row.candidates for i, row in rest.items()} == {i: said[i].candidates for i in (2, 4)}
    with pytest.raises(UserError, match="the question is too long: .* 5.. tokens, the context"):
        loaded.ask("why? " * 100)


def test_the_members_answers_are_voted_and_ties_are_broken(tiny, monkeypatch):
    def ask(*answers: tuple[str, float]) -> str | None:
        def say(request: str, number: int) -> Candidate:
            member = int(request.rpartition("member ")[2]) if "member" in request else 0
            answer, score = answers[member]
            return Candidate(f" The answer is {answer}.", (5,), score, "stop")

        monkeypatch.setattr(session_module, "Engine", scripted(say))
        prompt = Prompt(generation_config=GenerationConfig(), vote="majority")
        return Adaptation("prompt_tuning", prompt, tiny, SoftPrompt(starts(3))).ask("1?").answer

    assert ask(("4", -0.1), ("5", -9.0), ("5", -9.0)) == "5"
    assert ask(("4", -2.0), ("5", -1.0), ("6", -3.0)) == "5"  # the higher log-probability
    assert ask(("4", -1.0), ("5", -1.0), ("6", -1.0)) == "4"  # the first seen


def test_members_start_from_words_of_their_own(tiny):
    examples = made_examples(12)
    for init in ("vocabulary", "sampled_vocabulary", "uniform"):
        method = PromptTuning(length=6, ensemble=3, init=init)
        rows = draw_members(method, tiny, examples, seed=0)
        assert rows.shape == (3, 6, 32)
        if init == "vocabulary":
            assert len({row.tobytes() for row in rows.reshape(-1, 32)}) == 18
        else:
            alone = draw_members(PromptTuning(length=6, init=init), tiny, examples, seed=0)
            np.testing.assert_array_equal(rows[0], alone)


def test_what_an_ensemble_cannot_do_is_reported(tiny, tmp_path: Path):
    method = PromptTuning(length=4, ensemble=3, init="text", init_text="How many apples?")
    with pytest.raises(UserError, match=r"ensemble 3: init 'text' starts members alike"):
        draw_members(method, tiny, [], 0)
    adaptation = Adaptation("prompt_tuning", Prompt(), tiny, SoftPrompt(jnp.asarray(starts(2))))
    with pytest.raises(UserError, match="an ensemble of 2 soft prompts votes on answers; PEFT"):
        export_adaptation(adaptation, tmp_path / "peft")
    chosen = Prompt(multiple_choice=MultipleChoiceConfig(("yes", "no")))
    with pytest.raises(UserError, match="an ensemble of 2 .* cannot choose by likelihood"):
        replace(adaptation, prompt=chosen).ask("Is it?", ("yes", "no"))
    saved = str(adaptation.save(tmp_path / "saved"))
    with pytest.raises(UserError, match="holds an ensemble of 2 .* expected ensemble 2, found 1"):
        draw_members(PromptTuning(length=5, init=saved), tiny, [], 0)
    again = draw_members(PromptTuning(length=5, ensemble=2, init=saved), tiny, [], 0)
    np.testing.assert_array_equal(again, starts(2))
