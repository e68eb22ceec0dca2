"""Answers questions by the likeliest of their options, where a prompt says so (Scoring)."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence

from jax.sharding import Mesh

from adapt_jax.decoders.prefix import Prefix
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.multiple_choice import (
    MultipleChoiceConfig,
    content_free_examples,
    tokenize_options,
)
from adapt_jax.prompting.prediction import Prediction
from adapt_jax.prompting.prompt import Prompt, hash_prompts
from adapt_jax.prompting.voting import Vote
from adapt_jax.sampling.scoring import MultipleChoiceRequest, score
from adapt_jax.sampling.types import Candidate
from adapt_jax.tasks.answers import canonical_option
from adapt_jax.tasks.example import Example

Asked = tuple[Example, tuple[str, ...]]  # a question and its options


def choose(
    model: PretrainedDecoder,
    prompt: Prompt,
    scoring: MultipleChoiceConfig,
    prefix_of: Callable[[tuple[int, ...]], Prefix],
    examples: Sequence[Example],
    *,
    mesh: Mesh | None = None,
    answered: Collection[int] = (),
) -> Iterator[tuple[int, Prediction]]:
    """(index, answer) of each example that is not ``answered``.

    The vote counts the probabilities of the options; the one candidate is the option chosen.

    Args:
        prefix_of: makes the prefix of the tokens in front (a soft prompt may join them).
    """
    started = time.perf_counter()
    asked = [(example, scoring.options(example.choices)) for example in examples]
    free = _without_content(asked) if scoring.calibrated else []
    prompt_prefix, rows = tokenize_options(model, prompt, [*asked, *free])
    prefix = prefix_of(prompt_prefix)
    hashes = hash_prompts(prompt_prefix, [row.question for row in rows])
    room = model.config.context_length - len(prefix)

    def scores(numbers: Sequence[int], known: Collection[int]) -> Iterator[tuple[int, list[float]]]:
        before = {at for at, number in enumerate(numbers) if number in known}
        chosen = [rows[number] for number in numbers]
        for at, found in score(model, prefix, chosen, mesh=mesh, answered=before):
            yield numbers[at], found

    fits = [len(row.question) + max(map(len, row.options)) <= room for row in rows]
    calibrating = [n for n in range(len(asked), len(rows)) if fits[n]]
    nothing: dict[tuple[str, ...], list[list[float]]] = {}
    for number, found in scores(calibrating, ()):
        nothing.setdefault(free[number - len(asked)][0].choices, []).append(found)

    def told(index: int, found: list[float] | None) -> Prediction:
        nonlocal started
        example = examples[index]
        candidate, vote = None, Vote(None, 0.0, {}, "likelihood")
        if found is not None:
            shares = scoring.probabilities(rows[index], found, nothing.get(example.choices, ()))
            candidate, vote = _decide(prompt, scoring, asked[index], rows[index], found, shares)
        before, started = started, time.perf_counter()
        return Prediction(
            example_id=example.id,
            answer=vote.answer,
            reasoning="",
            candidates=() if candidate is None else (candidate,),
            vote=vote,
            prompt_tokens=len(prefix) + len(rows[index].question),
            generated_tokens=0,
            seconds=started - before,
            too_long=found is None,
            prompt_sha256=hashes[index],
        )

    for index in range(len(asked)):
        if not fits[index] and index not in answered:
            yield index, told(index, None)
    for index, found in scores([n for n in range(len(asked)) if fits[n]], answered):
        yield index, told(index, found)


def _without_content(asked: Sequence[Asked]) -> list[Asked]:
    """The questions that calibrate, for each set of choices that occurs."""
    first = {example.choices: (example, options) for example, options in asked}
    return [(one, options) for e, options in first.values() for one in content_free_examples(e)]


def _decide(
    prompt: Prompt,
    scoring: MultipleChoiceConfig,
    asked: Asked,
    row: MultipleChoiceRequest,
    scores: Sequence[float],
    shares: Sequence[float],
) -> tuple[Candidate, Vote]:
    """The likeliest option as a candidate, and the options' probabilities by canonical answer."""
    example, options = asked
    choices = example.choices or scoring.choices
    answers = [
        canonical_option(prompt.parser, index, option, choices)
        for index, option in enumerate(options)
    ]
    counts: dict[str, float] = {}
    for answer, share in zip(answers, shares, strict=True):
        counts[answer] = counts.get(answer, 0.0) + share
    best = max(range(len(options)), key=shares.__getitem__)
    text, tokens = prompt.template.format_answer(options[best]), row.options[best]
    candidate = Candidate(text, tokens, scores[best], "scored", answer=answers[best])
    tied_answers = tuple(
        answer for answer, share in counts.items() if share == counts[answers[best]]
    )
    return candidate, Vote(answers[best], counts[answers[best]], counts, "likelihood", tied_answers)
