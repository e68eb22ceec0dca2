"""How similar questions are: by the words that they share, or by the decoder's own view of them.

A similarity is registered under a name and made from texts:

    @SIMILARITIES.register("my_similarity")
    class MySimilarity:
        def __init__(self, model, texts): ...
        def to_text(self, text): ...        # [N], one number from 0 to 1 for each of the texts
        def to_member(self, index): ...     # the same for one of the texts themselves
"""

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float

from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.sampling.embeddings import embed_texts
from adapt_jax.utils.registry import Registry

__all__ = ["SIMILARITIES", "Bm25", "HiddenStates", "Similarity", "split_words"]

# a letter of a language without spaces between words is a word of its own
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f"
WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")


class Similarity(Protocol):
    """What is asked for the texts nearest to another one."""

    def __init__(self, model: PretrainedDecoder, texts: Sequence[str]) -> None: ...

    def to_text(self, text: str) -> Float[np.ndarray, " N"]:
        """How similar each of the texts is to another text, 0 to 1."""
        ...

    def to_member(self, index: int) -> Float[np.ndarray, " N"]:
        """How similar each of the texts is to the one of this index, 0 to 1."""
        ...


SIMILARITIES: Registry[type[Similarity]] = Registry("similarity")


def split_words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return WORD.findall(text.lower())


@SIMILARITIES.register("bm25")
class Bm25:
    """Words in common, rare ones first (Okapi BM25 with the constants of Lucene)."""

    def __init__(self, model: PretrainedDecoder, texts: Sequence[str]) -> None:
        import bm25s  # takes a second

        self._words = [split_words(text) for text in texts]
        self._index = bm25s.BM25(method="lucene")
        self._index.index(self._words, show_progress=False)

    def to_text(self, text: str) -> Float[np.ndarray, " N"]:
        """The scores, divided by the highest; all 0 where no word is shared."""
        scores = self._score(split_words(text))
        return scores / max(float(scores.max(initial=0.0)), 1e-12)

    def to_member(self, index: int) -> Float[np.ndarray, " N"]:
        """The scores, divided by that of the text itself."""
        scores = self._score(self._words[index])
        return np.clip(scores / max(float(scores[index]), 1e-12), 0.0, 1.0)

    def _score(self, words: list[str]) -> Float[np.ndarray, " N"]:
        if not words:
            return np.zeros(len(self._words))
        return np.asarray(self._index.get_scores(words), np.float64)


@SIMILARITIES.register("decoder")
class HiddenStates:
    """The cosine between mean hidden states of the decoder, whose common part is taken out."""

    def __init__(self, model: PretrainedDecoder, texts: Sequence[str]) -> None:
        self._model = model
        states = embed_texts(model, texts)
        self._mean = states.mean(axis=0)  # all texts share it, so it says nothing
        self._states = _normalize(states - self._mean)

    def to_text(self, text: str) -> Float[np.ndarray, " N"]:
        """The cosine, as a number from 0 to 1."""
        [state] = _normalize(embed_texts(self._model, [text]) - self._mean)
        return (1 + self._states @ state) / 2

    def to_member(self, index: int) -> Float[np.ndarray, " N"]:
        """The cosine, as a number from 0 to 1."""
        return (1 + self._states @ self._states[index]) / 2


def _normalize(rows: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Rows of length 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
