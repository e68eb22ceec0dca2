"""Typed results: the content of ``evaluation.json`` and ``comparison.json``.

The JSON schemas of both files are published in ``docs/schemas``, written by
``adapt_jax.evaluation.schemas``. A field that does not apply is null.
"""

from typing import Annotated, Literal

from pydantic import (
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)

from adapt_jax.tasks.summary import DataSummary
from adapt_jax.utils.config import Strict

__all__ = [
    "FORMAT",
    "Baseline",
    "BeforeAfter",
    "ComparisonResult",
    "DoneRung",
    "EvaluationFile",
    "EvaluationResult",
    "PairedDelta",
    "Recommendation",
    "RungResult",
    "RungTest",
    "SeedRun",
    "SkippedRung",
]

FORMAT: Literal[1] = 1  # of both files; raised when a field changes its name or its meaning

MAX_COUNT = 10**15  # more than anyone measures; beyond it a sum may no longer be finite
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
PositiveCount = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Quantity = Annotated[float, Field(ge=0, le=MAX_COUNT)]
Share = Annotated[float, Field(ge=0, le=1)]
Difference = Annotated[float, Field(ge=-1, le=1)]
MethodName = Annotated[str, Field(pattern=r"^[^/\\.][^/\\]*$")]  # also the name of a folder
AtK = dict[str, Share]  # by the number of candidates that vote


def _is_none(value: object) -> bool:
    return value is None


