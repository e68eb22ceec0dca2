"""GSM8K's answers as lm-evaluation-harness extracts them, with all that is wrong with that.

For numbers that can be held against others'. Filters and normalisation are those of the harness's
lm_eval/tasks/gsm8k/gsm8k.yaml (version 3), lm_eval/filters/extraction.py (``RegexFilter``) and
lm_eval/api/metrics.py (``exact_match_hf_evaluate``).
"""

import re
from collections.abc import Sequence

__all__ = ["read_flexible", "read_harness_gold", "read_strict"]

_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")  # filter strict-match: the first match
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")  # filter flexible-extract: the last match
_IGNORED = [re.compile(one) for one in (",", r"\$", r"(?s).*#### ", r"\.$")]
_STOPS = ("Question:", "</s>", "<|im_end|>")  # generation_kwargs.until


def read_strict(text: str, choices: Sequence[str] = ()) -> str | None:
    """What follows the first ``####``, commas and dollar signs removed."""
    found = _STRICT.search(_cut_at_stops(text))
    return None if found is None else _normalize(found[1].strip())


def read_flexible(text: str, choices: Sequence[str] = ()) -> str | None:
    """The last thing in a text that looks like a number; also ``..`` does."""
    found = _FLEXIBLE.findall(_cut_at_stops(text))
    return _normalize(next(filter(None, found[-1])).strip()) if found else None


def read_harness_gold(text: str, choices: Sequence[str] = ()) -> str | None:
    """A gold answer: a number, alone or behind the reasoning and ``####`` of GSM8K."""
    answer = _normalize(text.strip())
    return answer if re.fullmatch(r"-?[0-9]+(?:\.[0-9]+)?", answer) else None


def _cut_at_stops(text: str) -> str:
    """The text before the first stop string of the harness."""
    return text[: min((text.find(stop) for stop in _STOPS if stop in text), default=len(text))]


def _normalize(answer: str) -> str:
    for ignored in _IGNORED:
        answer = ignored.sub("", answer)
    return answer.lower()
