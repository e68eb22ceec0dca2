"""Answers questions one after the other: the prompt prefix is encoded once and kept."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from adapt_jax.adaptation.multiple_choice import answer_by_likelihood
from adapt_jax.decoders.prefix import Prefix, PrefixCache, SoftPrompt
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prediction import Prediction
from adapt_jax.prompting.prompt import Prompt, hash_prompts, tokenize
from adapt_jax.prompting.retriever import Retriever
from adapt_jax.prompting.voting import AdaptiveVote, vote
from adapt_jax.sampling.engine import Engine
from adapt_jax.sampling.likelihood import encode_scoring_prefix
from adapt_jax.sampling.prefix_files import PrefixFiles
from adapt_jax.sampling.types import Candidate, Request
from adapt_jax.tasks.answers import read_answer
from adapt_jax.tasks.answers.cut_answers import read_cut_answer
from adapt_jax.tasks.example import Example
from adapt_jax.utils.compilations import Stopwatch
from adapt_jax.utils.distributed import shares_questions
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import replace_surrogates
from adapt_jax.utils.progress import OnProgress

__all__ = [
    "BULK_CACHE_MULTIPLE",
    "Session",
    "build_prefixes",
    "find_mesh",
    "read_candidate",
]

T = TypeVar("T")

SESSION_CACHE_MULTIPLE = 128  # tokens; questions one after the other compile nothing new
BULK_CACHE_MULTIPLE = 16  # many questions at once share one shape anyway
MAX_ENGINES = 2  # kept by a session; a tokenizer that merges across the border may need a second


class Session:
    """A prompt and a decoder, ready to answer: the encoded prefix stays on the device.

    Answers are those of ``Adaptation.answer``: they do not depend on what was asked before.
    """

    def __init__(
        self,
        model: PretrainedDecoder,
        prompt: Prompt,
        soft_prompt: SoftPrompt | None = None,
        *,
        seed: int = 0,
        max_concurrent_sequences: int | None = None,
        cache_multiple: int = SESSION_CACHE_MULTIPLE,
        prefix_files: PrefixFiles | None = None,
    ):
        """
        Args:
            seed: of sampled candidates.
            max_concurrent_sequences: candidates that are generated at the same time; by default
                what memory allows.
            cache_multiple: see Engine.
            prefix_files: where encoded prefixes are kept for later processes, if anywhere.
        """
        self.model, self.prompt, self.soft_prompt = model, prompt, soft_prompt
        self.seed, self.max_concurrent_sequences = seed, max_concurrent_sequences
        self.cache_multiple = cache_multiple
        # of demonstrations that are chosen for each question, nobody asks again
        self.prefix_files = prefix_files if prompt.retrieval is None else None
        self._weights = _list_weights(model)
        self._retriever: Retriever | None = None
        self._engines: OrderedDict[tuple[int, ...], Engine] = OrderedDict()
        self._scoring_prefixes: OrderedDict[tuple[int, ...], PrefixCache] = OrderedDict()

    def ask(self, question: str, choices: Sequence[str] = ()) -> Prediction:
        """Answers one bare question. Half of a surrogate pair becomes U+FFFD.

        Raises:
            UserError: the question is empty, or too long for the decoder's context.
        """
        if not question.strip():
            raise UserError("the question is empty")
        # a shell hands over bytes that are not UTF-8 as surrogates
        question, *options = map(replace_surrogates, (question, *choices))
        example = Example(id=question, question=question, choices=tuple(options))
        prediction = self.answer([example])[0]
        if prediction.too_long:
            members = 1 if self.soft_prompt is None else len(self.soft_prompt.members)
            raise UserError(
                f"the question is too long: with the prompt prefix it has "
                f"{prediction.prompt_tokens // members} tokens, the context of {self.model.path} "
                f"holds {self.model.config.context_length}"
            )
        return prediction

    def answer(
        self, examples: Sequence[Example], *, on_progress: OnProgress | None = None
    ) -> list[Prediction]:
        """Answers every example, in their order."""
        predictions: dict[int, Prediction] = {}
        for index, prediction in self.stream(examples):
            predictions[index] = prediction
            if on_progress is not None:
                on_progress(len(predictions), len(examples))
        return [predictions[index] for index in range(len(examples))]

    def stream(
        self,
        examples: Sequence[Example],
        *,
        answered: Collection[int] = (),
        on_tokens: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, Prediction]]:
        """(index, prediction) of each example, as soon as it is decided.

        The text of a candidate depends on the seed, the example's id and the candidate's number
        alone, not on the other questions. Where the prompt has a ``stop_at``, a question that is
        decided gets no more candidates. Every member of an ensemble generates the candidates of
        the prompt: number c of member m is candidate c N + m of the question's N members.

        Args:
            answered: indices of examples that an earlier run has answered. They are not asked
                again; the predictions of the others are bitwise identical to those beside them.
            on_tokens: called with (candidates finished, tokens generated) every few steps.
        """
        # of processes that share the questions, each takes part in choosing shapes
        is_done = len(set(answered)) == len(examples)
        if not examples or (is_done and not shares_questions()):
            return
        if self.prompt.multiple_choice is not None:
            yield from self._choose_by_likelihood(examples, answered)
            return
        stopwatch, prompt = Stopwatch(), self.prompt
        rendered = [prompt.template.format_example(one) for one in examples]
        prompts = self.choose_demonstrations(examples)
        prompt_prefix, questions = tokenize(self.model, prompt, rendered, prompts)
        hashes = hash_prompts(prompt_prefix, questions)
        prefixes = build_prefixes(self.model, self.soft_prompt, tuple(prompt_prefix))
        engine = self._find_engine(tuple(prompt_prefix), prefixes)

        # every member of an ensemble gets a request of its own
        members = len(prefixes)
        requests = [
            Request(f"{example.id}, member {member}" if member else example.id, (*tokens,), member)
            for example, tokens in zip(examples, questions, strict=True)
            for member in range(members)
        ]
        most = members * prompt.generation_config.candidates
        votes = [AdaptiveVote(most, prompt.stop_at, prompt.vote) for _ in examples]
        is_decided = None if prompt.stop_at is None else lambda at: votes[at // members].is_decided
        done = {index * members + member for index in answered for member in range(members)}

        # candidates come in any order; the vote says which one decides its question
        for at, number, candidate in engine.run(requests, on_tokens, is_decided, done):
            index, member = divmod(at, members)
            read = read_candidate(prompt, candidate, examples[index])
            if not votes[index].add(number * members + member, read):
                continue
            tokens = members * (len(prefixes[0]) + len(questions[index]))
            seconds = stopwatch.read_seconds()
            prediction = _predict(prompt, examples[index], votes[index], tokens, seconds)
            yield index, replace(prediction, prompt_sha256=hashes[index])

    def choose_demonstrations(self, examples: Sequence[Example]) -> list[Prompt]:
        """The prompt of each question; they differ where demonstrations are chosen for each."""
        if self.prompt.retrieval is None:
            return [self.prompt] * len(examples)
        if self._retriever is None:
            self._retriever = Retriever(self.model, self.prompt)
        return list(map(self._retriever.choose, examples))

    def is_current(
        self, model: PretrainedDecoder, prompt: Prompt, soft_prompt: SoftPrompt | None
    ) -> bool:
        """Whether it answers for this decoder, with the weights that it has now."""
        if self.model is not model or self.soft_prompt is not soft_prompt:
            return False
        weights = _list_weights(model)
        same = len(weights) == len(self._weights) and all(map(_is, weights, self._weights))
        return same and self.prompt == prompt

    def _find_engine(self, tokens: tuple[int, ...], prefixes: list[Prefix]) -> Engine:
        """The engine for the prefixes with these tokens, which are encoded if they are new."""
        if tokens not in self._engines:
            self._engines[tokens] = Engine(
                self.model,
                prefixes,
                self.prompt.generation_config,
                seed=self.seed,
                max_concurrent_sequences=self.max_concurrent_sequences,
                mesh=find_mesh(self.model),
                cache_multiple=self.cache_multiple,
                prefix_files=self.prefix_files,
            )
        return _keep_newest(self._engines, tokens)

    def _choose_by_likelihood(
        self, examples: Sequence[Example], answered: Collection[int]
    ) -> Iterator[tuple[int, Prediction]]:
        assert self.prompt.multiple_choice is not None
        if self.soft_prompt is not None and self.soft_prompt.ensemble_size:
            raise UserError(
                f"an ensemble of {self.soft_prompt.ensemble_size} soft prompts votes on what it "
                "generates; it cannot choose by likelihood"
            )
        yield from answer_by_likelihood(
            self.model,
            self.prompt,
            self.prompt.multiple_choice,
            examples,
            self._encode_for_scoring,
            prompts=self.choose_demonstrations(examples),
            mesh=find_mesh(self.model),
            answered=answered,
        )

    def _encode_for_scoring(self, tokens: tuple[int, ...]) -> tuple[Prefix, PrefixCache]:
        """The prefix of these tokens, and its keys and values, after which choices are scored."""
        [prefix] = build_prefixes(self.model, self.soft_prompt, tokens)
        if tokens not in self._scoring_prefixes:
            files = self.prefix_files if find_mesh(self.model) is None else None
            self._scoring_prefixes[tokens] = encode_scoring_prefix(self.model, prefix, files)
        return prefix, _keep_newest(self._scoring_prefixes, tokens)


def _predict(
    prompt: Prompt, example: Example, adaptive: AdaptiveVote, prompt_tokens: int, seconds: float
) -> Prediction:
    """The prediction of a question that is decided."""
    candidates = adaptive.candidates
    result = vote(candidates, rule=prompt.vote)
    reasonings = (one.reasoning for one in candidates if one.answer == result.answer)
    return Prediction(
        example_id=example.id,
        answer=result.answer,
        reasoning=next(reasonings, ""),
        candidates=candidates,
        vote=result,
        prompt_tokens=prompt_tokens,
        generated_tokens=sum(len(one.token_ids) for one in candidates),
        seconds=seconds,
        candidates_saved=adaptive.max_candidates - len(candidates),
        too_long=any(one.finish_reason == "too_long" for one in candidates),
    )


def read_candidate(prompt: Prompt, candidate: Candidate, example: Example) -> Candidate:
    """The candidate with its reasoning and answer.

    One that was cut off abstains, unless its answer is complete before the cut.
    """
    template = prompt.template
    reasoning, _ = template.split_reasoning(candidate.text)
    answer = None
    if candidate.finish_reason in ("eos", "stop"):
        answer = read_answer(prompt.parser, candidate.text, template, example.choices)
    elif candidate.finish_reason == "length":
        answer = read_cut_answer(prompt.parser, candidate.text, template, example.choices)
    return replace(candidate, reasoning=reasoning.strip(), answer=answer)


def build_prefixes(
    model: PretrainedDecoder, soft_prompt: SoftPrompt | None, tokens: tuple[int, ...]
) -> list[Prefix]:
    """These tokens with the soft prompt on its side of BOS; for every member of an ensemble."""
    if soft_prompt is None:
        return [Prefix((tokens,))]
    bos = model.config.bos_id
    cut = int(not soft_prompt.before_bos and bos is not None and tokens[:1] == (bos,))
    return [Prefix((tokens[:cut], member, tokens[cut:])) for member in soft_prompt.members]


def find_mesh(model: PretrainedDecoder) -> Mesh | None:
    """The mesh that the decoder's weights are sharded over; None on a single device."""
    place = model.decoder.embedding[...].sharding
    if isinstance(place, NamedSharding) and isinstance(place.mesh, Mesh):
        return place.mesh
    return None


def _keep_newest(entries: OrderedDict[tuple[int, ...], T], key: tuple[int, ...]) -> T:
    """The entry of this key, after the least recently used beyond MAX_ENGINES were dropped."""
    entries.move_to_end(key)
    while len(entries) > MAX_ENGINES:
        entries.popitem(last=False)
    return entries[key]


def _list_weights(model: PretrainedDecoder) -> list[Any]:
    """The decoder's arrays. Training replaces them, so that a session knows when it is stale."""
    return jax.tree.leaves(nnx.state(model.decoder))


def _is(one: Any, other: Any) -> bool:
    return one is other
