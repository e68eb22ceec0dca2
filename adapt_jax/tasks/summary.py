"""A summary of a task's data in numbers: the first thing to check before a comparison."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

from pydantic import BaseModel, ConfigDict, Field

from adapt_jax.tasks.example import Example

__all__ = ["DataSummary", "SplitSummary", "count_conflicts", "fold_question", "summarize_split"]

MAX_LABELS = 100  # distinct answers that are counted one by one


class SplitSummary(BaseModel):
    """Numbers of one split. Lengths are in characters."""

    model_config = ConfigDict(frozen=True)

    examples: int
    with_reasoning: int = 0
    duplicates: int = Field(0, description="questions that the split holds already")
    answers: dict[str, int] = Field(
        {}, description="how often each answer occurs, commonest first; empty for many answers"
    )
    distinct_answers: int = 0
    longest_question: int = 0
    longest_question_id: str = ""
    longest_answer: int = 0


class DataSummary(BaseModel):
    """How many rows a task's source held, and how they were used."""

    model_config = ConfigDict(frozen=True)

    rows: int = Field(description="rows that the source gave")
    skipped: int = Field(
        0, description="rows without a question or an answer, or with a choice twice"
    )
    not_kept: int = Field(0, description="rows of a large file that were left out to save memory")
    conflicts: int = Field(0, description="questions that occur with different answers")
    dropped: int = Field(0, description="examples whose question a later split holds too")
    shape: str = Field("", description="the shape of the rows, where no fields were given")
    splits: dict[str, SplitSummary] = {}

    def describe_splits(self) -> list[str]:
        """A short sentence for each split, after the shape that was found.

        What is irregular is in the warnings of the task.
        """
        shape = [self.shape] if self.shape else []
        return shape + [
            _describe(name, split) for name, split in self.splits.items() if split.examples
        ]


def fold_question(example: Example) -> str:
    """A question with its choices and fields, white space and letter case made one."""
    question = _fold(example.question)
    if example.fields:
        question += f" {_fold(' '.join(map(str, example.fields.values())))}"
    return f"{question} {_fold_choices(example.choices)}" if example.choices else question


def _fold(text: str) -> str:
    return " ".join(text.lower().split())


@lru_cache(maxsize=1024)
def _fold_choices(choices: tuple[str, ...]) -> str:
    """The choices of many questions are the same."""
    return _fold(" ".join(choices))


def summarize_split(examples: Sequence[Example]) -> SplitSummary:
    """The numbers of a split."""
    answers = Counter(example.answer for example in examples)
    longest = max(examples, key=lambda one: len(one.question), default=Example("", ""))
    return SplitSummary(
        examples=len(examples),
        with_reasoning=sum(bool(example.reasoning) for example in examples),
        duplicates=len(examples) - len({fold_question(example) for example in examples}),
        answers=dict(answers.most_common()) if len(answers) <= MAX_LABELS else {},
        distinct_answers=len(answers),
        longest_question=len(longest.question),
        longest_question_id=longest.id,
        longest_answer=max((len(example.answer) for example in examples), default=0),
    )


def count_conflicts(splits: Mapping[str, Sequence[Example]]) -> int:
    """Questions that occur more than once, with different answers."""
    answers: dict[str, set[str]] = {}
    for examples in splits.values():
        for example in examples:
            answers.setdefault(fold_question(example), set()).add(example.answer)
    return sum(len(found) > 1 for found in answers.values())


def _describe(name: str, split: SplitSummary) -> str:
    line = f"{name}: {split.examples} examples"
    if 0 < split.distinct_answers <= 10 and split.distinct_answers < split.examples:
        counts = (f"{answer!r:.20} {count}" for answer, count in split.answers.items())
        line += f" ({', '.join(counts)})"
    line += f", longest question {split.longest_question:,} characters"
    if split.duplicates:
        plural = "" if split.duplicates == 1 else "s"
        line += f", {split.duplicates} question{plural} twice"
    return line
