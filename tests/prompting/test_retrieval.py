"""Demonstrations of each question: the nearest, never itself, answered as an ordinary prompt."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.export import export_adaptation
from adapt_jax.methods.few_shot import FewShot
from adapt_jax.prompting.prompt import MethodNotApplicable, Prompt
from adapt_jax.prompting.retrieval import Retrieval
from adapt_jax.prompting.retriever import Retriever
from adapt_jax.prompting.similarity import Bm25, HiddenStates, split_words
from adapt_jax.sampling.embeddings import embed_texts
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.templates import Demonstration
from adapt_jax.utils.errors import UserError

POOL = (
    Demonstration("How many apples has Jane?", "2"),
    Demonstration("Which city is north of Paris?", "Lille"),
    Demonstration("How many oranges has Tom?", "3"),
    Demonstration("Who wrote the letter?", "Ann"),
)
QUESTIONS = ("How many apples has Tom?", "Which city is old?", "How many apples has  jane?")


def prompt(**options) -> Prompt:
    short = GenerationConfig(max_new_tokens=8)
    return Prompt(
        instruction="Answer.",
        generation_config=short,
        retrieval=Retrieval(POOL, **({"count": 2} | options)),
    )


def shown(model, question: str, **options) -> list[str]:
    return [
        one.answer
        for one in Retriever(model, prompt(**options)).choose(Example("", question)).demonstrations
    ]


def test_the_nearest_demonstration_is_shown_last(tiny):
    assert shown(tiny, "How many oranges has Jane?") == ["2", "3"]
    assert shown(tiny, "Which city is old?", count=1) == ["Lille"]
    assert len(shown(tiny, "Zebra", count=4)) == 4  # no word in common: any will do


def test_the_question_itself_is_never_shown(tiny):
    assert "2" not in shown(tiny, " how many APPLES  has Jane? ", count=4)
    options = Demonstration("Which?", "a", choices=("x", "y")), Demonstration("Which?", "b")
    pool = replace(prompt(), retrieval=Retrieval(options, count=2))
    retriever = Retriever(tiny, pool)
    same = retriever.choose(Example("", "which?", choices=("y", "x")))
    assert same.demonstrations == ()
    other = retriever.choose(Example("", "which?", choices=("y", "z")))
    assert other.demonstrations == options[:1]  # other choices: another question


def test_diversity_avoids_what_is_similar_to_a_demonstration_that_is_shown(tiny):
    twins = (Demonstration("How many red apples?", "1"), Demonstration("How many red apples!", "2"))
    pool = (*twins, Demonstration("How many green birds?", "3"))
    asked = Example("", "How many red apples fall?")
    for diversity, expected in ((0.0, {"1", "2"}), (0.6, {"1", "3"})):
        retrieval = Retrieval(pool, count=2, diversity=diversity)
        chosen = Retriever(tiny, replace(prompt(), retrieval=retrieval)).choose(asked)
        assert {one.answer for one in chosen.demonstrations} == expected


def test_a_demonstration_that_does_not_fit_is_left_out_whole(tiny):
    long = Demonstration("How many apples has Tom? " * 40, "9")
    retrieval = Retrieval((*POOL, long), count=2, max_tokens=60)
    retriever = Retriever(tiny, replace(prompt(), retrieval=retrieval))
    chosen = retriever.choose(Example("", "How many apples has Tom?"))
    assert [one.answer for one in chosen.demonstrations] == ["2", "3"]
    bare = replace(prompt(), retrieval=None)
    assert len(tiny.encode(chosen.text)) - len(tiny.encode(bare.text)) <= 60
    tight = replace(retrieval, max_tokens=None, answer_tokens=tiny.config.context_length)
    chosen = Retriever(tiny, replace(prompt(), retrieval=tight)).choose(Example("", "How?"))
    assert chosen.demonstrations == ()


@pytest.mark.parametrize("options", [{}, {"similarity": "decoder"}])
def test_answers_and_tokens_are_those_of_the_whole_prompt(tiny, options):
    asked = [Example(str(n), text) for n, text in enumerate(QUESTIONS)]
    own = prompt(**options)
    retriever = Retriever(tiny, own)
    adaptation = Adaptation("few_shot", own, tiny)
    for example, said in zip(asked, adaptation.answer(asked), strict=True):
        whole = Adaptation("few_shot", retriever.choose(example), tiny)
        [expected] = whole.answer([example])
        assert said.candidates[0].text == expected.candidates[0].text
        assert said.prompt_tokens == expected.prompt_tokens
        assert said.prompt_sha256 == expected.prompt_sha256
        assert adaptation.prompt_text(example.question) == whole.prompt_text(example.question)
        one, other = adaptation.ask(example.question), whole.ask(example.question)
        assert one.candidates[0].text == other.candidates[0].text


@pytest.mark.parametrize("calibrated", [False, True])
def test_choices_are_scored_behind_the_demonstrations_of_their_question(tiny, calibrated):
    choices = ("Lille", "two", "Ann")
    rows = [
        Example(str(n), one.question, choices[n % 3], choices=choices) for n, one in enumerate(POOL)
    ]
    asked = [Example(f"q{n}", text, "two", choices=choices) for n, text in enumerate(QUESTIONS)]
    task = Task("t", rows, (), asked, parser="label")
    method = FewShot(
        answer_by="likelihood",
        calibrated=calibrated,
        demonstrations={"select": "nearest", "count": 2},
    )
    own = method.build_prompt(tiny, task, seed=0)
    retriever = Retriever(tiny, own)
    answers = Adaptation("few_shot", own, tiny).answer(asked)
    for example, said in zip(asked, answers, strict=True):
        [expected] = Adaptation("few_shot", retriever.choose(example), tiny).answer([example])
        assert said.answer == expected.answer and said.prompt_tokens == expected.prompt_tokens
        assert list(said.vote.counts.values()) == pytest.approx(
            list(expected.vote.counts.values()), abs=1e-5
        )


def test_the_pool_is_saved_and_an_export_is_refused(tiny, tmp_path: Path):
    adaptation = Adaptation("few_shot", prompt(), tiny)
    adaptation.save(tmp_path / "saved")
    loaded = Adaptation.load(tmp_path / "saved", tiny)
    assert loaded.prompt == adaptation.prompt and loaded.identity == adaptation.identity
    assert loaded.ask(QUESTIONS[0]).candidates == adaptation.ask(QUESTIONS[0]).candidates
    with pytest.raises(UserError, match="demonstrations are chosen for each question"):
        export_adaptation(loaded, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_the_pool_holds_no_question_that_is_evaluated(tiny):
    rows = [Example(str(n), f"How many {n}?", str(n)) for n in range(6)]
    task = Task("t", rows, [rows[1]], [replace(rows[0], question="how MANY 0?")])
    method = FewShot(demonstrations={"select": "nearest", "pool": 3})
    own = method.build_prompt(tiny, task, seed=0)
    assert own.retrieval is not None and len(own.retrieval.pool) == 3
    assert not {"0", "1"} & {one.answer for one in own.retrieval.pool}
    with pytest.raises(MethodNotApplicable, match="no training examples"):
        method.build_prompt(tiny, replace(task, train=rows[:2]), seed=0)


def test_words_are_split_in_languages_without_spaces_too():
    assert split_words("What's 3.5, naïve É?") == ["what", "s", "3", "5", "naïve", "é"]
    assert split_words("東京はどこ a1") == [*"東京はどこ", "a1"]


def test_bm25_gives_numbers_from_0_to_1(tiny):
    bm25 = Bm25(tiny, ["a b", "b c", "", "d"])
    assert bm25.to_text("b a")[0] == 1 and list(bm25.to_text("?")) == [0] * 4
    assert bm25.to_member(0)[0] == 1 and list(bm25.to_member(2)) == [0] * 4


def test_embeddings_are_the_mean_hidden_states_of_transformers(tiny, tiny_folder: Path):
    torch = pytest.importorskip("torch", reason="the test extra brings torch")
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    texts = ["How many apples?", "Why? " * 20, "a"]
    found = embed_texts(tiny, texts)
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            states = theirs.model(torch.tensor([tiny.encode(text)])).last_hidden_state[0]
        assert vector == pytest.approx(states.mean(0).numpy(), abs=1e-4)
    states = HiddenStates(tiny, texts)
    assert states.to_text(texts[1])[1] == pytest.approx(1, abs=1e-5)
    assert np.all(states.to_member(0) <= 1 + 1e-6) and np.all(states.to_member(0) >= 0)
