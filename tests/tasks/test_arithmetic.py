"""The embedded task: true solutions, disjoint splits, a corpus that gives no test problem away."""

import json
import random
import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt_jax.pretrained.hf_folder import EMBEDDED
from adapt_jax.pretrained.loading import load_pretrained
from adapt_jax.tasks.arithmetic import (
    KINDS,
    corpus,
    draw_instructions,
    draw_splits,
    problems,
    words,
)
from adapt_jax.tasks.arithmetic.instructions import draw_instruction
from adapt_jax.tasks.arithmetic.problems import draw_from, draw_problem
from adapt_jax.tasks.arithmetic.reasoning import VOICES, draw_reasoning
from adapt_jax.training.metrics_log import read_rows
from adapt_jax.training.pretraining import PretrainingConfig, pretrain
from adapt_jax.utils.config import read_yaml, validate
from adapt_jax.utils.errors import UserError

FORMULA = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
SPOKEN = re.compile(r"(\d+) (plus|minus|times|divided by) (\d+) (?:is|makes|gives) (\d+)")
APPLY = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
    "/": lambda a, b: a / b, "plus": lambda a, b: a + b, "minus": lambda a, b: a - b,
    "times": lambda a, b: a * b, "divided by": lambda a, b: a / b,
}  # fmt: skip


def masked(text: str) -> str:
    """A text apart from its names and objects: each is numbered by its first occurrence.

    Written without the generator's markers, so that it checks them.
    """
    groups = {
        "name": {*words.SHE, *words.HE},
        "thing": {*words.OBJECTS, *words.OBJECTS.values()},
        "box": {*words.CONTAINERS, *words.CONTAINERS.values()},
        "color": {*words.COLORS},
        "friend": {*words.FRIENDS},
        "place": {*words.PLACES},
        "pronoun": {"he", "she", "him", "her", "his"},
    }
    singular = {**words.OBJECTS, **words.CONTAINERS}
    seen: dict[str, str] = {}

    def mask(match: re.Match[str]) -> str:
        word = match[0]
        for group, members in groups.items():
            found = word if word in members else word.lower()
            if found in members:
                if group == "pronoun":
                    return group
                key = singular.get(found, found)
                return seen.setdefault(key, f"{group}{len(seen)}")
        return word

    return re.sub(r"[A-Za-z]+", mask, text)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from([None, *VOICES]))
def test_every_formula_of_a_reasoning_is_true_and_leads_to_the_answer(seed, voice):
    rng = random.Random(seed)
    problem = draw_problem(rng)
    reasoning = draw_reasoning(problem, rng, voice)
    formulas = FORMULA.findall(reasoning) + SPOKEN.findall(reasoning)
    for left, operation, right, result in formulas:
        assert APPLY[operation](int(left), int(right)) == int(result), reasoning
    numbers = re.findall(r"\d+", reasoning)
    assert str(problem.answer) in numbers
    assert "<" not in reasoning + problem.question


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 4))
def test_a_problem_has_the_steps_asked_for_and_no_number_out_of_range(seed, steps):
    problem = draw_problem(random.Random(seed), steps)
    assert len(problem.steps) == steps
    for step in problem.steps:
        assert 0 < step.result <= problems.MAX_NUMBER
        assert (
            APPLY[step.operation](step.left, step.right) == step.result
        )  # divisions come out even
    assert problem.steps[-1].result == problem.answer


def test_the_same_seed_gives_the_same_problems_and_another_seed_others():
    one, again, other = (
        draw_splits(3, 20, 5, 30),
        draw_splits(3, 20, 5, 30),
        draw_splits(4, 20, 5, 30),
    )
    assert one == again
    assert not {e.question for e in one["test"]} & {e.question for e in other["test"]}
    assert [len(one[split]) for split in ("train", "development", "test")] == [20, 5, 30]


@pytest.mark.slow
def test_no_test_problem_is_in_the_corpus_word_for_word_or_with_names_and_objects_swapped():
    held_out = [e.question for seed in range(4) for e in draw_splits(seed, 0, 300, 700)["test"]]
    held_out += [e.question for e in draw_splits(9, 0, 600, 0)["development"]]
    questions, texts = set(), []
    for text in (corpus.draw_document(0, index) for index in range(12000)):
        texts.append(text)
        questions |= set(re.findall(r"^(?:Q: |Question: |Problem: |\d+\. )(.+)$", text, re.M))
    assert len(questions) > 10000  # the pattern finds them
    everything = "\n".join(texts)
    assert not [question for question in held_out if question in everything]
    corpus_masked = {masked(question) for question in questions}
    leaked = [question for question in held_out if masked(question) in corpus_masked]
    assert not leaked, leaked[:3]


def test_the_mask_sees_a_swap():
    rng = random.Random(0)
    problem = draw_from(rng, "train")
    swapped = {**problem.fillings, "<n0>": "Jane", "<n1>": "Joe", "<n2>": "Ann"}
    swapped |= {"<he0>": "she", "<him0>": "her", "<his0>": "her"}
    question = problem.question
    problem.fillings = swapped
    assert problem.question != question
    assert masked(problem.question) == masked(question)


def test_documents_are_drawn_each_for_itself():
    assert corpus.draw_document(0, 5) == corpus.draw_document(0, 5)
    assert corpus.draw_document(1, 5) != corpus.draw_document(0, 5)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_instructions_of_train_and_test_are_disjoint(kind):
    rng = random.Random(0)
    train = {draw_instruction(rng, kind, "train")[0] for _ in range(200)}
    test = {draw_instruction(rng, kind, "test")[0] for _ in range(30)}
    assert not train & test


def test_an_unknown_kind_is_an_error_that_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'owner'"):
        draw_instructions(0, ["ownr"], 1)


@pytest.mark.slow
def test_the_embedded_decoder_is_small_and_says_where_it_comes_from():
    size = sum(path.stat().st_size for path in EMBEDDED.iterdir())
    assert size < 16 * 2**20
    assert "configs/pretrain/arithmetic.yaml" in (EMBEDDED / "README.md").read_text()
    model = load_pretrained("embedded")
    text = "Jane has 12 apples.\n\nÜber 37 €?"
    assert model.decode(model.encode(text)) == text
    assert len(model.encode("1234", bos=False)) == 4  # digits stand apart


@pytest.mark.slow
def test_pretraining_again_gives_the_recorded_loss_curve(tmp_path):
    path = EMBEDDED.parents[2] / "configs" / "pretrain" / "arithmetic.yaml"
    config = validate(PretrainingConfig, read_yaml(path), str(path))

    class Enough(Exception):
        pass

    def stop(step: int, steps: int, said: str) -> None:
        if step == 3:
            raise Enough

    with pytest.raises(Enough):
        pretrain(config, tmp_path, stop)
    seen = [row["loss"] for row in read_rows(tmp_path / "training" / "metrics.jsonl")]
    recorded = json.loads((EMBEDDED / "loss_curve.json").read_text())
    assert len(recorded) == yaml.safe_load(path.read_text())["training"]["steps"]
    assert seen == pytest.approx(recorded[:3], abs=2e-4)
    assert recorded[-1] < 0.7 < recorded[0]
