"""The numbers of a comparison or evaluation, computed again from its predictions alone.

Nothing of the package is imported: each formula is written once more, from its source, and by
another way where there is one (subsets are enumerated, binomial tails summed as fractions).
"""

import json
import math
from collections import Counter
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

Z = 1.959963984540054  # the normal quantile of 97.5 %
Rows = list[dict[str, Any]]


def read_rows(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def wilson(right: float, total: float, z: float = Z) -> tuple[float, float]:
    """Wilson 1927: the shares p with |p_observed - p| <= z sqrt(p (1 - p) / n)."""
    a, b, c = total + z * z, -(2 * right + z * z), right * right / total
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def mcnemar(first: list[bool], second: list[bool]) -> float:
    """Twice the smaller tail of a binomial of 1/2 over the questions that differ."""
    better = sum(a and not b for a, b in zip(first, second, strict=True))
    worse = sum(b and not a for a, b in zip(first, second, strict=True))
    total = better + worse
    tail = sum(math.comb(total, n) for n in range(min(better, worse) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**total)))


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm 1979: p(1) m, p(2) (m - 1), ..., each at least the one before."""
    found: dict[str, float] = {}
    for rank, name in enumerate(sorted(p_values, key=lambda one: p_values[one])):
        corrected = min(1.0, p_values[name] * (len(p_values) - rank))
        found[name] = max([corrected, *found.values()])
    return found


def majority(candidates: Rows, rule: str) -> str | None:
    """The winner of a vote by count; ties by number, then log-probability, then order."""
    answers = list(dict.fromkeys(one["answer"] for one in candidates if one["answer"] is not None))

    def rank(answer: str) -> tuple[int, int, float, int]:
        own = [one for one in candidates if one["answer"] == answer]
        reasonings = {" ".join(one["reasoning"].lower().split()) for one in own}
        count = len(reasonings) if rule == "distinct" else len(own)
        summed = math.fsum(one["log_probability"] for one in own)
        return count, len(own), summed, -answers.index(answer)

    return max(answers, key=rank, default=None)


def at_k(rows: Rows, right: list[set[str]], k: int, rule: str) -> float:
    """The mean over questions of the share of all subsets of k candidates whose vote is right."""
    common = min(len(row["candidates"]) for row in rows)
    shares = []
    for row, accepted in zip(rows, right, strict=True):
        subsets = list(combinations(row["candidates"][:common], k))
        shares.append(sum(majority(list(one), rule) in accepted for one in subsets) / len(subsets))
    return sum(shares) / len(shares)


def pass_at_k(rows: Rows, right: list[set[str]], k: int) -> float:
    """The mean share of all subsets of k candidates that hold a right one."""
    common = min(len(row["candidates"]) for row in rows)
    shares = []
    for row, accepted in zip(rows, right, strict=True):
        hits = [one["answer"] in accepted for one in row["candidates"][:common]]
        subsets = list(combinations(hits, k))
        shares.append(sum(map(any, subsets)) / len(subsets))
    return sum(shares) / len(shares)


def calibration_error(rows: Rows) -> float:
    """1706.04599, equation 3, with ten bins (0, 0.1], (0.1, 0.2], ..."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    answered = [row for row in rows if row["answer"] is not None]
    for row in answered:
        share = row["vote"]["confidence"]
        number = next(n for n in range(1, 11) if share <= n / 10 or n == 10)
        bins.setdefault(number, []).append((share, row["correct"]))
    error = 0.0
    for one in bins.values():
        confidence = sum(share for share, _ in one) / len(one)
        accuracy = sum(correct for _, correct in one) / len(one)
        error += len(one) / len(answered) * abs(confidence - accuracy)
    return error


def label_scores(gold: list[str], predicted: list[str | None]) -> dict[str, Any]:
    """Macro-F1, precision and recall by label, each from its definition."""
    pairs = list(zip(gold, predicted, strict=True))
    labels = {*gold, *(one for one in predicted if one is not None)}
    precision, recall, f1 = {}, {}, {}
    for label in labels:
        hits = sum(a == b == label for a, b in pairs)
        said, there = (sum(one == label for one in side) for side in (predicted, gold))
        precision[label] = hits / said if said else 0.0
        if there:
            recall[label] = hits / there
        both = precision[label] + recall.get(label, 0.0)
        f1[label] = 2 * precision[label] * recall.get(label, 0.0) / both if both else 0.0
    return {
        "macro_f1": sum(f1.values()) / len(f1),
        "label_precision": precision,
        "label_recall": recall,
    }


