"""Scores of a text by its references, 0 to 1: for scorers of free text and minimum Bayes risk.

ROUGE is computed by rouge-score, BLEU and chrF by sacrebleu (``pip install adapt-jax[eval]``).

    @TEXT_SCORES.register("same_length")
    def same_length(text, references):
        return max(float(len(text) == len(one)) for one in references)
"""

import functools
import importlib.util
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

from adapt_jax.utils.errors import UserError
from adapt_jax.utils.registry import Registry

__all__ = [
    "TEXT_SCORES",
    "TextScore",
    "check_installed",
    "compute_corpus_score",
    "find_library_version",
    "split_squad_words",
]

# (text, references) -> how near the text comes to the references, 0 to 1
TextScore = Callable[[str, Sequence[str]], float]
TEXT_SCORES: Registry[TextScore] = Registry("text score")
_LIBRARIES = {  # by score: the module and the distribution
    **dict.fromkeys(("rouge1", "rouge2", "rougeL"), ("rouge_score", "rouge-score")),
    **dict.fromkeys(("bleu", "chrf"), ("sacrebleu", "sacrebleu")),
}


def check_installed(name: str) -> None:
    """Checks that the library of a score is there.

    Raises:
        UserError: it is not; the line says how to install it.
    """
    module, distribution = _LIBRARIES.get(name, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise UserError(f"{name} needs {distribution}: pip install 'adapt-jax[eval]'")


def find_library_version(name: str) -> str:
    """The library that a score rests on and its version; empty where it needs none."""
    _, distribution = _LIBRARIES.get(name, ("", ""))
    try:
        return f"{distribution} {metadata.version(distribution)}" if distribution else ""
    except metadata.PackageNotFoundError:
        return distribution


# ---- words in common, as SQuAD counts them


def split_squad_words(text: str) -> list[str]:
    """The words of a text as SQuAD's own script normalises them (evaluate-v2.0.py)."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


@TEXT_SCORES.register("token_f1")
def token_f1(text: str, references: Sequence[str]) -> float:
    """F1 of the words in common with the nearest reference, as SQuAD counts it (1606.05250).

    References without a word do not count where others have some; a text without words equals a
    reference without words (no answer, as in evaluate-v2.0.py).
    """
    words = [split_squad_words(one) for one in references]
    given = split_squad_words(text)
    return max(_compute_f1(given, one) for one in [one for one in words if one] or [[]])


def _compute_f1(given: list[str], reference: list[str]) -> float:
    if not given or not reference:
        return float(given == reference)
    common = sum((Counter(given) & Counter(reference)).values())
    return 2 * common / (len(given) + len(reference))


# ---- ROUGE


@functools.cache
def _make_rouge(kind: str) -> Any:
    check_installed(kind)
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=False)


def _register_rouge(kind: str) -> None:
    @TEXT_SCORES.register(kind)
    def rouge(text: str, references: Sequence[str]) -> float:
        """F-measure to the nearest reference (Lin 2004), without stemming."""
        scores = (_make_rouge(kind).score(one, text)[kind].fmeasure for one in references)
        return float(max(scores))


for _kind in ("rouge1", "rouge2", "rougeL"):
    _register_rouge(_kind)


# ---- BLEU and chrF


@functools.cache
def _make_sacrebleu(name: str, *, sentence: bool) -> Any:
    check_installed(name)
    from sacrebleu.metrics import BLEU, CHRF

    if name == "bleu":
        return BLEU(effective_order=sentence)  # else a sentence without a 4-gram in common has 0
    return CHRF()


def _register_sacrebleu(name: str) -> None:
    @TEXT_SCORES.register(name)
    def sentence_score(text: str, references: Sequence[str]) -> float:
        """The score of one text by sacrebleu, which is 0 to 100 there."""
        found = _make_sacrebleu(name, sentence=True).sentence_score(text, list(references))
        return float(min(1.0, found.score / 100))


for _kind in ("bleu", "chrf"):
    _register_sacrebleu(_kind)


def compute_corpus_score(
    name: str, texts: Sequence[str], references: Sequence[Sequence[str]]
) -> float:
    """BLEU or chrF of a whole corpus, as sacrebleu reports it: 0 to 100.

    Args:
        name: ``bleu`` or ``chrf``.
        references: those of each text; texts may have different numbers of them.
    """
    most = max(map(len, references))
    streams = [[one[n] if n < len(one) else None for one in references] for n in range(most)]
    return float(_make_sacrebleu(name, sentence=False).corpus_score(list(texts), streams).score)
