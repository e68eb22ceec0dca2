"""Chooses the demonstrations of each question, where the prompt has a Retrieval."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.prompting.similarity import SIMILARITIES, Similarity
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.summary import fold_question

__all__ = ["Retriever", "rank_by_mmr"]

MMR_SHARE = 8  # MMR chooses among this many times as many as are shown: the nearest ones
MAX_MISSES = 16  # demonstrations in a row that do not fit; then none is tried any more


class Retriever:
    """The index over the demonstrations of a prompt; it is made once."""

    def __init__(self, model: PretrainedDecoder, prompt: Prompt):
        assert prompt.retrieval is not None
        self.model, self.prompt, self.retrieval = model, prompt, prompt.retrieval
        pool = prompt.retrieval.pool
        self._similarity = SIMILARITIES[self.retrieval.similarity](
            model, [one.question for one in pool]
        )
        self._folded = [_fold(one.question, one.choices) for one in pool]

    def choose(self, example: Example) -> Prompt:
        """The prompt of this question: the nearest demonstrations, the nearest one last.

        The question itself is never shown, nor is one that differs from it in white space, letter
        case or the order of its choices alone. A demonstration that does not fit is left out whole.
        """
        template, retrieval = self.prompt.template, self.retrieval
        question = template.format_example(example)
        # 1. the nearest first, without the question itself
        relevance = np.array(self._similarity.to_text(example.question), np.float64)
        asked = _fold(example.question, example.choices)
        allowed = np.array([not _is_same(asked, one) for one in self._folded])
        order = self._rank(np.where(allowed, relevance, -np.inf))
        order = order[: int(allowed.sum())]

        # 2. all of them if they fit, which is the rule; else one after the other
        def make(chosen: Sequence[int]) -> Prompt:
            ascending = sorted(chosen, key=lambda index: float(relevance[index]))
            shown = tuple(retrieval.pool[index] for index in ascending)
            return replace(self.prompt, demonstrations=shown, retrieval=None)

        bare = self._count_tokens(make([]), question)
        room = self.model.config.context_length - retrieval.answer_tokens
        if retrieval.max_tokens is not None:
            room = min(room, bare + retrieval.max_tokens)
        prompt = make(order[: retrieval.count])
        if self._count_tokens(prompt, question) <= room:
            return prompt
        chosen: list[int] = []
        misses = 0
        for index in order:
            if self._count_tokens(make([*chosen, index]), question) <= room:
                chosen, misses = [*chosen, index], 0
            else:
                misses += 1
            if len(chosen) == retrieval.count or misses == MAX_MISSES:
                break
        return make(chosen)

    def _rank(self, relevance: Float[np.ndarray, " N"]) -> list[int]:
        """Indices into the pool in the order of preference; what is excluded comes last."""
        nearest = [int(index) for index in np.argsort(-relevance, kind="stable")]
        if not self.retrieval.diversity:
            return nearest
        competing = [
            index
            for index in nearest[: MMR_SHARE * self.retrieval.count]
            if np.isfinite(relevance[index])
        ]
        first = rank_by_mmr(
            self._similarity, relevance, competing, self.retrieval.count, self.retrieval.diversity
        )
        return [*first, *(index for index in nearest if index not in set(first))]

    def _count_tokens(self, prompt: Prompt, question: str) -> int:
        return len(prompt.encode(self.model, prompt.render_prompt(self.model, question)))


def rank_by_mmr(
    similarity: Similarity,
    relevance: Float[np.ndarray, " N"],
    competing: Sequence[int],
    count: int,
    diversity: float,
) -> list[int]:
    """``count`` of the competing texts by maximal marginal relevance, the best first.

    Each has the highest value of (1 - diversity) * relevance - diversity * (the similarity to the
    nearest text that is taken already). Carbonell and Goldstein 1998, section 2.
    """
    left, taken = list(competing), list[int]()
    nearest_taken = np.zeros(len(relevance))
    while left and len(taken) < count:
        value = (1 - diversity) * relevance - diversity * nearest_taken
        best = max(left, key=lambda index: float(value[index]))  # the first of equals
        left.remove(best)
        taken.append(best)
        nearest_taken = np.maximum(nearest_taken, similarity.to_member(best))
    return taken


def _fold(question: str, choices: Sequence[str]) -> tuple[str, frozenset[str]]:
    """A question without differences of white space, letter case and order of choices."""
    folded = frozenset(fold_question(Example("", choice)) for choice in choices)
    return fold_question(Example("", question)), folded


def _is_same(asked: tuple[str, frozenset[str]], shown: tuple[str, frozenset[str]]) -> bool:
    """Whether both are one question. Questions of equal words and other choices are not."""
    # a question may be asked without the choices that it has
    return asked[0] == shown[0] and (asked[1] == shown[1] or not asked[1] or not shown[1])
