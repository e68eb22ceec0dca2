"""Choosing among given answers by their likelihood, instead of generating one.

The decoder's likelihood of each choice after the question (2005.14165, section 2.4), per token
where choices differ in length, and relative to its likelihood after questions without content
(contextual calibration, 2102.09690, section 5: W = diag(p)^-1, over the same three inputs). With
the empty question alone for these it is the domain-conditional PMI of 2104.08315, section 3:
log P(choice | question) - log P(choice | the template without a question).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.tokenization import count_common_prefix
from adapt_jax.sampling.likelihood import MultipleChoiceRequest
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.language.letters import LETTERS
from adapt_jax.tasks.task import Task
from adapt_jax.utils.errors import UserError

if TYPE_CHECKING:
    from adapt_jax.prompting.prompt import Prompt

__all__ = [
    "CONTENT_FREE",
    "MultipleChoiceConfig",
    "content_free_examples",
    "tokenize_choices",
]

CONTENT_FREE = ("N/A", "[MASK]", "")  # the questions without content of 2102.09690


@dataclass(frozen=True)
class MultipleChoiceConfig:
    """How the choices of a question are scored.

    Attributes:
        length_normalised: by the mean log-probability of a choice's tokens, instead of the sum.
        calibrated: divided by the choice's probability after questions without content.
        choices: of questions that have none of their own.
        letter: how the first choices are named, such as "a" or "(A)"; empty: by their texts.
        content_free: the questions without content; at least one where ``calibrated``.
    """

    length_normalised: bool = False
    calibrated: bool = False
    choices: tuple[str, ...] = ()
    letter: str = ""
    content_free: tuple[str, ...] = CONTENT_FREE

    def __post_init__(self) -> None:
        for name in ("choices", "content_free"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON gives a list
        if self.calibrated and not self.content_free:
            raise UserError("multiple_choice.content_free: is empty; expected a question or more")

    @classmethod
    def of(
        cls,
        task: Task,
        length_normalised: bool,
        calibrated: bool,
        content_free: Sequence[str] = CONTENT_FREE,
    ) -> "MultipleChoiceConfig | None":
        """For a task all of whose questions have two choices or more; otherwise None."""
        examples = [*task.train, *task.development, *task.test]
        sets = {example.choices for example in examples}
        if any(len(choices) < 2 for choices in sets):
            return None
        letter = ""
        if task.parser == "choice":
            golds = [e.answer for e in (*task.train, *task.development)] or ["a"]
            if all(re.fullmatch(r"\(?[A-Za-z]\)?", gold) for gold in golds):
                letter = golds[0]
        choices = sets.pop() if len(sets) == 1 else ()
        return cls(length_normalised, calibrated, choices, letter, tuple(content_free))

    def list_answers(self, choices: Sequence[str]) -> tuple[str, ...]:
        """The answer that stands for each choice: its own text, or its letter.

        Raises:
            UserError: there are fewer than two choices, or more than letters.
        """
        choices = tuple(choices) or self.choices
        if len(choices) < 2:
            raise UserError("answers are chosen by likelihood: the question needs its choices")
        if not self.letter:
            return choices
        if len(choices) > len(LETTERS):
            raise UserError(
                f"{len(choices)} choices are more than letters: set the answer parser to 'label'"
            )
        letters = LETTERS.upper() if self.letter.upper() == self.letter else LETTERS
        return tuple(re.sub("[A-Za-z]", letters[i], self.letter) for i in range(len(choices)))

    def compute_probabilities(
        self,
        request: MultipleChoiceRequest,
        scores: Sequence[float],
        content_free: Sequence[Sequence[float]] = (),
    ) -> list[float]:
        """The probability of each choice; they sum to one.

        Args:
            scores: the log-likelihood of each choice.
            content_free: the same after each question without content.
        """
        from scipy.special import log_softmax, logsumexp, softmax  # takes a moment to import

        lengths = np.ones(len(request.continuations))
        if self.length_normalised:
            lengths = np.asarray([len(one) for one in request.continuations])
        weights = np.asarray(scores) / lengths
        if content_free:
            # in logarithms: the probability of a long choice is no float above 0
            free = log_softmax(np.asarray(content_free) / lengths, axis=1)
            weights = weights - logsumexp(free, axis=0)
        return [float(share) for share in softmax(weights)]


def tokenize_choices(
    model: PretrainedDecoder,
    prompt: "Prompt",
    questions: Sequence[tuple[Example, Sequence[str]]],
    prompts: "Sequence[Prompt] | None" = None,
) -> tuple[tuple[int, ...], list[MultipleChoiceRequest]]:
    """Token ids of the prompt prefix, and of each question and its choices after it.

    A choice is the answer in the template's words, from where the words before it end (" yes." of
    " The answer is yes."). Prefix, question and choice together are exactly the tokens of the joint
    text: where a tokenizer merges across a border, the earlier part is cut back to what all have in
    common.

    Args:
        questions: each with the answers that represent its choices.
        prompts: the prompt of each question, where they have demonstrations of their own.
    """
    template = prompt.template
    lead = template.answer_opening().rstrip()
    prompt_prefix = prompt.encode_prefix(model)
    tokenized: list[tuple[int, list[list[int]]]] = []
    each = [prompt] * len(questions) if prompts is None else prompts
    for own, (example, answers) in zip(each, questions, strict=True):
        text = own.render_prompt(model, template.format_example(example))
        joint = [own.encode_with_start(model, text, template.format_answer(one)) for one in answers]
        context = own.encode_with_start(model, text, lead)
        border = min(count_common_prefix(context, tokens[:-1]) for tokens in joint)
        tokenized.append((border, joint))
    cut = min(
        (count_common_prefix(prompt_prefix, joint[0][: border - 1]) for border, joint in tokenized),
        default=len(prompt_prefix),
    )
    requests = [
        MultipleChoiceRequest(
            tuple(joint[0][cut:border]), tuple(tuple(tokens[border:]) for tokens in joint)
        )
        for border, joint in tokenized
    ]
    return tuple(prompt_prefix[:cut]), requests


def content_free_examples(
    example: Example, questions: Sequence[str] = CONTENT_FREE
) -> list[Example]:
    """The questions that calibrate: those without content, with the choices of the example."""
    return [
        Example(
            f"{example.id}/{number}",
            text,
            choices=example.choices,
            fields=example.fields and _remove_content(example.fields, text),
        )
        for number, text in enumerate(questions)
    ]


def _remove_content(fields: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The fields of a row, with this text for each text."""
    return {name: text if isinstance(one, str) else one for name, one in fields.items()}
