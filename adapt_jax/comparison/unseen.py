"""Kinds of question that a training left out, asked zero-shot before and after it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.evaluation.bootstrap import compare_by_bootstrap
from adapt_jax.evaluation.evaluate import evaluate
from adapt_jax.evaluation.journal import Journal
from adapt_jax.evaluation.metrics import ScoredPrediction
from adapt_jax.evaluation.results import BeforeAfter
from adapt_jax.evaluation.significance import paired_p_value
from adapt_jax.methods.base import MethodResult
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.tasks.task import Task
from adapt_jax.utils.progress import OnProgress

__all__ = ["evaluate_unseen"]

Rows = Sequence[ScoredPrediction]


def evaluate_unseen(
    result: MethodResult,
    model: PretrainedDecoder,
    *,
    seed: int,
    max_concurrent_sequences: int | None,
    on_progress: OnProgress,
    open_journal: Callable[[str], Journal],
) -> dict[str, BeforeAfter]:
    """The mean score on each kind that the training left out, before and after it.

    Each task is asked in its own words and scored by its own scorer.

    Args:
        model: the decoder before the training.
        open_journal: where the answers of this name are written as they come.

    Returns:
        by kind; and for "all" of them together with a p-value: McNemar's test where every score is
        0 or 1, otherwise the paired bootstrap.
    """
    before: list[ScoredPrediction] = []
    after: list[ScoredPrediction] = []
    scorers: dict[str, str] = {}
    adapted = result.adaptation
    for number, task in enumerate(result.held_out):
        prompt = _ask_as(adapted.prompt, task)
        scorers |= {one.category: task.scorer for one in task.test}
        for when, decoder, rows in (
            ("before", model, before),
            ("after", adapted.model, after),
        ):
            evaluation = evaluate(
                Adaptation(adapted.method, prompt, decoder),
                task,
                seed=seed,
                max_concurrent_sequences=max_concurrent_sequences,
                on_progress=on_progress,
                journal=open_journal(f"unseen_{when}_{number}"),
            )
            rows += evaluation.predictions
    all_scorers = ", ".join(dict.fromkeys(scorers.values()))
    found = {"all": _compare(before, after, all_scorers)}
    for kind, scorer in scorers.items():
        pairs = zip(before, after, strict=True)
        chosen = [pair for pair in pairs if pair[0].example.category == kind]
        kept = _compare([one for one, _ in chosen], [one for _, one in chosen], scorer)
        found[kind] = kept.model_copy(update={"p_value": None})
    return found


def _ask_as(prompt: Prompt, task: Task) -> Prompt:
    """The prompt in the words of a task, without demonstrations."""
    return replace(
        prompt,
        template=task.template,
        instruction=task.instruction,
        demonstrations=(),
        parser=task.parser,
        generation_config=replace(prompt.generation_config, stop=task.template.stop),
    )


def _compare(before: Rows, after: Rows, scorer: str) -> BeforeAfter:
    """Mean scores, and the p-value of their difference."""
    if all(one.score == float(one.correct) for one in (*before, *after)):
        p_value = paired_p_value([one.correct for one in before], [one.correct for one in after])
    else:
        gains = [two.score - one.score for one, two in zip(before, after, strict=True)]
        p_value = compare_by_bootstrap(gains).p_value
    return BeforeAfter(
        before=sum(one.score for one in before) / len(before),
        after=sum(one.score for one in after) / len(after),
        p_value=p_value,
        n=len(before),
        scorer=scorer,
    )
