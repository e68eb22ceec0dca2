"""Prompt: what stands in front of the question, and how the answer is generated and read."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from adapt_jax.pretrained.chat import has_chat_template, render_chat
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.tokenization import common_prefix_length
from adapt_jax.prompting.multiple_choice import MultipleChoiceConfig
from adapt_jax.prompting.voting import VOTES
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.tasks.answers import PARSERS
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.templates import Demonstration, Template, fill

LATER = {"stop_at", "multiple_choice"}  # fields that adaptations did not have at first


class MethodNotApplicable(Exception):
    """A rung has no place on this task or decoder; the message says why."""


@dataclass(frozen=True)
class Prompt:
    """The wording of an adaptation.

    Attributes:
        reasoning: whether the demonstrations show theirs.
        parser: name in tasks.answers.PARSERS.
        vote: name in prompting.voting.VOTES; with one candidate all rules agree.
        stop_at: see prompting.voting.should_stop; None draws all candidates.
        multiple_choice: answers are chosen among given ones by their likelihood; None writes them.
    """

    template: Template = Template()
    instruction: str = ""
    demonstrations: tuple[Demonstration, ...] = ()
    reasoning: bool = False
    parser: str = "number"
    generation_config: GenerationConfig = field(default_factory=GenerationConfig)
    vote: str = "distinct"
    stop_at: float | None = None
    multiple_choice: MultipleChoiceConfig | None = None

    @property
    def text(self) -> str:
        """Everything in front of the question."""
        return self.template.prompt_prefix(self.instruction, self.demonstrations, self.reasoning)

    def messages(self, asked: str) -> list[dict[str, str]]:
        """The conversation in which this question is the last turn."""
        template = self.template
        turns = []
        if self.instruction:
            said = fill(template.instruction, {"instruction": self.instruction})
            turns.append(("system", said))
        for shown in self.demonstrations:
            turns.append(("user", template.format_question(shown.question, shown.choices)))
            reasoning = shown.reasoning if self.reasoning else ""
            turns.append(("assistant", template.format_answer(shown.answer, reasoning)))
        return [{"role": role, "content": said} for role, said in [*turns, ("user", asked)]]

    def render_prompt(self, model: PretrainedDecoder, asked: str) -> str:
        """The whole text in front of an answer; in the decoder's chat template, where asked so."""
        if not self.template.chat:
            return self.text + asked
        return render_chat(
            model.tokenizer,
            self.messages(asked),
            add_generation_prompt=True,
            template_args=self.template.chat_template_args,
        )

    def render_with_answer(self, model: PretrainedDecoder, asked: str, response: str) -> str:
        """The same with the answer; with the end of its turn, in a chat template."""
        if not self.template.chat:
            return self.text + asked + response
        turns = [*self.messages(asked), {"role": "assistant", "content": response}]
        return render_chat(
            model.tokenizer,
            turns,
            add_generation_prompt=False,
            template_args=self.template.chat_template_args,
        )

    def encode(self, model: PretrainedDecoder, text: str) -> list[int]:
        """Token ids of a rendered text; a chat template writes BOS itself."""
        return model.encode_chat(text) if self.template.chat else model.encode(text)

    def prompt_prefix(self, model: PretrainedDecoder) -> list[int]:
        """Token ids of what stands in front of every question."""
        if not self.template.chat:
            return self.encode(model, self.text)
        one, other = (self.encode(model, self.render_prompt(model, text)) for text in ("0", "Why?"))
        return one[: common_prefix_length(one, other)]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Prompt":
        """What ``to_dict`` gave.

        Raises:
            KeyError: a field is missing, and it is none of LATER.
            TypeError: a field is not known, or its value of another kind than it should be.
        """
        if not isinstance(saved, Mapping):
            raise TypeError(f"prompt is {saved!r}")
        names = [field.name for field in fields(cls) if field.name not in LATER - saved.keys()]
        values = {name: saved[name] for name in names}
        try:
            TypeAdapter(cls).validate_python(values)
        except ValidationError as problem:
            error = problem.errors()[0]
            place = ".".join(str(part) for part in error["loc"])
            raise TypeError(f"prompt.{place}: {error['msg']}, found {error['input']!r}") from None
        shown = (Demonstration(**demonstration) for demonstration in values["demonstrations"])
        values |= {
            "template": Template(**values["template"]),
            "demonstrations": tuple(shown),
            "generation_config": GenerationConfig(**values["generation_config"]),
        }
        if values.get("multiple_choice") is not None:
            values["multiple_choice"] = MultipleChoiceConfig(**values["multiple_choice"])
        prompt = cls(**values)
        for name, table in (("parser", PARSERS), ("vote", VOTES)):
            if (value := getattr(prompt, name)) not in table:
                raise TypeError(f"prompt.{name}: {value!r} is none of {', '.join(table)}")
        return prompt


def tokenize(
    model: PretrainedDecoder, prompt: Prompt, questions: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """Token ids of what stands in front, and of each rendered question behind it.

    Front and question together are exactly the tokens of the joint text: where a tokenizer merges
    across the border, the shared front is cut back to what all questions have in common.

    Args:
        questions: as ``prompt.template.format_question`` renders them.
    """
    prompt_prefix = prompt.prompt_prefix(model)
    joint = [prompt.encode(model, prompt.render_prompt(model, question)) for question in questions]
    shared = min(
        (common_prefix_length(prompt_prefix, tokens[:-1]) for tokens in joint),
        default=len(prompt_prefix),
    )
    return prompt_prefix[:shared], [tokens[shared:] for tokens in joint]


def hash_prompts(prompt_prefix: Sequence[int], questions: Sequence[Sequence[int]]) -> list[str]:
    """Of each prompt the SHA-256 over its token ids, as little-endian 32-bit integers.

    A soft prompt, which has no token ids, does not count.
    """
    shared = hashlib.sha256(np.asarray(prompt_prefix, "<i4").tobytes())
    hashes = []
    for question in questions:
        whole = shared.copy()
        whole.update(np.asarray(question, "<i4").tobytes())
        hashes.append(whole.hexdigest())
    return hashes


def resolve_template(task: Task, model: PretrainedDecoder) -> Task:
    """The task, asked in plain text (and a note of it) where the decoder has no chat template."""
    if not task.template.chat or has_chat_template(model.tokenizer):
        return task
    note = f"{model.path} has no chat template: questions are asked in the plain one"
    return replace(task, template=Template(), warnings=(*task.warnings, note))