def measure(rows: Rows, right: list[set[str]] | None = None) -> dict[str, Any]:
    """What an evaluation reports of its predictions.

    Args:
        right: the accepted answers of each question in canonical form, where subsets of
            candidates shall be voted.
    """
    total = len(rows)
    verdicts = [row["correct"] for row in rows]
    candidates = [one for row in rows if not row["too_long"] for one in row["candidates"]]
    cut = [one["finish_reason"] == "length" for one in candidates]
    silent = [one["answer"] is None for one in candidates]
    pairs = list(zip(cut, silent, strict=True))
    found: dict[str, Any] = {
        "n": total,
        "accuracy": sum(verdicts) / total,
        "ci95": list(wilson(sum(verdicts), total)),
        "score": math.fsum(row["score"] for row in rows) / total,
        "abstained": sum(row["answer"] is None for row in rows) / total,
        "too_long": sum(row["too_long"] for row in rows) / total,
        "cut_off": sum(a and b for a, b in pairs) / len(pairs),
        "no_stop": sum(a and not b for a, b in pairs) / len(pairs),
        "unreadable": sum(b and not a for a, b in pairs) / len(pairs),
    }
    for name in ("prompt_tokens", "generated_tokens"):  # seconds are rounded in the file
        found[name] = math.fsum(row[name] for row in rows) / total
    if max(len(row["candidates"]) for row in rows) > 1:
        found |= _measure_votes(rows, right)
    return found


def _measure_votes(rows: Rows, right: list[set[str]] | None) -> dict[str, Any]:
    drawn = sum(len(row["candidates"]) for row in rows)
    saved = sum(row["candidates_saved"] for row in rows)
    silent = sum(one["answer"] is None for row in rows for one in row["candidates"])
    repeats = 0
    for row in rows:
        said = Counter(
            (one["answer"], " ".join(one["reasoning"].lower().split()))
            for one in row["candidates"]
            if one["answer"] is not None
        )
        repeats += sum(count - 1 for count in said.values())
    found: dict[str, Any] = {
        "agreement": math.fsum(row["vote"]["confidence"] for row in rows) / len(rows),
        "saved_share": saved / (saved + drawn),
        "abstained_candidates": silent / drawn,
        "repeat_share": repeats / (drawn - silent) if drawn > silent else 0.0,
        "calibration_error": calibration_error(rows),
    }
    if right is None:
        return found
    common = min(len(row["candidates"]) for row in rows)
    sizes = sorted({common, *(2**n for n in range(common.bit_length()))})
    votes = [majority(row["candidates"], "majority") for row in rows]
    hits = sum(vote in accepted for vote, accepted in zip(votes, right, strict=True))
    return found | {
        "accuracy_majority": hits / len(rows),
        "maj_at_k": {str(k): at_k(rows, right, k, "majority") for k in sizes},
        "distinct_at_k": {str(k): at_k(rows, right, k, "distinct") for k in sizes},
        "pass_at_k": {str(k): pass_at_k(rows, right, k) for k in sizes},
    }


def compare(rungs: dict[str, list[bool]], order: list[str]) -> dict[str, tuple[float, float]]:
    """By rung (difference to the rung below, p-value), of verdicts."""
    found = {}
    for below, name in zip(order, order[1:], strict=False):
        first, second = rungs[name], rungs[below]
        found[name] = ((sum(first) - sum(second)) / len(first), mcnemar(first, second))
    return found


def find_differences(reported: dict[str, Any], computed: dict[str, Any]) -> list[str]:
    """What is reported otherwise than it is computed, beyond the rounding of floats."""
    reported = reported | reported.get("metrics", {})
    return [
        f"{name}: reported {reported.get(name)}, computed {value}"
        for name, value in computed.items()
        if not _is_near(reported.get(name), value)
    ]


def _is_near(one: Any, other: Any) -> bool:
    if isinstance(other, dict):
        return (
            isinstance(one, dict)
            and one.keys() == other.keys()
            and all(_is_near(one[key], other[key]) for key in other)
        )
    if isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_is_near, one, other))
    return one is not None and abs(one - other) < 1e-9
