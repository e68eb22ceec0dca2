"""Results in words: one line per rung, and the sentences under the table."""

from collections.abc import Iterator

from adapt_jax.evaluation.results import (
    Baseline,
    BeforeAfter,
    ComparisonResult,
    DoneRung,
    EvaluationResult,
    RungResult,
    SkippedRung,
)
from adapt_jax.evaluation.scorers import DEFAULT_SCORER
from adapt_jax.utils.display_text import display_text, quote_text

__all__ = [
    "describe_score",
    "describe_evaluation",
    "describe_notes",
    "describe_rung",
    "format_p_value",
    "has_no_answers",
    "is_graded",
    "shows_score",
    "shows_seeds",
]

MAX_NAMED = 12  # numbers of one metric that are printed, such as those of labels


def _format_percent(share: float) -> str:
    """0.725 -> "72.5 %"."""
    return f"{100 * share:.1f} %"


def format_p_value(p_value: float) -> str:
    """Three digits, or "<0.001"."""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def has_no_answers(result: EvaluationResult) -> bool:
    """Whether not one answer could be read, so that an accuracy of 0 % says nothing."""
    return result.abstained == 1


def shows_score(result: ComparisonResult) -> bool:
    """Whether the scorer says more than right and wrong, so that the table shows its mean."""
    return any(isinstance(one, DoneRung) and is_graded(one) for one in result.rungs)


def shows_seeds(result: ComparisonResult) -> bool:
    """Whether a rung was run with several seeds, so that the table shows how they differ."""
    return any(isinstance(one, DoneRung) and len(one.runs or ()) > 1 for one in result.rungs)


def is_graded(result: EvaluationResult) -> bool:
    """Whether the scorer says more than right and wrong."""
    return result.scorer != DEFAULT_SCORER


def describe_score(result: EvaluationResult) -> str:
    """ "72.5 %", of graded scores "31.2", or "no answer" where none could be read."""
    if has_no_answers(result):
        return "no answer"
    return _format_score(result, result.score)


def _format_score(result: EvaluationResult, score: float) -> str:
    return f"{100 * score:.1f}" if is_graded(result) else _format_percent(score)


def _describe_delta(rung: DoneRung) -> str:
    """ "+12.5 points, p <0.001": over the rung below."""
    delta = rung.vs_previous
    if delta is None:
        return "–"
    p_value = format_p_value(delta.p_value)
    sign = "" if p_value.startswith("<") else "= "
    return f"{100 * delta.difference:+.1f} points, p {sign}{p_value}"


def describe_rung(rung: RungResult) -> str:
    """One line about a rung, for a log."""
    if isinstance(rung, SkippedRung):
        return f"{rung.method}: skipped, {display_text(rung.reason)}"
    low, high = (_format_score(rung, bound) for bound in rung.score_ci95)
    line = f"{rung.method}: {describe_score(rung)}"
    if not has_no_answers(rung):
        line += f" (95 % interval {low} to {high})"
        if rung.vs_previous is not None:
            line += f", against {rung.vs_previous.method} {_describe_delta(rung)}"
    return line


def describe_notes(result: ComparisonResult) -> Iterator[str]:
    """The sentences under the table: baseline, what was skipped, warnings, which is enough."""
    if any(isinstance(rung, DoneRung) for rung in result.rungs):
        costs = "seconds and tokens"
        if shows_score(result):
            scorers = {one.scorer for one in result.rungs if isinstance(one, DoneRung)}
            names = ", ".join(sorted(scorers))
            meaning = f"score: mean of {names}, 0 to 100"
            if not shows_seeds(result):
                meaning += "; correct: share that counts as right"
            yield meaning
            costs = "tokens"
        if shows_seeds(result):
            yield "seeds: lowest and highest score; all else is a mean over seeds, and its interval"
            costs = "tokens"
        yield f"{costs}: per question; trained: parameters; p: {_name_tests(result)}"
    if result.baseline is not None:
        yield _describe_baseline(result.baseline)
    for rung in result.rungs:
        if isinstance(rung, SkippedRung):
            yield describe_rung(rung)
            continue
        if len(rung.runs or ()) > 1:
            yield _describe_seeds(rung)
        if rung.accuracy_majority is not None and not is_graded(rung):
            yield _describe_votes(rung)
        if rung.unseen_categories:
            yield _describe_unseen(rung)
        for name in ("corpus_bleu", "corpus_chrf"):
            if name in rung.metrics:
                yield f"{rung.method}: {name} {rung.metrics[name]:.1f}"
        for warning in rung.warnings:
            yield f"{rung.method}: {display_text(warning, None)}"
    if result.recommendation is not None:
        yield result.recommendation.sentence


