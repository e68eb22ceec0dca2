"""Typed results of ``adapt-jax judge``: what ``--json`` prints."""

from typing import Literal

from pydantic import Field

from adapt_jax.evaluation.results import Count, PositiveCount, Result, Share

__all__ = ["FORMAT", "JudgedPair", "JudgedSide", "Judgement"]

FORMAT: Literal[1] = 1
Interval = tuple[float, float]


class JudgedSide(Result):
    """One side, on all of its own questions."""

    name: str = Field(description="as it was given")
    kind: str = Field(description="what wrote it, such as lm-eval")
    metric: str
    n: PositiveCount = Field(description="questions with a score")
    unscored: Count = Field(description="answers without a score, which are left out")
    mean: float = Field(description="mean score; of several runs, of each question's mean")
    ci95: Interval = Field(
        description="95 % interval: Wilson's of verdicts, over runs and questions, or bootstrap"
    )
    run_means: list[float] = Field(
        default=[], description="mean of each run or epoch, where there are several"
    )
    ci95_over_runs: Interval | None = Field(
        None, description="95 % interval of the mean over runs, by Student's t"
    )


class JudgedPair(Result):
    """The first side against another one, on the questions of both."""

    first: str
    second: str
    n: PositiveCount = Field(description="questions that both have")
    paired_by: Literal["id", "record", "question"]
    only_first: Count = Field(description="questions that only the first side has")
    only_second: Count
    mean_first: float = Field(description="on the questions of both")
    mean_second: float
    first_is_better: Count = Field(description="questions with a higher score of the first side")
    second_is_better: Count
    difference: float = Field(description="mean of the first minus mean of the second")
    ci95: Interval = Field(
        description="95 % interval of the difference: Newcombe 1998 (method 10) for verdicts, else "
        "bootstrap"
    )
    standard_error: float | None = Field(description="of the difference, clustered with clusters")
    test: Literal["mcnemar", "paired_bootstrap", "t_over_seeds", "cluster_bootstrap"]
    clusters: PositiveCount | None = Field(None, description="how many, with --cluster")
    p_value: Share
    p_value_holm: Share = Field(description="corrected for the number of comparisons (Holm 1979)")
    better: Literal["first", "second"] | None = Field(
        description="which is better, where the corrected p-value is below 0.05"
    )
    questions_needed: PositiveCount | None = Field(
        description="questions that show the observed difference with 80 % power; null where none "
        "was observed, or where the runs of a side differ too much for any number of questions"
    )
    more_questions: Count | None = Field(
        description="how many more than now; 0 where it is settled"
    )
    detectable_difference: float | None = Field(
        description="the difference that these questions show with 80 % power"
    )
    sentence: str


class Judgement(Result):
    """The first side against each of the others."""

    format: Literal[1] = FORMAT
    level: Share = Field(description="of significance, over all comparisons together")
    sides: list[JudgedSide]
    comparisons: list[JudgedPair]
    notes: list[str] = []
