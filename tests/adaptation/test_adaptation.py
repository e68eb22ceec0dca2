"""Adaptation: asked with the bare question, saved whole or not at all, loaded for its decoder."""

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXAMPLES, prompt
from scripted import scripted

from adapt_jax.adaptation import session as session_module
from adapt_jax.adaptation import storage as storage_module
from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.session import build_prefixes, read_candidate
from adapt_jax.adaptation.storage import DESCRIPTION, SOFT_PROMPT, WEIGHTS
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.pretrained.peft.folder import PROMPT_EMBEDDINGS
from adapt_jax.pretrained.safetensors_io import write_tensors
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.prompting.retrieval import Retrieval
from adapt_jax.sampling.engine import Candidate, GenerationConfig
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.templates import Demonstration
from adapt_jax.utils.errors import UserError

QUESTION = "Jane has 2 apples. She bought 3 more. How many apples does she have in total?"


def soft(model, length: int = 5, before_bos: bool = True) -> SoftPrompt:
    draws = np.random.default_rng(0).normal(size=(length, model.config.embed_dim))
    return SoftPrompt(jnp.asarray(draws, jnp.float32), before_bos)


def texts(answered) -> list[list[str]]:
    return [[candidate.text for candidate in one.candidates] for one in answered]


def test_a_saved_adaptation_answers_as_before(tiny, tiny_folder: Path, tmp_path: Path):
    sampled = prompt(candidates=2, temperature=1.0)
    first = Adaptation("self_consistency", sampled, tiny, soft(tiny))
    first.save(tmp_path / "saved")
    second = Adaptation.load(tmp_path / "saved")
    assert (second.prompt, second.method, second.has_full_weights) == (
        sampled,
        "self_consistency",
        False,
    )
    assert second.model.path == str(tiny_folder) and second.folder == tmp_path / "saved"
    assert second.soft_prompt is not None and second.soft_prompt.before_bos
    before, after = first.answer(EXAMPLES, seed=3), second.answer(EXAMPLES, seed=3)
    assert texts(before) == texts(after) and len(before[0].candidates) == 2
    assert texts(first.answer(EXAMPLES, seed=4)) != texts(before)


def test_examples_may_be_demonstrations_and_are_saved_as_such(tiny, tmp_path: Path):
    solved = Example("1", "2 + 2?", "4", "2 + 2 = 4.", category="sums")
    as_examples, as_demonstrations = (
        Prompt(demonstrations=(one,), retrieval=Retrieval((one,), 1))
        for one in (solved, Demonstration.of(solved))
    )
    assert as_examples == as_demonstrations
    Adaptation("few_shot", as_examples, tiny).save(tmp_path / "saved")
    assert Adaptation.load(tmp_path / "saved").prompt == as_demonstrations


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("parser", "no_such", "unknown answer parser 'no_such'"),
        ("reasoning", "yes please", "prompt.reasoning: Input should be a valid boolean"),
        ("instruction", 3, "prompt.instruction: Input should be a valid string"),
    ],
)
def test_a_prompt_that_could_not_be_read_is_not_saved(
    tiny, tmp_path: Path, field: str, value: Any, message: str
):
    broken = replace(prompt(), **{field: value})
    with pytest.raises(UserError, match=message) as raised:
        Adaptation("zero_shot", broken, tiny).save(tmp_path / "saved")
    assert "\n" not in str(raised.value) and not (tmp_path / "saved").exists()


def test_tuned_weights_travel_with_the_adaptation(make_tiny_llama, tmp_path: Path):
    from adapt_jax.pretrained.loading import load_pretrained

    other = load_pretrained(make_tiny_llama(tmp_path / "other", seed=9))
    Adaptation("fine_tuning", prompt(), other, has_full_weights=True).save(tmp_path / "saved")
    (tmp_path / "other" / "config.json").unlink()  # the decoder it came from is not needed
    loaded = Adaptation.load(tmp_path / "saved")
    assert loaded.has_full_weights and (tmp_path / "saved" / WEIGHTS / "model.safetensors").exists()
    assert loaded.model.fingerprint == other.fingerprint
    assert loaded.model.path == str(tmp_path / "saved" / WEIGHTS)


@pytest.mark.parametrize("has_full_weights", [False, True])
def test_a_requested_dtype_is_remembered(
    has_full_weights: bool, tiny_folder: Path, tmp_path: Path, tiny: Any
):
    from adapt_jax.sampling.model import load_pretrained

    narrow = load_pretrained(tiny_folder, dtype="bfloat16")
    first = Adaptation("few_shot", prompt(), narrow, has_full_weights=has_full_weights)
    first.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / DESCRIPTION).read_text())["dtype"] == "bfloat16"
    for decoder in (None, None if has_full_weights else tiny_folder):
        second = Adaptation.load(tmp_path / "saved", decoder)
        assert second.model.decoder.embedding[...].dtype == jnp.bfloat16
        assert texts(second.answer(EXAMPLES, seed=3)) == texts(first.answer(EXAMPLES, seed=3))
    # where none was asked for, the platform chooses
    Adaptation("few_shot", prompt(), tiny).save(tmp_path / "other")
    assert json.loads((tmp_path / "other" / DESCRIPTION).read_text())["dtype"] is None


