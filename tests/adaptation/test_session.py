"""Sessions: the prefix is encoded once, nothing compiles again, answers depend on no history."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_llama import write_tiny_llama

from adapt_jax.adaptation import session as session_module
from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.prompting.multiple_choice import MultipleChoiceConfig, tokenize_choices
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.sampling.engine import Engine
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.templates import Demonstration, Template
from adapt_jax.utils.cpu import COMPILED
from adapt_jax.utils.errors import UserError

QUESTIONS = ("How many apples?", "Jane has 2 apples and got 3 more. How many?", "1 + 1?")


def adapt(model: PretrainedDecoder, **more) -> Adaptation:
    shown = (Demonstration("What is 1 + 1?", "2", "One and one more make 2."),)
    sampled = GenerationConfig(max_new_tokens=8, candidates=2, temperature=0.9)
    prompt = Prompt(Template(), "Solve it.", shown, True, generation_config=sampled)
    return Adaptation("few_shot", prompt, model, **more)


def soft(model: PretrainedDecoder, before_bos: bool = True) -> SoftPrompt:
    draws = np.random.default_rng(0).normal(size=(5, model.config.embed_dim))
    return SoftPrompt(jnp.asarray(draws, jnp.float32), before_bos)


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every prefix that is encoded, by its number of tokens."""
    counted: list[int] = []
    encode = Engine._encode_prefix

    def count(self, prefix):
        counted.append(len(prefix))
        return encode(self, prefix)

    monkeypatch.setattr(Engine, "_encode_prefix", count)
    return counted


def test_asking_again_encodes_no_prefix_and_compiles_nothing(tiny, encodings: list[int]):
    session = adapt(tiny).session(seed=3)
    first = session.ask(QUESTIONS[0])
    assert len(encodings) == 1
    compiled: list[str] = []

    def listen(event: str, duration: float, **_) -> None:
        if event == COMPILED:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    others = [session.ask(question) for question in QUESTIONS[1:]]
    again = session.ask(QUESTIONS[0])
    assert compiled == [] and len(encodings) == 1
    assert again.candidates == first.candidates  # whatever was asked in between
    assert others[0].candidates != first.candidates


def test_ask_keeps_a_session_until_what_it_answers_with_changes(tiny, encodings: list[int]):
    adaptation = adapt(tiny)
    texts = [[c.text for c in adaptation.ask(QUESTIONS[0]).candidates] for _ in range(2)]
    assert texts[0] == texts[1] and len(encodings) == 1
    adaptation.ask(QUESTIONS[0], seed=1)
    assert len(encodings) == 2  # another seed, another session
    adaptation.prompt = replace(adaptation.prompt, instruction="Think.")
    adaptation.ask(QUESTIONS[0], seed=1)
    assert len(encodings) == 3
    adaptation.soft_prompt = soft(tiny)
    adaptation.ask(QUESTIONS[0], seed=1)
    assert len(encodings) == 4
    replace(adaptation).ask(QUESTIONS[0], seed=1)  # a copy has a session of its own
    assert len(encodings) == 5


def test_ask_sees_weights_that_were_replaced(make_tiny_llama, tmp_path: Path):
    adaptation = adapt(load_pretrained(make_tiny_llama(tmp_path / "one")))
    other = load_pretrained(make_tiny_llama(tmp_path / "other", seed=9))
    before = adaptation.ask(QUESTIONS[0]).candidates
    nnx.update(adaptation.model.decoder, nnx.state(other.decoder))
    after = adaptation.ask(QUESTIONS[0]).candidates
    assert after != before and after == adapt(other).ask(QUESTIONS[0]).candidates


def test_a_session_answers_many_questions_as_the_adaptation_does(tiny):
    examples = [Example(str(n), question) for n, question in enumerate(QUESTIONS)]
    texts = [
        [[c.text for c in one.candidates] for one in answered]
        for answered in (
            adapt(tiny).answer(examples, seed=2),
            adapt(tiny).session(seed=2).answer(examples),
        )
    ]
    assert texts[0] == texts[1]


