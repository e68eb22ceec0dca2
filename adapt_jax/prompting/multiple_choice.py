"""Choosing among given answers by their likelihood, instead of writing one.

The decoder's likelihood of each option behind the question (2005.14165, section 2.4), per token
where options differ in length, and against what it would say to a question without content
(contextual calibration, 2102.09690, section 5: W = diag(p)^-1, over the same three inputs).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.tokenization import common_prefix_length
from adapt_jax.sampling.scoring import MultipleChoiceRequest
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.templates import LETTERS, Template
from adapt_jax.utils.errors import UserError

if TYPE_CHECKING:
    from adapt_jax.prompting.prompt import Prompt

CONTENT_FREE = ("N/A", "[MASK]", "")  # asked in place of a question


@dataclass(frozen=True)
class MultipleChoiceConfig:
    """How options are scored.

    Attributes:
        normalised: by the mean log-probability of an option's tokens rather than their sum.
        calibrated: divided by the option's probability behind a question without content.
        choices: of a question that brings none of its own.
        letter: how a choice is named, "a", "(B)" and the like; empty: by its own text.
    """

    normalised: bool = False
    calibrated: bool = False
    choices: tuple[str, ...] = ()
    letter: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))  # JSON brings a list

    @classmethod
    def of(cls, task: Task, normalised: bool, calibrated: bool) -> "MultipleChoiceConfig | None":
        """For a task all of whose questions have choices, otherwise None."""
        examples = [*task.train, *task.development, *task.test]
        sets = {example.choices for example in examples}
        if any(len(choices) < 2 for choices in sets):
            return None
        letter = ""
        if task.parser == "choice":
            named = [e.answer for e in (*task.train, *task.development)] or ["a"]
            if all(re.fullmatch(r"\(?[A-Za-z]\)?", answer) for answer in named):
                letter = named[0]
        return cls(normalised, calibrated, sets.pop() if len(sets) == 1 else (), letter)

    def options(self, choices: Sequence[str]) -> tuple[str, ...]:
        """What the decoder is asked about: each choice's own text, or its letter.

        Raises:
            UserError: for fewer than two choices.
        """
        choices = tuple(choices) or self.choices
        if len(choices) < 2:
            raise UserError("answers are chosen by likelihood: the question needs its choices")
        if not self.letter:
            return choices
        letters = LETTERS.upper() if self.letter.upper() == self.letter else LETTERS
        return tuple(re.sub("[A-Za-z]", letters[i], self.letter) for i in range(len(choices)))

    def probabilities(
        self,
        asked: MultipleChoiceRequest,
        scores: Sequence[float],
        content_free: Sequence[Sequence[float]] = (),
    ) -> list[float]:
        """What each option gets; they sum to one.

        Args:
            scores: log-likelihoods of the options.
            content_free: the same behind each question without content.
        """
        lengths = np.asarray([len(o) if self.normalised else 1 for o in asked.options])
        weights = np.asarray(scores) / lengths
        if content_free:
            free = [_softmax(np.asarray(one) / lengths) for one in content_free]
            weights = weights - np.log(np.mean(free, axis=0))
        return [float(share) for share in _softmax(weights)]


def _softmax(x: np.ndarray) -> np.ndarray:
    shares = np.exp(x - x.max())
    return shares / shares.sum()


def tokenize_options(
    model: PretrainedDecoder, prompt: "Prompt", asked: Sequence[tuple[Example, tuple[str, ...]]]
) -> tuple[tuple[int, ...], list[MultipleChoiceRequest]]:
    """Token ids of what stands in front, and of each question and its options behind it.

    An option is the answer in the template's words, from where the words before it end (" yes."
    of " The answer is yes."). All three together are exactly the tokens of the joint text: where a
    tokenizer merges across a border, the earlier part is cut back to what all have in common.
    """
    template: Template = prompt.template
    lead = template.answer.partition("{answer}")[0].rstrip()
    prompt_prefix = prompt.prompt_prefix(model)
    rows: list[tuple[int, list[list[int]]]] = []
    for example, options in asked:
        text = prompt.render_prompt(
            model, template.format_question(example.question, example.choices)
        )
        joint = [prompt.encode(model, text + template.format_answer(option)) for option in options]
        context = prompt.encode(model, text + lead)
        shared = min(common_prefix_length(context, tokens[:-1]) for tokens in joint)
        rows.append((shared, joint))
    cut = min(
        (common_prefix_length(prompt_prefix, j[0][: n - 1]) for n, j in rows),
        default=len(prompt_prefix),
    )
    questions = [
        MultipleChoiceRequest(
            tuple(joint[0][cut:shared]), tuple(tuple(tokens[shared:]) for tokens in joint)
        )
        for shared, joint in rows
    ]
    return tuple(prompt_prefix[:cut]), questions


def content_free_examples(example: Example) -> list[Example]:
    """The questions that calibrate: the example's own replaced, its choices kept."""
    return [
        Example(f"{example.id}/{number}", text, choices=example.choices)
        for number, text in enumerate(CONTENT_FREE)
    ]