def _name_tests(result: ComparisonResult) -> str:
    """The tests behind the column of p-values."""
    deltas = [one.vs_previous for one in result.rungs if isinstance(one, DoneRung)]
    tests = {delta.test for delta in deltas if delta is not None}
    names = {
        "mcnemar": "McNemar's exact test",
        "paired_bootstrap": "paired bootstrap",
        "t_over_seeds": "Student's t over questions and seeds",
    }
    return " or ".join(names[test] for test in sorted(tests)) or names["mcnemar"]


def _describe_baseline(baseline: Baseline) -> str:
    """The accuracy of always giving the commonest label, in words."""
    return f"always {quote_text(baseline.label, 40)}: {_format_percent(baseline.accuracy)}"


def _describe_seeds(rung: DoneRung) -> str:
    """The score of each seed, and whose adaptation stands for the rung."""
    runs = rung.runs or []
    each = ", ".join(f"{_format_score(rung, run.score)} (seed {run.seed})" for run in runs)
    line = f"{rung.method}: {each}"
    if rung.adaptation_seed is None:
        return f"{line}; the adaptation is the same"
    [chosen] = [run for run in runs if run.seed == rung.adaptation_seed]
    if chosen.development_score is None:
        why = "the first, as the task has no development split"
    else:
        score = _format_score(rung, chosen.development_score)
        why = f"the best on the development split ({score})"
    return f"{line}; the adaptation is that of seed {chosen.seed}, {why}"


def _describe_votes(rung: DoneRung) -> str:
    """The accuracy of plain majority, and the share that early stopping saved, in words."""
    assert rung.accuracy_majority is not None
    line = f"{rung.method}: {_format_percent(rung.accuracy_majority)} by plain majority"
    if rung.repeat_share is not None and rung.abstained_candidates is not None:
        line += (
            f"; {_format_percent(rung.repeat_share)} of the candidates repeat another's reasoning, "
            f"{_format_percent(rung.abstained_candidates)} give no answer"
        )
    if rung.saved_share:
        line += f"; early stopping saved {_format_percent(rung.saved_share)} of the candidates"
    return line


def _describe_unseen(rung: DoneRung) -> str:
    """Zero-shot scores on kinds of question that the training left out."""

    def describe(name: str, one: BeforeAfter) -> str:
        scorer = "" if one.scorer == "exact" else f" ({display_text(one.scorer, 40)})"
        change = f"{_format_percent(one.before)} → {_format_percent(one.after)}"
        return f"{display_text(name, 40)} {change}{scorer}"

    parts = (describe(name, one) for name, one in (rung.unseen_categories or {}).items())
    return f"{rung.method}: categories it has not seen, before → after: {', '.join(parts)}"


def describe_evaluation(result: EvaluationResult) -> Iterator[str]:
    """Everything that was measured, a line each, then the warnings."""
    low, high = result.ci95
    measured = result.model_dump(
        exclude={"ci95", "score_ci95", "warnings", "metrics"}, exclude_none=True
    )
    names = [name for name in EvaluationResult.model_fields if name in measured]
    for name, value in [(name, measured[name]) for name in names] + [*result.metrics.items()]:
        if isinstance(value, dict):
            first = list(value.items())[:MAX_NAMED]
            shown = ", ".join(f"{display_text(k, 40)}: {one:.4f}" for k, one in first)
            if len(value) > MAX_NAMED:
                shown += f", and {len(value) - MAX_NAMED} more"
        else:
            shown = f"{value:.4f}" if isinstance(value, float) else display_text(str(value))
        yield f"{display_text(name, 40):<20} {shown}"
        if name == "accuracy":
            yield f"{'95 % interval':<20} {low:.4f} to {high:.4f}"
        if name == "score" and is_graded(result):
            low, high = result.score_ci95
            yield f"{'95 % interval':<20} {low:.4f} to {high:.4f} (bootstrap where graded)"
    for warning in result.warnings:
        yield f"warning: {display_text(warning, None)}"
