"""Answers questions by the most probable of their choices (MultipleChoiceConfig)."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

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
from adapt_jax.sampling.likelihood import MultipleChoiceRequest, score_continuations
from adapt_jax.sampling.types import Candidate
from adapt_jax.tasks.answers import canonicalize_option
from adapt_jax.tasks.example import Example
from adapt_jax.utils.compilations import Stopwatch

__all__ = ["answer_by_likelihood"]

Question = tuple[Example, tuple[str, ...]]  # with the answers that represent its choices


def answer_by_likelihood(
    model: PretrainedDecoder,
    prompt: Prompt,
    config: MultipleChoiceConfig,
    examples: Sequence[Example],
    encode_prefix: Callable[[tuple[int, ...]], tuple[Prefix, PrefixCache]],
    *,
    prompts: Sequence[Prompt] | None = None,
    mesh: Mesh | None = None,
    answered: Collection[int] = (),
) -> Iterator[tuple[int, Prediction]]:
    """Yields (index, prediction) of each example that is not ``answered``.

    The vote holds the probabilities of the choices; the one candidate is the chosen answer.

    Args:
        encode_prefix: makes the prefix of the prompt's tokens (a soft prompt may join them), and
            encodes it.
        prompts: the prompt of each example, where they have demonstrations of their own.
    """
    stopwatch = Stopwatch()
    # 1. the questions, and after them those without content
    questions = [(example, config.list_answers(example.choices)) for example in examples]
    own = [prompt] * len(examples) if prompts is None else list(prompts)
    content_free = _list_content_free(config, questions, own)
    prompt_prefix, requests = tokenize_choices(
        model,
        prompt,
        [*questions, *(question for question, _ in content_free)],
        [*own, *(one for _, one in content_free)],
    )
    prefix, encoded = encode_prefix(prompt_prefix)
    hashes = hash_prompts(prompt_prefix, [request.context for request in requests])
    score = partial(_score, model, prefix, encoded, mesh)

    # 2. what the decoder says after questions without content
    free_scores: dict[Any, list[list[float]]] = {}
    for number, scores in score(requests[len(questions) :], ()):
        if scores is not None:
            (one, _), theirs = content_free[number]
            free_scores.setdefault((one.choices, theirs.demonstrations), []).append(scores)

    # 3. the questions themselves
    for index, scores in score(requests[: len(questions)], answered):
        free = free_scores.get((examples[index].choices, own[index].demonstrations), ())
        candidates, vote = _choose(prompt, config, questions[index], requests[index], scores, free)
        prediction = Prediction(
            example_id=examples[index].id,
            answer=vote.answer,
            reasoning="",
            candidates=candidates,
            vote=vote,
            prompt_tokens=len(prefix) + len(requests[index].context),
            generated_tokens=0,
            seconds=stopwatch.read_seconds(),
            too_long=scores is None,
            prompt_sha256=hashes[index],
        )
        yield index, prediction


def _score(
    model: PretrainedDecoder,
    prefix: Prefix,
    encoded: PrefixCache,
    mesh: Mesh | None,
    requests: Sequence[MultipleChoiceRequest],
    answered: Collection[int],
) -> Iterator[tuple[int, list[float] | None]]:
    """Yields (index, the log-likelihood of each choice) of each request that is not ``answered``.

    A request that is too long for the context has None.
    """
    # the last token of a choice is not read
    room = model.config.context_length - len(prefix) + 1
    fitting = []
    for index, one in enumerate(requests):
        if len(one.context) + max(map(len, one.continuations)) <= room:
            fitting.append(index)
        elif index not in answered:
            yield index, None
    known = {at for at, index in enumerate(fitting) if index in answered}
    chosen = [requests[index] for index in fitting]
    for at, found in score_continuations(
        model, prefix, chosen, mesh=mesh, answered=known, encoded_prefix=encoded
    ):
        yield fitting[at], [one.log_probability for one in found]


def _list_content_free(
    config: MultipleChoiceConfig, questions: Sequence[Question], prompts: Sequence[Prompt]
) -> list[tuple[Question, Prompt]]:
    """The questions without content, for each set of choices and demonstrations that occurs."""
    if not config.calibrated:
        return []
    first: dict[Any, tuple[Question, Prompt]] = {}
    for question, prompt in zip(questions, prompts, strict=True):
        first.setdefault((question[0].choices, prompt.demonstrations), (question, prompt))
    return [
        ((one, answers), prompt)
        for (example, answers), prompt in first.values()
        for one in content_free_examples(example, config.content_free)
    ]


def _choose(
    prompt: Prompt,
    config: MultipleChoiceConfig,
    question: Question,
    request: MultipleChoiceRequest,
    scores: Sequence[float] | None,
    content_free: Sequence[Sequence[float]],
) -> tuple[tuple[Candidate, ...], Vote]:
    """The most probable answer as the one candidate, and all probabilities by canonical answer.

    Args:
        scores: the log-likelihood of each choice; None of a question that is too long.
        content_free: the same after each question without content.
    """
    if scores is None:
        return (), Vote(None, 0.0, {}, "likelihood")
    probabilities = config.compute_probabilities(request, scores, content_free)
    example, answers = question
    choices = example.choices or config.choices
    canonical = [
        canonicalize_option(prompt.parser, number, answer, choices)
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
    return (candidate,), Vote(canonical[best], highest, counts, "likelihood", tied_answers)
