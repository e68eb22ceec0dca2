"""Answers questions by the most probable of their choices (MultipleChoiceConfig)."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence

from jax.sharding import Mesh

from adapt_jax.decoders.prefix import Prefix, PrefixCache
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.multiple_choice import (
    MultipleChoiceConfig,
    content_free_examples,
    tokenize_choices,
)
from adapt_jax.prompting.prediction import Prediction
from adapt_jax.prompting.prompt import Prompt, hash_prompts
from adapt_jax.prompting.voting import Vote
from adapt_jax.sampling.likelihood import (
    MultipleChoiceRequest,
    encode_scoring_prefix,
    score_continuations,
)
from adapt_jax.sampling.types import Candidate
from adapt_jax.tasks.answers import canonical_option
from adapt_jax.tasks.example import Example

__all__ = ["answer_by_likelihood"]

Question = tuple[Example, tuple[str, ...]]  # with the answers that stand for its choices


def answer_by_likelihood(
    model: PretrainedDecoder,
    prompt: Prompt,
    config: MultipleChoiceConfig,
    build_prefix: Callable[[tuple[int, ...]], Prefix],
    examples: Sequence[Example],
    *,
    mesh: Mesh | None = None,
    answered: Collection[int] = (),
    encode_prefix: Callable[[tuple[int, ...], Prefix], PrefixCache] | None = None,
) -> Iterator[tuple[int, Prediction]]:
    """Yields (index, prediction) of each example that is not ``answered``.

    The vote holds the probabilities of the choices; the one candidate is the chosen answer.

    Args:
        build_prefix: makes the prefix of the prompt's tokens (a soft prompt may join them).
        encode_prefix: encodes that prefix, or gives what it encoded for the same tokens before.
    """
    started = time.perf_counter()
    # 1. the questions, and behind them those without content
    questions = [(example, config.list_answers(example.choices)) for example in examples]
    content_free = _list_content_free(questions) if config.calibrated else []
    prompt_prefix, requests = tokenize_choices(model, prompt, [*questions, *content_free])
    prefix = build_prefix(prompt_prefix)
    encoded = (
        encode_scoring_prefix(model, prefix)
        if encode_prefix is None
        else encode_prefix(prompt_prefix, prefix)
    )
    hashes = hash_prompts(prompt_prefix, [request.context for request in requests])
    # the last token of a choice is not read
    room = model.config.context_length - len(prefix) + 1
    fits = [len(one.context) + max(map(len, one.continuations)) <= room for one in requests]

    def score(numbers: Sequence[int]) -> Iterator[tuple[int, list[float]]]:
        known = {at for at, number in enumerate(numbers) if number in answered}
        chosen = [requests[number] for number in numbers]
        for at, found in score_continuations(
            model, prefix, chosen, mesh=mesh, answered=known, encoded_prefix=encoded
        ):
            yield numbers[at], [one.log_probability for one in found]

    # 2. what the decoder says behind questions without content
    free_scores: dict[tuple[str, ...], list[list[float]]] = {}
    for number, scores in score([n for n in range(len(questions), len(requests)) if fits[n]]):
        choices = content_free[number - len(questions)][0].choices
        free_scores.setdefault(choices, []).append(scores)

    # 3. the questions themselves; those that are too long have no scores
    def list_scores() -> Iterator[tuple[int, list[float] | None]]:
        for index in range(len(questions)):
            if not fits[index] and index not in answered:
                yield index, None
        yield from score([index for index in range(len(questions)) if fits[index]])

    for index, found in list_scores():
        example, request = examples[index], requests[index]
        candidate, vote = None, Vote(None, 0.0, {}, "likelihood")
        if found is not None:
            free = free_scores.get(example.choices, ())
            probabilities = config.compute_probabilities(request, found, free)
            candidate, vote = _choose(
                prompt, config, questions[index], request, found, probabilities
            )
        before, started = started, time.perf_counter()
        prediction = Prediction(
            example_id=example.id,
            answer=vote.answer,
            reasoning="",
            candidates=() if candidate is None else (candidate,),
            vote=vote,
            prompt_tokens=len(prefix) + len(request.context),
            generated_tokens=0,
            seconds=started - before,
            too_long=found is None,
            prompt_sha256=hashes[index],
        )
        yield index, prediction


def _list_content_free(questions: Sequence[Question]) -> list[Question]:
    """The questions without content, for each set of choices that occurs."""
    first = {example.choices: (example, answers) for example, answers in questions}
    return [
        (one, answers)
        for example, answers in first.values()
        for one in content_free_examples(example)
    ]


def _choose(
    prompt: Prompt,
    config: MultipleChoiceConfig,
    question: Question,
    request: MultipleChoiceRequest,
    scores: Sequence[float],
    probabilities: Sequence[float],
) -> tuple[Candidate, Vote]:
    """The most probable answer as a candidate, and all probabilities by canonical answer."""
    example, answers = question
    choices = example.choices or config.choices
    canonical = [
        canonical_option(prompt.parser, number, answer, choices)
        for number, answer in enumerate(answers)
    ]
    counts: dict[str, float] = {}
    for answer, probability in zip(canonical, probabilities, strict=True):
        counts[answer] = counts.get(answer, 0.0) + probability
    best = max(range(len(answers)), key=probabilities.__getitem__)
    highest = counts[canonical[best]]
    tied_answers = tuple(answer for answer, count in counts.items() if count == highest)
    candidate = Candidate(
        prompt.template.format_answer(answers[best]),
        request.continuations[best],
        scores[best],
        "scored",
        answer=canonical[best],
    )
    return candidate, Vote(canonical[best], highest, counts, "likelihood", tied_answers)
