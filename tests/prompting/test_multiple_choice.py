"""Choosing by likelihood: equal to transformers, exact behind a shared question, calibrated."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.comparison.compare import compare
from adapt_jax.decoders.prefix import Prefix
from adapt_jax.methods.few_shot import FewShot
from adapt_jax.methods.zero_shot import ZeroShot
from adapt_jax.prompting.multiple_choice import CONTENT_FREE, MultipleChoiceConfig, tokenize_choices
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.sampling.likelihood import (
    MultipleChoiceRequest,
    log_likelihood,
    score_continuations,
)
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.templates import Template
from adapt_jax.utils.errors import UserError

torch = pytest.importorskip("torch", reason="the test extra brings torch")

CHOICES = ("apples", "oranges", "two apples and 3 oranges", "a")
QUESTIONS = ("Jane has 2 apples. What has she?", "How many oranges are left?", "What?" * 12)


@pytest.fixture(scope="module")
def theirs(tiny_folder: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)


def summed(theirs, context: list[int], option: list[int]) -> float:
    """The sum of the log-probabilities of an option's tokens behind a context."""
    with torch.no_grad():
        logits = theirs(torch.tensor([context + option])).logits[0].double()
    scores = torch.log_softmax(logits, -1)[len(context) - 1 : -1]
    return float(scores.gather(1, torch.tensor(option)[:, None]).sum())


def scores(found):
    """index -> the log-probability of each continuation."""
    return {index: [one.log_probability for one in each] for index, each in found}


def task(choices: tuple[str, ...] = CHOICES, parser: str = "label", **options) -> Task:
    rows = [
        Example(str(n), text, choices[n % len(choices)], choices=choices)
        for n, text in enumerate(QUESTIONS)
    ]
    return Task("what", rows[:1], (), rows[1:], "Name it.", parser=parser, **options)


def test_scores_are_those_of_transformers_one_option_at_a_time(tiny, theirs):
    draws = np.random.default_rng(0)
    tokens = lambda count: tuple(int(i) for i in draws.integers(3, 300, count))  # noqa: E731
    prompt_prefix = tokens(9)
    asked = [
        MultipleChoiceRequest(
            tokens(asks), tuple(tokens(int(n)) for n in draws.integers(1, 9, options))
        )
        for asks, options in ((1, 2), (5, 4), (40, 3), (20, 20), (30, 1))
    ]
    found = scores(score_continuations(tiny, Prefix((prompt_prefix,)), asked))
    assert sorted(found) == list(range(5))
    for index, one in enumerate(asked):
        context = [*prompt_prefix, *one.context]
        expected = [summed(theirs, context, list(option)) for option in one.continuations]
        assert found[index] == pytest.approx(expected, abs=1e-4)
    left = scores(score_continuations(tiny, Prefix((prompt_prefix,)), asked, answered={0, 3}))
    assert left == {index: found[index] for index in (1, 2, 4)}  # bitwise


def test_an_adaptation_takes_the_likeliest_answer_in_the_templates_words(tiny, theirs):
    prompt = FewShot(answer_by="likelihood", demonstrations=1).build_prompt(tiny, task(), seed=0)
    answered = Adaptation("few_shot", prompt, tiny).answer(task().test)
    for example, said in zip(task().test, answered, strict=True):
        text = prompt.text + prompt.template.format_question(example.question, CHOICES)
        context = tiny.encode(text + " The answer is")
        joint = [tiny.encode(f"{text} The answer is {choice}.") for choice in CHOICES]
        assert all(tokens[: len(context)] == context for tokens in joint)
        sums = [summed(theirs, context, tokens[len(context) :]) for tokens in joint]
        shares = np.exp(sums - np.logaddexp.reduce(sums))
        assert list(said.vote.counts.values()) == pytest.approx(list(shares), abs=1e-3)
        assert said.answer == CHOICES[int(np.argmax(sums))] and said.generated_tokens == 0
        assert said.candidates[0].log_probability == pytest.approx(max(sums), abs=1e-4)
        assert said.prompt_tokens == len(context)


