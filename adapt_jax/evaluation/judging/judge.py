"""Is A better than B? The paired comparison of recorded results."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from adapt_jax.evaluation.bootstrap import (
    bootstrap_interval,
    clustered_standard_error,
    compare_by_bootstrap,
    seed_interval,
)
from adapt_jax.evaluation.judging.pairing import (
    Pairing,
    Question,
    Side,
    gather_side,
    pair_sides,
)
from adapt_jax.evaluation.judging.reading import expand_comparison, read_runs
from adapt_jax.evaluation.judging.results import JudgedPair, JudgedSide, Judgement
from adapt_jax.evaluation.judging.scored import ReadOptions
from adapt_jax.evaluation.judging.wording import describe_pair
from adapt_jax.evaluation.over_seeds import compare_runs, runs_interval, seed_variance
from adapt_jax.evaluation.power import detectable_difference, questions_needed
from adapt_jax.evaluation.significance import (
    PairedTest,
    compare_paired,
    holm_correction,
    wilson_interval,
)
from adapt_jax.utils.errors import UserError

__all__ = ["LEVEL", "Judged", "judge"]

LEVEL = 0.05  # of significance, over all comparisons together
MIN_PAIRED_SHARE = 0.5  # of the smaller side; with fewer a note says so


@dataclass(frozen=True)
class Judged:
    """A judgement, and the pairs of questions of each comparison that it rests on."""

    result: Judgement
    pairings: Sequence[Pairing]


def judge(
    sides: Sequence[str],
    *,
    metrics: Sequence[str] = (),
    filter: str | None = None,
    id_field: str | None = None,
    cluster: str | None = None,
    seed: int = 0,
) -> Judged:
    """Compares the first side with each of the others, on the questions that both answered.

    Verdicts (0 and 1) are tested by McNemar's exact test, graded scores and clustered questions by
    a paired bootstrap, several runs by Student's t over questions and runs. The p-values of several
    comparisons are corrected by Holm's procedure, at the level 0.05.

    Args:
        sides: paths, patterns, or paths joined by commas (several runs); a lone comparison folder
            stands for all of its rungs, the recommended one first.
        metrics: names of scores; of each file the first one that it has is taken.
        filter: of lm-evaluation-harness, such as ``strict-match``; by default the first.
        id_field: the column of the ids in tables.
        cluster: the field that says which questions belong together, such as a passage.
        seed: of the bootstrap.

    Raises:
        UserError: a file cannot be read, or two sides share no question.
    """
    if len(sides) == 1:
        sides = expand_comparison(sides[0]) or sides
    if len(sides) < 2:
        raise UserError(f"judge: expected two sides or more, found {len(sides)}")
    options = ReadOptions(tuple(metrics), filter, id_field, cluster)
    gathered = [gather_side(name, read_runs(name, options)) for name in sides]
    first, *others = gathered
    pairings = [pair_sides(first, other) for other in others]
    pairs = [
        _compare(first, other, pairing, cluster, seed, LEVEL / len(others))
        for other, pairing in zip(others, pairings, strict=True)
    ]
    corrected = holm_correction({str(n): pair.p_value for n, pair in enumerate(pairs)})
    result = Judgement(
        level=LEVEL,
        sides=[_describe_side(side, seed) for side in gathered],
        comparisons=[_decide(pair, corrected[str(n)]) for n, pair in enumerate(pairs)],
        notes=[
            *dict.fromkeys(note for side in gathered for run in side.runs for note in run.notes),
            *(note for pair in pairs for note in _list_notes(pair)),
        ],
    )
    return Judged(result, pairings)


def _describe_side(side: Side, seed: int) -> JudgedSide:
    scores = side.scores
    by_run = _list_runs(side.questions)
    if side.is_verdict and not side.run_means:
        interval = wilson_interval(round(sum(scores)), len(scores))
    elif len(by_run) > 1:
        interval = runs_interval(by_run)
    else:
        interval = bootstrap_interval(scores, seed=seed)
    return JudgedSide(
        name=side.name,
        kind=side.runs[0].kind,
        metric=side.runs[0].metric,
        n=len(scores),
        unscored=sum(run.unscored for run in side.runs),
        mean=float(np.mean(scores)),
        ci95=interval,
        run_means=list(side.run_means),
        ci95_over_runs=seed_interval(side.run_means),
    )


def _compare(
    first: Side, second: Side, pairing: Pairing, cluster: str | None, seed: int, level: float
) -> JudgedPair:
    """One comparison, not yet corrected for the number of them."""
    scores = np.array([[one.score, other.score] for one, other in pairing.pairs])
    differences = scores[:, 0] - scores[:, 1]
    above, below = int((differences > 0).sum()), int((differences < 0).sum())
    clusters = _find_clusters(pairing, cluster)
    has_runs = bool(first.run_means or second.run_means)
    tested, fixed = _test(pairing, clusters, has_runs, seed)
    error = math.hypot(clustered_standard_error(differences.tolist(), clusters), math.sqrt(fixed))
    variance, mean_square = _measure_spread(differences, error, clusters)
    return JudgedPair(
        first=first.name,
        second=second.name,
        n=len(differences),
        paired_by=pairing.by,
        only_first=pairing.only_first,
        only_second=pairing.only_second,
        mean_first=float(scores[:, 0].mean()),
        mean_second=float(scores[:, 1].mean()),
        first_is_better=above,
        second_is_better=below,
        difference=tested.difference,
        ci95=(tested.low, tested.high),
        standard_error=error if math.isfinite(error) else None,
        test=tested.test if clusters is None else "cluster_bootstrap",
        clusters=len(set(clusters)) if clusters else None,
        p_value=tested.p_value,
        p_value_holm=tested.p_value,
        better=None,
        questions_needed=questions_needed(
            tested.difference, variance, level=level, fixed_variance=fixed
        ),
        more_questions=None,
        detectable_difference=detectable_difference(mean_square, len(differences), level=level)
        if mean_square
        else None,
        sentence="",
    )


def _test(
    pairing: Pairing, clusters: Sequence[Hashable] | None, has_runs: bool, seed: int
) -> tuple[PairedTest, float]:
    """The paired test, and the variance that more questions would not lower."""
    by_run = [_list_runs([pair[side] for pair in pairing.pairs]) for side in (0, 1)]
    scores = [[question.score for question in side] for side in zip(*pairing.pairs, strict=True)]
    if clusters is None and len(by_run[0]) + len(by_run[1]) > 2:
        return compare_runs(*by_run), seed_variance(*by_run)
    if clusters is None and not has_runs:
        return compare_paired(*scores, seed=seed), 0.0
    differences = [one - other for one, other in zip(*scores, strict=True)]
    found = compare_by_bootstrap(differences, clusters, seed=seed)
    tested = PairedTest(found.difference, found.low, found.high, found.p_value, "paired_bootstrap")
    return tested, 0.0


def _list_runs(questions: Sequence[Question]) -> list[list[float]]:
    """The score of each question in each run; of their means where a run lacks a question."""
    by_run = [question.by_run for question in questions]
    if not all(by_run):
        return [[question.score for question in questions]]
    return [list(run) for run in zip(*by_run, strict=True)]


def _measure_spread(
    differences: np.ndarray, error: float, clusters: Sequence[Hashable] | None
) -> tuple[float, float]:
    """The variance of the differences, and their mean square, both times the effect of clusters."""
    variance = float(differences.var())
    effect = 1.0
    if clusters is not None and variance and math.isfinite(error):
        effect = error**2 * len(differences) / variance
    return variance * effect, float((differences**2).mean()) * effect


def _decide(pair: JudgedPair, p_value_holm: float) -> JudgedPair:
    """The comparison with its corrected p-value, and what follows from it."""
    is_settled = p_value_holm < LEVEL
    better = None
    if is_settled:
        better = "first" if pair.difference > 0 else "second"
    more = None
    if is_settled:
        more = 0
    elif pair.questions_needed is not None:
        more = max(1, pair.questions_needed - pair.n)
    decided = pair.model_copy(
        update={"p_value_holm": p_value_holm, "better": better, "more_questions": more}
    )
    return decided.model_copy(update={"sentence": describe_pair(decided)})


def _find_clusters(pairing: Pairing, name: str | None) -> list[str] | None:
    """The cluster of each question, from whichever side says it.

    Raises:
        UserError: a question has none.
    """
    if name is None:
        return None

    def find(pair: tuple[Question, Question]) -> str:
        for question in pair:
            if question.first.cluster is not None:
                return question.first.cluster
        raise UserError(f"{pair[0].first.where}: no field {name!r} to cluster by")

    return [find(pair) for pair in pairing.pairs]


def _list_notes(pair: JudgedPair) -> list[str]:
    """What the reader should know about the questions of a comparison."""
    smaller = pair.n + min(pair.only_first, pair.only_second)
    if pair.n < MIN_PAIRED_SHARE * smaller:
        return [f"{pair.first} and {pair.second}: only {pair.n} of {smaller} questions are in both"]
    return []