class Result(Strict):
    """A part of a result; numbers are finite."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class EvaluationResult(Result):
    """All measurements on the questions of one split."""

    accuracy: Share = Field(description="share of the questions answered right")
    ci95: tuple[Share, Share] = Field(description="Wilson's 95 % interval of the accuracy")
    n: PositiveCount = Field(description="how many questions were asked")
    scorer: str = Field(description="name of the scorer that judges each answer")
    score: Share = Field(description="mean of the scorer's values")
    score_ci95: tuple[Share, Share] = Field(
        description="95 % interval of that mean: Wilson's of values 0 and 1, else bootstrap"
    )
    accuracy_majority: Share | None = Field(
        None, description="accuracy of the same candidates under plain majority (2203.11171)"
    )
    maj_at_k: AtK | None = Field(
        None, description="expected accuracy of a majority of k of the candidates"
    )
    distinct_at_k: AtK | None = Field(
        None, description="the same where repeats of a reasoning are counted once"
    )
    agreement: Share | None = Field(
        None, description="mean share of the vote that the winning answer gets"
    )
    saved_share: Share | None = Field(
        None, description="share of the candidates that early stopping did without"
    )
    repeat_share: Share | None = Field(
        None, description="share of the candidates that repeat a reasoning for the same answer"
    )
    abstained: Share = Field(description="share of the questions without any readable answer")
    abstained_candidates: Share | None = Field(
        None, description="share of the candidates without a readable answer"
    )
    cut_off: Share = Field(
        description="share of the candidates that reached max_new_tokens before an answer"
    )
    no_stop: Share = Field(
        description="share of the candidates that answer, then run on to max_new_tokens"
    )
    unreadable: Share = Field(
        description="share of the candidates that end by themselves without a readable answer"
    )
    too_long: Share = Field(
        description="share of the questions that do not fit the context; they count as wrong"
    )
    prompt_tokens: Quantity = Field(
        description="tokens before the answer, per question; a shared prefix counts in full"
    )
    generated_tokens: Quantity = Field(
        description="tokens generated per question, summed over its candidates"
    )
    seconds: Quantity = Field(
        description="wall-clock seconds per question, without those of compiling"
    )
    metrics: dict[str, float | dict[str, float]] = Field(
        default={}, description="further metrics by name, those of extensions too"
    )
    warnings: list[str] = Field(
        default=[], description="what the reader should know about the answers, in sentences"
    )

    @model_validator(mode="after")
    def _check_interval(self) -> "EvaluationResult":
        low, high = self.ci95
        if not low - 1e-6 <= self.accuracy <= high + 1e-6:
            raise ValueError(f"ci95: {low} to {high} does not hold the accuracy {self.accuracy}")
        low, high = self.score_ci95
        if not low - 1e-6 <= self.score <= high + 1e-6:
            raise ValueError(f"score_ci95: {low} to {high} does not hold the score {self.score}")
        return self


class PairedDelta(Result):
    """One rung against another on the same questions."""

    method: str = Field(description="the other rung")
    difference: Difference = Field(description="mean score minus that of the other rung")
    ci95: tuple[Difference, Difference] = Field(
        description="95 % interval of the difference: Newcombe 1998 (method 10), or bootstrap"
    )
    p_value: Share = Field(description="two-sided, by `test`")
    test: Literal["mcnemar", "paired_bootstrap", "t_over_seeds"] = Field(
        "mcnemar",
        description="exact McNemar test where scores are 0 or 1, else paired bootstrap; over "
        "several seeds Student's t with the variance of questions and seeds",
    )


class BeforeAfter(Result):
    """The zero-shot score before and after a training."""

    before: Share = Field(description="mean of the scorer's values; of `exact` the accuracy")
    after: Share
    n: Count = Field(0, description="how many questions were asked")
    scorer: str = Field("exact", description="names of the scorers")
    p_value: Share | None = Field(
        None,
        description="for `all`, two-sided: exact McNemar test where scores are 0 or 1, otherwise a "
        "paired bootstrap",
    )


class _RungHead(Result):
    """The first fields of every rung."""

    method: MethodName
    status: Literal["done", "skipped"]
    crc32: Count | None = Field(None, description="checksum of the rung's other fields")


class _Run(EvaluationResult):
    """What was measured, what it depends on, and what it cost."""

    identity: str = Field(description="16 hex digits over all that the result depends on")
    trainable_parameters: Count
    train_seconds: Quantity
    training: dict[str, JsonValue] = Field(
        default={}, description="what the method reports about its training"
    )
    unseen_categories: dict[str, BeforeAfter] | None = Field(
        None, description="kinds of question that the training left out, and `all`"
    )
    compilations: Count = Field(0, description="functions that were compiled")
    predictions_crc32: Count | None = Field(
        None, description="checksum of predictions/METHOD.jsonl"
    )


class SeedRun(_Run):
    """A rung under one seed."""

    seed: Count
    folder: Annotated[str, Field(pattern=r"^(\.|seed-\d+)$")] = Field(
        ".", description="where predictions/METHOD.jsonl and adaptations/METHOD lie"
    )
    development_score: Share | None = Field(
        None,
        description="mean score on the development split, where the choice among the adaptations "
        "of several seeds needs it",
    )


class DoneRung(_Run, _RungHead):
    """A rung that was measured.

    Of several seeds each share and quantity is the mean over them, and the intervals are those of
    a mean over questions and seeds.
    """

    status: Literal["done"] = "done"
    reason: None = None
    p_value_vs_previous: Share | None = Field(
        None, description="exact McNemar test against the rung below"
    )
    vs_previous: PairedDelta | None = Field(None, description="against the rung below")
    vs_reference: PairedDelta | None = Field(
        None, description="against the reference rung: `reference` of the configuration, by "
        "default the highest rung below that trains nothing"
    )  # fmt: skip
    runs: list[SeedRun] | None = Field(
        None, description="each seed's own run, of a comparison with `seeds`", exclude_if=_is_none
    )
    score_deviation: Quantity | None = Field(
        None, description="standard deviation of the score over seeds", exclude_if=_is_none
    )
    adaptation_seed: Count | None = Field(
        None,
        description="the seed whose adaptation stands for the rung, where each seed has its own: "
        "that with the highest development score, or the first",
        exclude_if=_is_none,
    )

    @property
    def tokens(self) -> float:
        """Tokens per question, prompt and generated."""
        return self.prompt_tokens + self.generated_tokens

    @property
    def folder(self) -> str:
        """Where, in the output folder, its adaptation and predictions lie."""
        for run in self.runs or ():
            if run.seed == self.adaptation_seed:
                return run.folder
        return "."


class SkippedRung(_RungHead):
    """A rung that could not run on this task or decoder; it has no measurements."""

    status: Literal["skipped"] = "skipped"
    reason: str = Field(description="why it could not run")
    accuracy: None = None
    ci95: None = None
    n: None = None
    p_value_vs_previous: None = None
    prompt_tokens: None = None
    generated_tokens: None = None
    seconds: None = None
    trainable_parameters: None = None
    train_seconds: None = None


RungResult = Annotated[DoneRung | SkippedRung, Field(discriminator="status")]


class Baseline(Result):
    """The accuracy of always giving the commonest label, without reading the question."""

    label: str
    accuracy: Share = Field(description="mean score of that answer; of `exact` the accuracy")
    n: PositiveCount


class RungTest(PairedDelta):
    """A cheaper rung (``method``) against the most accurate one."""

    p_value_holm: Share = Field(description="corrected for the number of tests (Holm 1979)")
    significant: bool = Field(description="whether the corrected p-value is below 0.05")


class Recommendation(Result):
    """Which rung is enough: the cheapest that is not significantly below the most accurate one.

    Cheaper is a rung that trains fewer parameters; of equals, one that spends fewer tokens on a
    question.
    """

    method: str = Field(description="the rung that `ask`, `predict` and `export` take")
    is_enough: bool = Field(description="whether it is enough; False where no rung is")
    most_accurate: str = Field(description="the rung with the highest accuracy")
    tests: list[RungTest] = Field(description="each cheaper rung against the most accurate one")
    sentence: str = Field(description="which rung is enough, and why")


class ComparisonResult(Result):
    """A climbed ladder, as written to ``comparison.json``."""

    format: Literal[1] = FORMAT
    task: str
    decoder: str
    seed: Count
    seeds: list[Count] | None = Field(
        None, description="where several were asked for", exclude_if=_is_none
    )
    best: MethodName | None = Field(
        None, description="the rung that is enough; ask, predict and export take it"
    )
    recommendation: Recommendation | None = None
    baseline: Baseline | None = None
    warnings: list[str] = Field(default=[], description="what the task left out, and why")
    task_summary: DataSummary | None = Field(
        None, description="what was read: rows, labels, the longest question"
    )
    show_prompt: str = Field("", description="how to print the text that the decoder reads")
    rungs: list[RungResult] = []
    crc32: Count | None = Field(None, description="checksum of all other fields")

    @model_validator(mode="after")
    def _check_best(self) -> "ComparisonResult":
        done = [rung.method for rung in self.rungs if isinstance(rung, DoneRung)]
        if self.best is not None and self.best not in done:
            raise ValueError(f"best is {self.best!r}, which is no rung that was measured")
        return self


class _EvaluationHead(Result):
    """The first fields of ``evaluation.json``."""

    format: Literal[1] = FORMAT
    task: str
    method: str
    seed: Count
    baseline: Baseline | None = None


class EvaluationFile(EvaluationResult, _EvaluationHead):
    """One saved adaptation on the test split of a task, as written to ``evaluation.json``."""