@pytest.mark.parametrize("kind", ["lora_weights", "has_full_weights", "soft_prompt"])
def test_a_declared_context_length_is_remembered(kind: str, tmp_path: Path):
    from family_models import make
    from peft_cases import updates

    from adapt_jax.pretrained.loading import load_pretrained
    from adapt_jax.utils.config import TuneConfig

    make(tmp_path / "base", "phi3, longrope")
    short = load_pretrained(tmp_path / "base")
    model = load_pretrained(tmp_path / "base", context_length=300)
    assert short.config.context_length < 300
    made, generation_config = updates(model, "query"), GenerationConfig(max_new_tokens=8)
    more = {"lora_weights": made, "has_full_weights": True, "soft_prompt": soft(model)}
    first = Adaptation(
        "lora",
        Prompt(generation_config=generation_config),
        model if kind == "soft_prompt" else made.merge_into(model),
        **{kind: more[kind]},
    )
    first.save(tmp_path / "saved")
    second = Adaptation.load(tmp_path / "saved")
    assert second.model.config.context_length == 300
    question = "9" * 250
    with pytest.raises(UserError, match="the context of .* holds"):
        Adaptation("zero_shot", Prompt(generation_config=generation_config), short).ask(question)
    said = [one.ask(question).candidates[0].token_ids for one in (first, second)]
    assert said[0] == said[1] and len(said[0]) > 0
    assert TuneConfig(task="t", method={}, context_length=300).context_length == 300


def test_an_adaptation_of_another_decoder_is_refused(tiny, make_tiny_llama, tmp_path: Path):
    Adaptation("zero_shot", prompt(), tiny).save(tmp_path / "saved")
    other = make_tiny_llama(tmp_path / "other", seed=5)
    with pytest.raises(UserError, match="saved: belongs to another decoder than .*other"):
        Adaptation.load(tmp_path / "saved", other)
    assert Adaptation.load(tmp_path / "saved", tiny).model is tiny


def test_saving_replaces_an_adaptation_and_nothing_else(tiny, tmp_path: Path):
    one, other = (Adaptation(name, prompt(), tiny) for name in ("zero_shot", "few_shot"))
    one.save(tmp_path / "saved")
    other.save(tmp_path / "saved")
    assert Adaptation.load(tmp_path / "saved", tiny).method == "few_shot"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="mine: is not empty, and no adaptation.json"):
        one.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "saved"]


def test_a_save_that_fails_leaves_the_old_one_and_no_rest(tiny, tmp_path: Path, monkeypatch):
    Adaptation("zero_shot", prompt(), tiny).save(tmp_path / "saved")
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(storage_module, "save_pretrained", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(UserError, match="saved: cannot be written .No space left on device"):
        Adaptation("lora", prompt(), tiny, has_full_weights=True).save(tmp_path / "saved")
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]
    assert Adaptation.load(tmp_path / "saved", tiny).method == "zero_shot"


def edit(place: str, value: Any) -> Callable[[Path], None]:
    """Puts another value at a place of adaptation.json; None takes the place away."""

    def write(folder: Path) -> None:
        description = inner = json.loads((folder / DESCRIPTION).read_text())
        *parents, last = place.split(".")
        for name in parents:
            inner = inner[name]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
        (folder / DESCRIPTION).write_text(json.dumps(description))

    return write


