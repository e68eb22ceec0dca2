"""Which rung is enough: the cheapest that is not significantly below the most accurate one.

Scores are compared: of the scorer `exact` their mean is the accuracy.
"""

from collections.abc import Mapping, Sequence

from adapt_jax.evaluation.over_seeds import Runs, compare_runs
from adapt_jax.evaluation.results import (
    Baseline,
    DoneRung,
    PairedDelta,
    Recommendation,
    RungTest,
)
from adapt_jax.evaluation.scorers import DEFAULT_SCORER
from adapt_jax.evaluation.significance import holm_correction
from adapt_jax.utils.display_text import quote_text

__all__ = ["LEVEL", "find_reference", "paired_delta", "recommend"]

LEVEL = 0.05  # of significance, over all tests together
MIN_SCORE = 0.05  # without a baseline the 95 % interval of a rung of use lies above it


def paired_delta(method: str, scores: Runs, other: Runs) -> PairedDelta:
    """A rung against the rung ``method``, whose scores are ``other``, each under its seeds.

    Raises:
        ValueError: the two did not answer the same number of questions.
    """
    found = compare_runs(scores, other)
    return PairedDelta(
        method=method,
        difference=found.difference,
        ci95=(found.low, found.high),
        p_value=found.p_value,
        test=found.test,
    )


def find_reference(rungs: Sequence[DoneRung], named: str | None) -> str | None:
    """The reference among the rungs below: the named one, else the highest that trains nothing."""
    untrained = [rung.method for rung in rungs if rung.trainable_parameters == 0]
    if named is not None:
        return named if any(rung.method == named for rung in rungs) else None
    return untrained[-1] if untrained else None


def recommend(
    rungs: Sequence[DoneRung],
    scores: Mapping[str, Runs],
    baseline: Baseline | None = None,
    baseline_scores: Sequence[float] = (),
) -> Recommendation | None:
    """The cheapest rung that is not significantly less accurate than the most accurate one.

    Cheaper is a rung that trains fewer parameters; of equals, one that spends fewer tokens on a
    question. Each cheaper rung is tested against the most accurate one by McNemar's exact test,
    by a paired bootstrap where scores are graded, or by Student's t over several seeds, and the
    p-values are corrected for their number by Holm's procedure, at the level 0.05. Of no use is a
    rung none of whose answers can be read, or one that is not significantly above the baseline, by
    the same test and correction over all rungs. Without a baseline a rung has to be significantly
    above no right answer at all.

    Args:
        rungs: those that were measured, in the order of the ladder.
        scores: by method, of each question under each seed.
        baseline: what a program reaches that always gives the same answer. Where no rung is
            significantly better, the sentence says that none is enough.
        baseline_scores: of that answer to each question.

    Returns:
        None where no rung was measured.
    """
    if not rungs:
        return None
    most_accurate = max(
        rungs, key=lambda rung: (rung.score, *(-one for one in _measure_cost(rung)))
    )
    # each cheaper rung against the most accurate one
    cheaper = [rung for rung in rungs if _measure_cost(rung) < _measure_cost(most_accurate)]
    best = scores[most_accurate.method]
    deltas = {one.method: paired_delta(one.method, scores[one.method], best) for one in cheaper}
    corrected = holm_correction({name: delta.p_value for name, delta in deltas.items()})
    tests = [
        RungTest(
            **delta.model_dump(),
            p_value_holm=corrected[name],
            significant=corrected[name] < LEVEL,
        )
        for name, delta in deltas.items()
    ]
    # few questions tell little apart, so what is not below may still be of no use
    not_below = {test.method for test in tests if not test.significant}
    candidates = [*(rung for rung in cheaper if rung.method in not_below), most_accurate]
    above = _find_above_baseline(rungs, scores, baseline, baseline_scores)
    readable = [rung for rung in candidates if rung.abstained < 1]
    useful = [rung for rung in readable if rung.method in above]
    enough = min(useful or readable or [most_accurate], key=_measure_cost)
    sentence = _explain_none(rungs, most_accurate, useful, baseline)
    return Recommendation(
        method=enough.method,
        is_enough=sentence is None,
        most_accurate=most_accurate.method,
        tests=tests,
        sentence=sentence or _explain(rungs, enough, most_accurate, tests, baseline),
    )


def _find_above_baseline(
    rungs: Sequence[DoneRung],
    scores: Mapping[str, Runs],
    baseline: Baseline | None,
    baseline_scores: Sequence[float],
) -> set[str]:
    """The rungs that are significantly above the baseline; without one, above MIN_SCORE."""
    if baseline is None:
        return {rung.method for rung in rungs if _get_interval(rung)[0] > MIN_SCORE}
    p_values = {
        rung.method: compare_runs(scores[rung.method], [baseline_scores]).p_value for rung in rungs
    }
    corrected = holm_correction(p_values)
    return {
        rung.method
        for rung in rungs
        if rung.score > baseline.accuracy and corrected[rung.method] < LEVEL
    }


