"""A rung under several seeds: which seeds it runs with, and one result from its runs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapt_jax.comparison.setup import RunInputs
from adapt_jax.evaluation.metrics import BUILT_IN_METRICS
from adapt_jax.evaluation.over_seeds import runs_interval, seed_deviation
from adapt_jax.evaluation.results import BeforeAfter, DoneRung, SeedRun
from adapt_jax.methods.base import Method

__all__ = ["ScoredRun", "SeedPlan", "join_runs", "list_runs", "list_seed_folders", "plan_seeds"]

SEED_FOLDER = re.compile(r"seed-\d+")


@dataclass(frozen=True)
class SeedPlan:
    """The seeds of a rung.

    Attributes:
        seeds: the first one's files lie in the output folder itself.
        chooses: whether each seed has an adaptation of its own, so that one has to be chosen.
    """

    seeds: Sequence[int]
    chooses: bool = False


@dataclass(frozen=True)
class ScoredRun:
    """A run, with the score of each question, and whether it is right (0 or 1)."""

    run: SeedRun
    scores: list[float]
    correct: list[float]


def plan_seeds(
    methods: Mapping[str, Method], inputs: RunInputs, seeds: Sequence[int]
) -> dict[str, SeedPlan]:
    """The seeds of each rung: all of them where it depends on a seed, otherwise the first."""
    if len(seeds) == 1:
        return {name: SeedPlan(seeds) for name in methods}
    plans = {}
    for name, method in methods.items():
        effect = method.seed_effect(inputs.model, inputs.task, seeds)
        depending = seeds[:1] if effect == "none" else seeds
        plans[name] = SeedPlan(depending, chooses=effect == "adaptation")
    return plans


def list_seed_folders(output: Path) -> list[Path]:
    """The folders of further seeds that are there."""
    if not output.is_dir():
        return []
    return sorted(one for one in output.iterdir() if SEED_FOLDER.fullmatch(one.name))


def list_runs(rung: DoneRung, seed: int) -> list[SeedRun]:
    """The runs of a measured rung; a rung of a single seed is its own run."""
    if rung.runs is not None:
        return rung.runs
    names = SeedRun.model_fields.keys() & DoneRung.model_fields.keys()
    return [SeedRun(**{name: getattr(rung, name) for name in names}, seed=seed)]


def join_runs(
    method: str,
    found: Sequence[ScoredRun],
    plan: SeedPlan,
    failures: Mapping[int, str],
) -> DoneRung:
    """One result from the runs of a rung.

    Shares and quantities are means over the seeds. The intervals are of means over questions and
    seeds. Where each seed has an adaptation of its own, the one with the highest mean score on the
    development split stands for the rung, or the first where there is no such split; the test
    split has no part in that choice.

    Args:
        found: one run or more.
        failures: why the rung cannot run under a seed.
    """
    runs = [one.run for one in found]
    first = runs[0]
    if len(plan.seeds) == 1:
        own = first.model_dump(exclude={"seed", "folder", "development_score"})
        return DoneRung(**own, method=method)
    scores = [one.scores for one in found]
    chosen = _choose_run(runs)
    measured = {name: _average([getattr(run, name) for run in runs]) for name in BUILT_IN_METRICS}
    names = [name for name in first.metrics if all(name in run.metrics for run in runs)]
    return DoneRung(
        **measured,
        method=method,
        n=first.n,
        scorer=first.scorer,
        ci95=runs_interval([one.correct for one in found]),
        score_ci95=runs_interval(scores),
        metrics={name: _average([run.metrics[name] for run in runs]) for name in names},
        warnings=_join_warnings(runs, failures),
        identity=chosen.identity,
        trainable_parameters=chosen.trainable_parameters,
        train_seconds=round(_average([run.train_seconds for run in runs]), 3),
        training=chosen.training,
        unseen_categories=_join_unseen(runs),
        compilations=sum(run.compilations for run in runs),
        predictions_crc32=chosen.predictions_crc32,
        runs=list(runs),
        score_deviation=seed_deviation(scores),
        adaptation_seed=chosen.seed if plan.chooses else None,
    )


def _choose_run(runs: Sequence[SeedRun]) -> SeedRun:
    """The run whose adaptation stands for the rung; of equals the first."""
    scores = [run.development_score for run in runs]
    if any(score is None for score in scores):
        return runs[0]
    return max(runs, key=lambda run: run.development_score or 0.0)


def _average(values: Sequence[Any]) -> Any:
    """The mean of numbers, or of each number by name; None where a run has none."""
    if any(value is None for value in values):
        return None
    if isinstance(values[0], Mapping):
        names = [name for name in values[0] if all(name in value for value in values)]
        return {name: _average([value[name] for value in values]) for name in names}
    return float(np.mean(values))


def _join_unseen(runs: Sequence[SeedRun]) -> dict[str, BeforeAfter] | None:
    """The means before and after the trainings, on the kinds that all of them left out."""
    every = [run.unseen_categories for run in runs if run.unseen_categories]
    if len(every) < len(runs):
        return None
    joined = {}
    for name in (kind for kind in every[0] if all(kind in one for one in every)):
        same = [one[name] for one in every]
        means = {
            "before": float(np.mean([one.before for one in same])),
            "after": float(np.mean([one.after for one in same])),
        }
        p_value = same[0].p_value if len(same) == 1 else None
        joined[name] = same[0].model_copy(update=means | {"p_value": p_value})
    return joined


def _join_warnings(runs: Sequence[SeedRun], failures: Mapping[int, str]) -> list[str]:
    """A warning that several seeds have is given once, in the words of the first of them."""
    first_words: dict[str, str] = {}
    seeds: dict[str, list[int]] = {}
    for run in runs:
        for warning in run.warnings:
            kind = re.sub(r"[\d.]+ %|\(the first: .*", "", warning)
            first_words.setdefault(kind, warning)
            seeds.setdefault(kind, []).append(run.seed)
    joined = []
    for kind, warning in first_words.items():
        of, *others = seeds[kind]
        alike = f" (likewise {_name_seeds(others)})" if others else ""
        joined.append(f"seed {of}: {warning}{alike}")
    return [*joined, *(f"seed {seed}: cannot run, {why}" for seed, why in failures.items())]


def _name_seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