def replace_soft_prompt(
    embeddings: np.ndarray, name: str = PROMPT_EMBEDDINGS
) -> Callable[[Path], None]:
    return lambda folder: write_tensors(
        folder / SOFT_PROMPT, {name: embeddings.shape}, embeddings.dtype, iter([(name, embeddings)])
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / DESCRIPTION).unlink(), "no adaptation here"),
        (
            lambda folder: (folder / DESCRIPTION).write_text("{"),
            "adaptation.json, line 1: not valid JSON",
        ),
        (lambda folder: (folder / DESCRIPTION).write_text("[]"), "a JSON object, found list"),
        (lambda folder: (folder / DESCRIPTION).write_text("{}"), "format None; expected 4"),
        (edit("format", 1), "format 1; expected 4, so it has to be made again"),
        (edit("format", "x" * 1000), "expected 4"),
        (edit("prompt", None), "the key 'prompt' is missing"),
        (edit("decoder", 5), "decoder: Input should be a valid string, found 5"),
        (edit("decodre", "x"), "unknown key 'decodre'; did you mean 'decoder'?"),
        (edit("prompt", 5), "prompt: Input should be a valid dictionary, found 5"),
        (
            edit("prompt.vote", "majorty"),
            "prompt.vote: unknown vote 'majorty'; did you mean 'majority'",
        ),
        (edit("prompt.parser", [1]), "prompt.parser: Input should be a valid string"),
        (edit("prompt.instruction", [1]), "prompt.instruction: Input should be"),
        (edit("prompt.template.answr", ""), "answr"),
        (
            edit("prompt.generation_config.top_k", "x"),
            "prompt.generation_config.top_k: Input should be",
        ),
        (edit("before_bos", "no"), "before_bos: Input should be a valid boolean, found 'no'"),
        (edit("before_bos", None), "the key 'before_bos' is missing"),
        (edit("context_length", 0), "context_length: Input should be greater than 0"),
        (edit("context_length", "512"), "context_length: Input should be a valid integer"),
        (edit("soft_prompt", None), "the key 'soft_prompt' is missing"),
        (edit("soft_prompt", False), "soft_prompt is false, but soft_prompt.safetensors is there"),
        (edit("soft_prompt", 1), "soft_prompt: Input should be a valid boolean, found 1"),
        (edit("lora_weights", True), "lora_weights is true, but adapter_config.json is not there"),
        (edit("has_full_weights", True), "has_full_weights is true, but weights is not there"),
        (lambda folder: (folder / SOFT_PROMPT).write_text("x"), "not readable as safetensors"),
        (lambda folder: (folder / SOFT_PROMPT).unlink(), "soft_prompt.safetensors is not there"),
        (lambda folder: (folder / WEIGHTS).mkdir(), "has_full_weights is false, but weights is"),
        (replace_soft_prompt(np.zeros((0, 32), np.float32)), "expected at least one embedding"),
        (replace_soft_prompt(np.full((2, 32), np.nan, np.float32)), "expected finite float32"),
        (replace_soft_prompt(np.zeros((2, 32), np.float64)), "expected finite float32"),
        (replace_soft_prompt(np.zeros((2, 32), jnp.bfloat16)), "expected finite float32"),
        (replace_soft_prompt(np.zeros((2, 32), np.float32), "other"), "expected the tensor prompt"),
        (replace_soft_prompt(np.zeros((2, 64), np.float32)), "embeddings of .* have size 32"),
        (replace_soft_prompt(np.zeros(32, np.float32)), r"shape \(32,\)"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(tiny, tmp_path: Path, damage, message: str):
    folder = Adaptation("prompt_tuning", prompt(), tiny, soft(tiny)).save(tmp_path / "saved")
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        Adaptation.load(folder, tiny)
    line = str(error.value)
    assert str(folder) in line and "\n" not in line and len(line) < 400


def test_the_saved_description_is_plain_json(tiny, tiny_folder: Path, tmp_path: Path):
    folder = Adaptation("few_shot", prompt(), tiny).save(tmp_path / "saved")
    description = json.loads((folder / DESCRIPTION).read_text())
    assert description["decoder"] == str(tiny_folder.resolve())
    assert description["fingerprint"] == tiny.fingerprint
    assert not (folder / SOFT_PROMPT).exists() and not (folder / WEIGHTS).exists()


def test_the_soft_prompt_is_prepended_on_its_side_of_bos(tiny):
    bos = tiny.config.bos_id
    [before] = build_prefixes(tiny, soft(tiny), (bos, 7, 8))
    assert [part if isinstance(part, tuple) else "soft" for part in before.parts] == [
        (), "soft", (bos, 7, 8),
    ]  # fmt: skip
    [after] = build_prefixes(tiny, soft(tiny, before_bos=False), (bos, 7, 8))
    assert (after.parts[0], after.parts[2]) == ((bos,), (7, 8))
    [bare] = build_prefixes(tiny, None, (bos, 7, 8))
    assert bare.parts == ((bos, 7, 8),)


def test_an_answer_counts_the_tokens_of_its_prompt_and_of_its_candidates(tiny):
    adaptation = Adaptation("prompt_tuning", prompt(), tiny, soft(tiny))
    bare = replace(adaptation, soft_prompt=None)
    one, other = adaptation.ask(QUESTION), bare.ask(QUESTION)
    text = bare.prompt.text + bare.prompt.template.format_question(QUESTION)
    assert other.prompt_tokens == len(tiny.encode(text))
    assert one.prompt_tokens == other.prompt_tokens + 5
    assert one.generated_tokens == len(one.candidates[0].token_ids) > 0 and one.seconds > 0


def test_a_question_is_answered_alike_alone_and_in_company(tiny):
    adaptation = Adaptation("self_consistency", prompt(candidates=2, temperature=1.0), tiny)
    company = adaptation.answer(EXAMPLES, seed=1, max_concurrent_sequences=4)
    alone = adaptation.answer([EXAMPLES[2]], seed=1, max_concurrent_sequences=4)
    assert texts(company)[2] == texts(alone)[0]


def test_progress_is_reported_question_by_question(tiny):
    told = []
    Adaptation("zero_shot", prompt(), tiny).answer(
        EXAMPLES, on_progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_question_longer_than_the_context_is_an_error_only_when_asked(tiny):
    adaptation, long = Adaptation("zero_shot", prompt(), tiny), "How many? " * 400
    with pytest.raises(UserError, match=r"too long: .* tokens, the context of .* holds 512"):
        adaptation.ask(long)
    answered = adaptation.answer([EXAMPLES[0], Example("long", long)])
    assert [one.too_long for one in answered] == [False, True]
    assert answered[1].answer is None


def test_an_empty_question_is_an_error(tiny):
    with pytest.raises(UserError, match="the question is empty"):
        Adaptation("zero_shot", prompt(), tiny).ask("  ")


def test_candidates_vote_with_their_distinct_reasonings(tiny, monkeypatch):
    said = [
        " 2 and 3 make 5. The answer is 5.",
        " She has 2 + 3 = 5. The answer is $5.00.",
        " It is 6. The answer is 6.",
        " It is  6. The answer is 6.",
        " it is 6. The answer is 6.",
        " I do not know.",
    ]
    monkeypatch.setattr(session_module, "Engine", scripted(lambda _, number: said[number]))
    adaptation = Adaptation("self_consistency", prompt(candidates=6, temperature=1.0), tiny)
    answered = adaptation.ask(QUESTION)
    assert answered.answer == "5" and answered.reasoning == "2 and 3 make 5."
    assert [c.answer for c in answered.candidates] == ["5", "5", "6", "6", "6", None]
    majority = replace(adaptation, prompt=replace(adaptation.prompt, vote="majority"))
    assert majority.ask(QUESTION).answer == "6"
    assert answered.generated_tokens == 18


def test_early_stopping_counts_the_same_candidates_whatever_the_slots(tiny, monkeypatch):
    from adapt_jax.prompting.voting import should_stop

    sampled = prompt(candidates=9, temperature=0.3)
    examples = [replace(e, question=e.question + " (a) 1 (b) 2" * int(e.id)) for e in EXAMPLES]
    everything = Adaptation("self_consistency", sampled, tiny)
    stopping = replace(everything, prompt=replace(sampled, stop_at=0.7))
    # what a random decoder writes is hardly ever an answer: let the first letters be one
    read = lambda _, c, __: replace(c, answer=c.text[:1], reasoning=c.text)  # noqa: E731
    monkeypatch.setattr(session_module, "read_candidate", read)
    whole = everything.answer(examples, max_concurrent_sequences=16)
    counts = [
        next((n for n in range(1, 9) if should_stop(one.candidates[:n], 0.7)), 9) for one in whole
    ]
    assert min(counts) < 9
    for max_concurrent_sequences in (4, 16):
        stopped = stopping.answer(examples, max_concurrent_sequences=max_concurrent_sequences)
        assert [len(one.candidates) for one in stopped] == counts
        assert [one.candidates_saved for one in stopped] == [9 - count for count in counts]
        assert texts(stopped) == [t[:n] for t, n in zip(texts(whole), counts, strict=True)]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" 2 + 3 = 5. The answer is 5. Then", "5"),  # complete before the cut
        (" The answer is 5, since two and thr", "5"),
        (" The answer is 5.\n\nQ", "5"),  # the next question begins
        (" The answer is 5.\tAnd", "5"),
        (" The answer is 5. ", "5"),
        (" The answer is\n1", None),
        (" The answer is 1\n0", None),
        (" The answer is 1", None),  # of 18, perhaps
        (" The answer is 1 0", None),  # of 1 000
        (" The answer is", None),
        (" 2 + 3 = 5. The ans", None),
    ],
)
def test_a_candidate_that_was_cut_off_is_read_only_where_its_answer_is_complete(
    tiny, text: str, answer: str | None
):
    example = Example("q", "How many?")
    cut = Candidate(text, (1,), -1.0, "length")
    assert read_candidate(prompt(), cut, example).answer == answer


def test_a_candidate_that_ran_out_of_length_abstains(tiny, monkeypatch):
    cut = Candidate(" 2 + 3 = 5. The answer is 5", (1,), -1.0, "length")
    monkeypatch.setattr(session_module, "Engine", scripted(lambda *_: cut))
    answered = Adaptation("chain_of_thought", prompt(), tiny).ask(QUESTION)
    assert answered.answer is None and answered.candidates[0].answer is None