def _get_interval(rung: DoneRung) -> tuple[float, float]:
    """The 95 % interval of the mean score."""
    return rung.ci95 if rung.scorer == DEFAULT_SCORER else rung.score_ci95


def _measure_cost(rung: DoneRung) -> tuple[float, float]:
    """Trained parameters, then tokens per question."""
    return rung.trainable_parameters, rung.tokens


def _explain_none(
    rungs: Sequence[DoneRung],
    most_accurate: DoneRung,
    useful: Sequence[DoneRung],
    baseline: Baseline | None,
) -> str | None:
    """Why no rung is enough; None where one is."""
    if all(rung.abstained == 1 for rung in rungs):
        return "No rung is enough: no answer of any rung could be read."
    if most_accurate.score == 0:
        is_exact = most_accurate.scorer == DEFAULT_SCORER
        what = "no question was answered right" if is_exact else "every answer scores 0"
        return f"No rung is enough: {what}."
    if useful:
        return None
    highest = (
        f"No rung is enough: the highest {_name_measure(most_accurate)}, the "
        f"{_format_score(most_accurate)} of {most_accurate.method}, is not"
    )
    if baseline is None:
        low, high = (100 * bound for bound in _get_interval(most_accurate))
        floor = _format_floor(most_accurate)
        return f"{highest} clearly above {floor} (95 % interval {low:.1f} to {high:.1f})."
    return (
        f"{highest} significantly above "
        f"{_describe_baseline(baseline)} ({_name_test(rungs)} with Holm's correction over "
        f"{_count(rungs)})."
    )


def _explain(
    rungs: Sequence[DoneRung],
    enough: DoneRung,
    most_accurate: DoneRung,
    tests: Sequence[RungTest],
    baseline: Baseline | None,
) -> str:
    """One sentence: which rung is enough, and why."""
    share, measure = _format_score(enough), _name_measure(enough)
    test_name = _name_test(rungs)
    above = f" significantly above {_describe_baseline(baseline)}" if baseline else ""
    if enough is not most_accurate:
        [test] = [test for test in tests if test.method == enough.method]
        low, high = (f"{100 * bound:+.1f}" for bound in test.ci95)
        return (
            f"{enough.method} is enough: with {share} it is the cheapest rung that is"
            f"{above and above + ' and'} not significantly below the highest {measure}, the "
            f"{_format_score(most_accurate)} of {most_accurate.method} (difference "
            f"{100 * test.difference:+.1f} points, 95 % interval {low} to {high}; p = "
            f"{test.p_value_holm:.2g}, {test_name} with Holm's correction over "
            f"{_count(tests)})."
        )
    if tests:
        useless = f", or not{above}" if above else f", or not clearly above {_format_floor(enough)}"
        return (
            f"{enough.method} is enough: its {share} is the highest {measure}, and every cheaper "
            f"rung is significantly below it (p < {LEVEL}, {test_name} with Holm's correction "
            f"over {_count(tests)}){'' if all(test.significant for test in tests) else useless}."
        )
    return f"{enough.method} is enough: its {share} is the highest {measure}, and none is cheaper."


def _name_measure(rung: DoneRung) -> str:
    """What the mean of the scores is."""
    return "accuracy" if rung.scorer == DEFAULT_SCORER else f"mean {rung.scorer}"


def _name_test(rungs: Sequence[DoneRung]) -> str:
    is_mcnemar = all(one.scorer == DEFAULT_SCORER and one.runs is None for one in rungs)
    return "McNemar's test" if is_mcnemar else "paired test"


def _format_score(rung: DoneRung) -> str:
    """The mean score; of verdicts as a share, else as a number from 0 to 100."""
    unit = " %" if rung.scorer == DEFAULT_SCORER else ""
    return f"{100 * rung.score:.1f}{unit}"


def _format_floor(rung: DoneRung) -> str:
    return f"{100 * MIN_SCORE:.0f}{' %' if rung.scorer == DEFAULT_SCORER else ''}"


def _describe_baseline(baseline: Baseline) -> str:
    return (
        f"the {_format_share(baseline.accuracy)} of always answering {quote_text(baseline.label)}"
    )


def _format_share(share: float) -> str:
    return f"{100 * share:.1f} %"


def _count(tests: Sequence[object]) -> str:
    return f"{len(tests)} test{'s' * (len(tests) != 1)}"