def test_normalising_divides_by_tokens_and_calibration_by_what_is_said_to_nothing(tiny):
    asked = MultipleChoiceRequest((5,), ((6,), (7, 8, 9, 10)))
    sums = [-2.0, -4.0]
    assert MultipleChoiceConfig().compute_probabilities(asked, sums) == pytest.approx(
        [0.8808, 0.1192], abs=1e-4
    )
    by_token = MultipleChoiceConfig(length_normalised=True).compute_probabilities(asked, sums)
    assert by_token == pytest.approx([0.2689, 0.7311], abs=1e-4)
    biased = MultipleChoiceConfig(calibrated=True).compute_probabilities(
        asked, sums, [sums, sums, sums]
    )
    assert biased == pytest.approx([0.5, 0.5])
    drawn = task(("apples", "oranges"))
    prompt = ZeroShot(answer_by="likelihood", calibrated=True).build_prompt(tiny, drawn, seed=0)
    nothing = [
        Example(str(n), t, choices=drawn.test[0].choices) for n, t in enumerate(CONTENT_FREE)
    ]
    plain = Adaptation("zero_shot", replace(prompt, multiple_choice=MultipleChoiceConfig()), tiny)
    free = np.mean([list(said.vote.counts.values()) for said in plain.answer(nothing)], axis=0)
    raw = [np.array(list(said.vote.counts.values())) for said in plain.answer(drawn.test)]
    said = Adaptation("zero_shot", prompt, tiny).answer(drawn.test)
    for one, shares in zip(said, raw, strict=True):
        expected = shares / free / (shares / free).sum()
        assert list(one.vote.counts.values()) == pytest.approx(list(expected), rel=1e-3)


def test_the_empty_question_alone_is_the_domain_conditional_pmi(tiny):
    """2104.08315, section 3, by the likelihoods of whole texts."""
    drawn = task(("apples", "two oranges"))
    method = ZeroShot(answer_by="likelihood", calibrated=True, content_free=[""])
    prompt = method.build_prompt(tiny, drawn, seed=0)

    def score(example: Example) -> np.ndarray:
        text = prompt.text + prompt.template.format_question(example.question, example.choices)
        return np.array(
            [
                log_likelihood(tiny, f"{text} The answer is", f" {choice}.").log_probability
                for choice in example.choices
            ]
        )

    for example, said in zip(
        drawn.test, Adaptation("zero_shot", prompt, tiny).answer(drawn.test), strict=True
    ):
        pmi = score(example) - score(replace(example, question=""))
        expected = np.exp(pmi - np.logaddexp.reduce(pmi))
        assert list(said.vote.counts.values()) == pytest.approx(list(expected), abs=1e-4)
        assert said.answer == example.choices[int(np.argmax(pmi))]


def test_calibration_holds_where_the_probability_of_a_long_choice_is_no_float_above_0():
    request = MultipleChoiceRequest((1,), ((2,) * 3, (2,) * 300))
    config, free = MultipleChoiceConfig(calibrated=True), [[-10.0, -900.0]] * 3
    assert config.compute_probabilities(request, [-10, -900], free) == pytest.approx([0.5, 0.5])
    odds = np.exp(2) / (1 + np.exp(2))
    assert config.compute_probabilities(request, [-10, -898], free) == pytest.approx(
        [1 - odds, odds]
    )


