"""Prompt: what stands in front of the question, and how the answer is generated and read."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from adapt_jax.decoders.pretrained import PretrainedDecoder
from adapt_jax.decoders.tokens import common_length
from adapt_jax.prompting.choices import Scoring
from adapt_jax.sampling.decoding import Decoding
from adapt_jax.tasks.templates import Demonstration, Template

LATER = {"stop_at", "scoring"}  # fields that adaptations did not have at first


class CannotRun(Exception):
    """A rung has no place on this task or decoder; the message says why."""


@dataclass(frozen=True)
class Prompt:
    """The wording of an adaptation.

    Attributes:
        reasoning: whether the demonstrations show theirs.
        parser: name in tasks.answers.PARSERS.
        vote: name in prompting.voting.VOTES; with one candidate all rules agree.
        stop_at: see prompting.voting.settled; None draws all candidates.
        scoring: answers are chosen among given ones by their likelihood; None writes them.
    """

    template: Template = Template()
    instruction: str = ""
    demonstrations: tuple[Demonstration, ...] = ()
    reasoning: bool = False
    parser: str = "number"
    decoding: Decoding = field(default_factory=Decoding)
    vote: str = "distinct"
    stop_at: float | None = None
    scoring: Scoring | None = None

    @property
    def text(self) -> str:
        """Everything in front of the question."""
        return self.template.front(self.instruction, self.demonstrations, self.reasoning)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Prompt":
        """What ``to_dict`` gave.

        Raises:
            KeyError: a field is missing, and it is none of LATER.
            TypeError: a field of the template, a demonstration or the decoding is not known.
        """
        names = [field.name for field in fields(cls) if field.name not in LATER - saved.keys()]
        values = {name: saved[name] for name in names}
        shown = (Demonstration(**demonstration) for demonstration in values["demonstrations"])
        values |= {
            "template": Template(**values["template"]),
            "demonstrations": tuple(shown),
            "decoding": Decoding(**values["decoding"]),
        }
        if values.get("scoring") is not None:
            values["scoring"] = Scoring(**values["scoring"])
        return cls(**values)


def tokenize(
    model: PretrainedDecoder, prompt: Prompt, questions: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """Token ids of what stands in front, and of each rendered question behind it.

    Front and question together are exactly the tokens of the joint text: where a tokenizer merges
    across the border, the shared front is cut back to what all questions have in common.

    Args:
        questions: as ``prompt.template.ask`` renders them.
    """
    front = model.encode(prompt.text)
    joint = [model.encode(prompt.text + question) for question in questions]
    shared = min((common_length(front, tokens[:-1]) for tokens in joint), default=len(front))
    return front[:shared], [tokens[shared:] for tokens in joint]