def test_choices_are_scored_behind_a_prefix_that_is_encoded_once(tiny, monkeypatch):
    counted: list[int] = []
    encode = session_module.encode_scoring_prefix

    def count(model, prefix, files):
        counted.append(len(prefix))
        return encode(model, prefix, files)

    monkeypatch.setattr(session_module, "encode_scoring_prefix", count)
    config = MultipleChoiceConfig(calibrated=True)
    prompt = Prompt(instruction="Solve it.", parser="label", multiple_choice=config)
    adaptation = Adaptation("zero_shot", prompt, tiny)
    session = adaptation.session()
    for question in QUESTIONS:
        prediction = session.ask(question, ("yes", "no"))
        fresh = adaptation.session().ask(question, ("yes", "no"))
        assert prediction.vote == fresh.vote
    assert len(counted) == 1 + len(QUESTIONS)  # one by the session that is kept


def test_the_last_token_of_a_choice_needs_no_place_in_the_context(tiny):
    prompt, choices = Prompt(parser="label", multiple_choice=MultipleChoiceConfig()), ("yes", "no")

    def make(digits: int) -> Example:  # each digit is a token
        return Example("0", "9" * digits, choices=choices)

    prefix, [request] = tokenize_choices(tiny, prompt, [(make(100), choices)])
    length = len(prefix) + len(request.context) + max(map(len, request.continuations))
    most = 100 + tiny.config.context_length + 1 - length
    adaptation = Adaptation("zero_shot", prompt, tiny)
    fitting, longer = (adaptation.answer([make(count)])[0] for count in (most, most + 1))
    assert (fitting.too_long, longer.too_long) == (False, True)
    assert fitting.answer in choices and longer.answer is None


def test_a_session_refuses_what_it_cannot_ask(tiny):
    session = adapt(tiny, soft_prompt=soft(tiny)).session()
    with pytest.raises(UserError, match="the question is empty"):
        session.ask(" \n")
    with pytest.raises(UserError, match="with the prompt prefix it has .* tokens, the context"):
        session.ask("why? " * 200)


def test_half_a_surrogate_pair_in_a_question_becomes_the_replacement_character(tiny):
    session = adapt(tiny).session()
    texts = [session.ask(f"caf{one} 2 + 3?").candidates[0].text for one in ("\udce9", "\ufffd")]
    assert texts[0] == texts[1]


def test_no_more_than_a_few_prefixes_are_kept(tiny, encodings: list[int], monkeypatch):
    cuts = iter([5, 6, 7, 5])
    tokenize = session_module.tokenize

    def cut(model, prompt, questions, prompts):
        prefix, [rest] = tokenize(model, prompt, questions, prompts)
        at = next(cuts)
        return prefix[:at], [prefix[at:] + rest]

    monkeypatch.setattr(session_module, "tokenize", cut)
    session = adapt(tiny).session()
    for _ in range(4):
        session.ask(QUESTIONS[0])
        assert len(session._engines) <= session_module.MAX_ENGINES
    assert encodings == [5, 6, 7, 5]


# What the decoder sees


def test_prompt_text_is_exactly_what_the_decoder_sees(tiny):
    adaptation = adapt(tiny)
    expected = (
        "<|bos|>Solve it.\n\nQ: What is 1 + 1?\nA: One and one more make 2. The answer is 2.\n\n"
        "Q: How many \N{SNOWMAN} apples?\n(a) 2\n(b) 3\nA:"
    )
    question, choices = "How many \N{SNOWMAN} apples?", ("2", "3")
    assert adaptation.prompt_text(question, choices) == expected
    prediction = adaptation.ask(question, choices)
    assert prediction.prompt_tokens == len(tiny.encode(expected.removeprefix("<|bos|>")))
    before = replace(adaptation, soft_prompt=soft(tiny))
    assert before.prompt_text(question, choices) == "[soft prompt of 5 embeddings]" + expected
    after = replace(adaptation, soft_prompt=soft(tiny, before_bos=False))
    shown = expected.replace("<|bos|>", "<|bos|>[soft prompt of 5 embeddings]")
    assert after.prompt_text(question, choices) == shown


def test_prompt_text_shows_the_chat_template(tmp_path: Path):
    folder = write_tiny_llama(tmp_path)
    (folder / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    chat = Template("{instruction}", "{question}", "{choice}", "{answer}", "{reasoning} {answer}",
                    chat=True)  # fmt: skip
    adaptation = Adaptation("zero_shot", Prompt(chat, "Solve it."), load_pretrained(folder))
    text = adaptation.prompt_text("How many?")
    assert text == "<|bos|>[system] Solve it.\n[user] How many?\n[assistant]"