def test_a_merge_across_the_border_is_scored_as_the_joint_text_has_it(tiny, theirs):
    """Behind a lead without a space, options merge with it; the context is cut back for all."""
    worded = Template(answer="{answer}", answer_with_reasoning="{reasoning} {answer}", choice="")
    prompt = Prompt(worded, multiple_choice=MultipleChoiceConfig(), parser="label")
    example = Example("0", "How many apples does she", choices=("A: 2", ": 3"))
    worded = replace(worded, question="{question} A")
    prompt = replace(prompt, template=worded)
    prompt_prefix, [row] = tokenize_choices(tiny, prompt, [(example, example.choices)])
    for choice, option in zip(example.choices, row.continuations, strict=True):
        text = worded.format_question(example.question, example.choices) + choice
        assert [*prompt_prefix, *row.context, *option] == tiny.encode(text)


def test_letters_are_named_as_the_task_names_them(tiny):
    choices = ("apples", "oranges")
    for named, letters in (("a", ("a", "b")), ("(B)", ("(A)", "(B)"))):
        rows = [Example("0", "Which?", named, choices=choices)]
        lettered = Task("t", rows, (), [replace(rows[0], id="1")], parser="choice")
        scoring = MultipleChoiceConfig.of(lettered, False, False)
        assert scoring is not None and scoring.list_answers(choices) == letters
        prompt = ZeroShot(answer_by="likelihood").build_prompt(tiny, lettered, seed=0)
        [said] = Adaptation("zero_shot", prompt, tiny).answer(lettered.test)
        assert said.vote.counts.keys() == {"a", "b"}


def test_what_is_chosen_by_likelihood_is_saved_and_asked_without_its_choices(tiny, tmp_path: Path):
    fixed = task(("yes", "no"), "yes_no", template=Template(choice=""))
    prompt = ZeroShot(answer_by="likelihood", calibrated=True).build_prompt(tiny, fixed, seed=0)
    Adaptation("zero_shot", prompt, tiny).save(tmp_path / "saved")
    loaded = Adaptation.load(tmp_path / "saved", tiny)
    assert loaded.prompt == prompt
    assert loaded.ask("Is it?").answer in ("yes", "no")
    free = replace(loaded, prompt=replace(prompt, multiple_choice=MultipleChoiceConfig()))
    with pytest.raises(UserError, match="needs its choices"):
        free.ask("Is it?")
    long = loaded.answer([Example("0", "How many? " * 400), *fixed.test])
    assert [one.too_long for one in long] == [True, False, False] and long[0].answer is None


def test_a_comparison_by_likelihood(tiny_folder: Path, tmp_path: Path):
    rows = [{"question": f"Is {n} even?", "answer": ("yes", "no")[n % 2]} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "name": "even",
        "source": {"name": "jsonl", "path": str(tmp_path / "rows.jsonl")},
        "answer_parser": "yes_no",
        "splits": {"test": 6},
    }
    config = {
        "decoder": str(tiny_folder),
        "task": content,
        "methods": {"zero_shot": {"answer_by": "likelihood"}},
    }
    skipped = compare(config, tmp_path / "run", progress=False)["zero_shot"]
    assert "needs two choices" in skipped.reason
    content["choices"], content["template"] = ["yes", "no"], {"choice": ""}
    rung = compare(config, tmp_path / "run", progress=False)["zero_shot"]
    assert rung.status == "done" and rung.abstained == 0 and rung.generated_tokens == 0


@pytest.mark.parametrize(
    ("method", "options", "line"),
    [
        ("zero_shot", {"calibrated": True}, "need `answer_by: likelihood`"),
        ("zero_shot", {"content_free": ["?"]}, "content_free needs `calibrated: true`"),
        ("zero_shot", {"answer_by": "likelyhood"}, "answer_by: Input should be 'text' or"),
        (
            "chain_of_thought",
            {"answer_by": "likelihood"},
            "chain_of_thought generates its reasoning",
        ),
    ],
)
def test_contradictory_options_are_one_clear_line(tiny_folder, tmp_path, method, options, line):
    config = {"decoder": str(tiny_folder), "task": {"name": "t"}, "methods": {method: options}}
    with pytest.raises(UserError) as told:
        compare(config, tmp_path / "run", progress=False)
    assert line in str(told.value) and "\n" not in str(told.value)
