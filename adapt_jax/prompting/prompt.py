"""Prompt: what is prepended to the question, and how the answer is generated and read."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from adapt_jax.pretrained.chat import get_template, has_chat_template, render_chat
from adapt_jax.pretrained.control_tokens import find_control_tokens, mark_control_tokens
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.tokenization import count_common_prefix
from adapt_jax.prompting.multiple_choice import MultipleChoiceConfig
from adapt_jax.prompting.retrieval import Retrieval
from adapt_jax.prompting.thinking import describe_thinking, find_thinking_remedy
from adapt_jax.prompting.voting import VOTES
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.tasks.answers import PARSERS
from adapt_jax.tasks.task import Task
from adapt_jax.tasks.templates import Demonstration, Template
from adapt_jax.utils.errors import UserError, nearest

__all__ = [
    "MethodNotApplicable",
    "Prompt",
    "check_prompt",
    "hash_prompts",
    "resolve_template",
    "tokenize",
    "tokenize_answer",
]


class MethodNotApplicable(Exception):
    """A method cannot run on this task or decoder; the message says why."""


@dataclass(frozen=True)
class Prompt:
    """The wording of an adaptation, and how its answers are generated and read.

    Attributes:
        reasoning: whether the demonstrations show their reasoning.
        parser: a name in tasks.answers.PARSERS.
        vote: a name in prompting.voting.VOTES; with one candidate all rules agree.
        stop_at: see prompting.voting.should_stop; None draws all candidates.
        multiple_choice: how given choices are scored; None generates the answer.
        retrieval: chooses the demonstrations of each question; None shows ``demonstrations``.
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
    retrieval: Retrieval | None = None

    def __post_init__(self) -> None:
        # examples of a task may be given; what is shown, saved and read again are demonstrations
        shown = tuple(map(Demonstration.of, self.demonstrations))
        object.__setattr__(self, "demonstrations", shown)

    @cached_property
    def text(self) -> str:
        """Everything before the question; of a chat template, see ``messages``."""
        return self.template.prompt_prefix(self.instruction, self.demonstrations, self.reasoning)

    def messages(self, question: str) -> list[dict[str, str]]:
        """The conversation that ends with this question, ``{"role", "content"}`` each."""
        messages = [*self._messages_before, ("user", question)]
        return [{"role": role, "content": content} for role, content in messages]

    @cached_property
    def _messages_before(self) -> list[tuple[str, str]]:
        """Role and content of the messages before a question."""
        template, messages = self.template, list[tuple[str, str]]()
        if instruction := template.format_instruction(self.instruction):
            messages.append(("system", instruction))
        for shown in self.demonstrations:
            messages.append(("user", template.format_example(shown)))
            reasoning = shown.reasoning if self.reasoning else ""
            messages.append(("assistant", template.format_answer(shown.answer, reasoning)))
        return messages

    def render_prompt(self, model: PretrainedDecoder, question: str) -> str:
        """The whole text before the answer; in the decoder's chat template, if ``template.chat``.

        Args:
            question: as ``template.format_question`` gives it.
        """
        if not self.template.chat:
            return self.text + question
        return self._render_chat(model, self.messages(question), add_generation_prompt=True)

    def render_with_answer(self, model: PretrainedDecoder, question: str, answer: str) -> str:
        """The whole text with an answer; in a chat template, with the end of its turn.

        Args:
            answer: as ``template.format_answer`` gives it.
        """
        if not self.template.chat:
            return self.text + question + answer
        messages = [*self.messages(question), {"role": "assistant", "content": answer}]
        return self._render_chat(model, messages, add_generation_prompt=False)

    def _render_chat(
        self, model: PretrainedDecoder, messages: list[dict[str, str]], add_generation_prompt: bool
    ) -> str:
        return render_chat(
            model.tokenizer,
            messages,
            add_generation_prompt=add_generation_prompt,
            template_args=self.template.chat_template_args,
        )

    def encode(self, model: PretrainedDecoder, text: str) -> list[int]:
        """Token ids of a rendered text; a chat template writes BOS itself."""
        return model.encode_chat(text) if self.template.chat else model.encode(text)

    def encode_with_start(self, model: PretrainedDecoder, text: str, start: str) -> list[int]:
        """Token ids of a rendered prompt and the start of an answer to it."""
        if self.template.chat:
            # the template did not see the start: what spells a control token in it stays text
            template = get_template(model.tokenizer) or ""
            control_tokens = find_control_tokens(model.tokenizer, template)
            start = mark_control_tokens(start, control_tokens)
        return self.encode(model, text + start)

    def encode_prefix(self, model: PretrainedDecoder) -> list[int]:
        """Token ids that are the same before every question."""
        if not self.template.chat:
            return self.encode(model, self.text)
        one, other = (self.encode(model, self.render_prompt(model, text)) for text in ("0", "Why?"))
        return one[: count_common_prefix(one, other)]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Prompt":
        """The prompt that ``to_dict`` was called on.

        Raises:
            KeyError: a field is missing.
            TypeError: a field is unknown, or its value is of the wrong type.
            UserError: a parser or vote is not registered, or the template cannot be used.
        """
        if not isinstance(saved, Mapping):
            raise TypeError(f"prompt is {saved!r:.100}")
        names = [field.name for field in fields(cls)]
        for name in saved.keys() - names:
            raise TypeError(f"prompt.{name}: unknown field{nearest(name, names)}")
        values = {name: saved[name] for name in names}
        try:
            TypeAdapter(cls).validate_python(values)
        except ValidationError as problem:
            error = problem.errors()[0]
            place = ".".join(str(part) for part in error["loc"])
            raise TypeError(
                f"prompt.{place}: {error['msg']}, found {error['input']!r:.100}"
            ) from None
        demonstrations = [Demonstration(**one) for one in values["demonstrations"]]
        values |= {
            "template": Template(**values["template"]),
            "demonstrations": tuple(demonstrations),
            "generation_config": GenerationConfig(**values["generation_config"]),
        }
        if values["multiple_choice"] is not None:
            values["multiple_choice"] = MultipleChoiceConfig(**values["multiple_choice"])
        if values["retrieval"] is not None:
            pool = tuple(Demonstration(**one) for one in values["retrieval"]["pool"])
            values["retrieval"] = Retrieval(**{**values["retrieval"], "pool": pool})
        prompt = cls(**values)
        for name, table in (("parser", PARSERS), ("vote", VOTES)):
            if (value := getattr(prompt, name)) not in table:
                raise UserError(
                    f"prompt.{name}: {table.describe_unknown(value[:100])}; where a plugin "
                    "registers it, name the plugin with --plugin"
                )
        return prompt


def tokenize(
    model: PretrainedDecoder,
    prompt: Prompt,
    questions: Sequence[str],
    prompts: Sequence[Prompt] | None = None,
) -> tuple[list[int], list[list[int]]]:
    """Token ids of the prompt prefix, and of each question after it.

    Prefix and question together are exactly the tokens of the joint text: where a tokenizer merges
    across the border, the shared prefix is cut back to what all questions have in common.

    Args:
        questions: as ``prompt.template.format_question`` gives them.
        prompts: the prompt of each question, where they have demonstrations of their own; these
            then belong to the question and not to the shared prefix.
    """
    prompt_prefix = prompt.encode_prefix(model)
    each = [prompt] * len(questions) if prompts is None else prompts
    joint = [
        one.encode(model, one.render_prompt(model, question))
        for one, question in zip(each, questions, strict=True)
    ]
    shared = min(
        (count_common_prefix(prompt_prefix, tokens[:-1]) for tokens in joint),
        default=len(prompt_prefix),
    )
    return prompt_prefix[:shared], [tokens[shared:] for tokens in joint]


def tokenize_answer(
    model: PretrainedDecoder,
    prompt: Prompt,
    question: str,
    answer: str,
    *,
    context: Sequence[int] | None = None,
    name: str = "the question",
) -> list[int]:
    """Token ids of an answer after its prompt; in a chat template, with the end of its turn.

    Prompt and answer are tokenized together, and the prompt has the same tokens as in generation.

    Args:
        question: as ``prompt.template.format_question`` gives it.
        answer: as ``prompt.template.format_answer`` gives it.
        context: the prompt's token ids, if they are known.
        name: what messages call the question, such as "example '12'".

    Raises:
        MethodNotApplicable: the chat template begins an answer with a text, such as ``<think>``,
            that a conversation which has the answer lacks; the message says what to set.
        UserError: the tokenizer merges across the border between question and answer.
    """
    joint = prompt.render_with_answer(model, question, answer)
    tokens = prompt.encode(model, joint)
    if context is None:
        context = prompt.encode(model, prompt.render_prompt(model, question))
    if tokens[: len(context)] == list(context):
        return tokens[len(context) :]
    rendered = prompt.render_prompt(model, question)
    if prompt.template.chat and not joint.startswith(rendered):
        pairs = enumerate(zip(rendered, joint, strict=False))
        border = next((at for at, (one, other) in pairs if one != other), len(joint))
        raise MethodNotApplicable(
            f"the chat template of {model.path} begins an answer with "
            f"{rendered[border:][:60]!r}, which a conversation with the answer lacks: its tokens "
            f"would differ from those of generation; {find_thinking_remedy(model, prompt.template)}"
        )
    if prompt.template.chat and describe_thinking(model, prompt.template):
        raise MethodNotApplicable(
            f"the tokenizer merges what the chat template of {model.path} opens before an answer "
            "with what a conversation with the answer has there; "
            f"{find_thinking_remedy(model, prompt.template)}"
        )
    raise UserError(
        f"{name}: the tokenizer merges the end of the question {question[-8:]!r} with the "
        f"beginning of the answer {answer[:8]!r}; a template's question should end, and its "
        "answer begin, where a token does"
    )


def check_prompt(model: PretrainedDecoder, prompt: Prompt, task: Task) -> None:
    """Checks on an example of the task that its answer can follow the prompt.

    Generation then continues with the tokens that demonstrations and tuning have there. In a chat
    template generation may begin an answer in its own way, but choices that are scored may not.

    Raises:
        MethodNotApplicable, UserError: as ``tokenize_answer``.
    """
    examples = (one for one in (*task.train, *task.development, *task.test) if one.answer)
    example = next(examples, None)
    if example is None or (prompt.template.chat and prompt.multiple_choice is None):
        return
    template = prompt.template
    question = template.format_example(example)
    reasoning = example.reasoning if prompt.reasoning else ""
    answer = template.format_answer(example.answer, reasoning)
    tokenize_answer(model, prompt, question, answer, name=f"example {example.id!r:.100}")


def hash_prompts(prompt_prefix: Sequence[int], questions: Sequence[Sequence[int]]) -> list[str]:
    """The SHA-256 of each prompt's token ids, as little-endian 32-bit integers.

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
    """The task with a template that the decoder can be asked in; ``warnings`` says what is amiss.

    A decoder without a chat template is asked in plain text. A plain template that has no stop
    string is kept and reported: answers then end at EOS or at their limit.
    """
    template, warnings = task.template, list[str]()
    if template.chat and not has_chat_template(model.tokenizer):
        template = Template()
        warnings.append(f"{model.path} has no chat template: questions are asked in the plain one")
    if not template.chat and not template.stop:
        warnings.append(
            "no stop string ends an answer, because the template has no words before {question}: "
            "answers end at EOS or at max_new_tokens; set template.stop"
        )
    if thinking := describe_thinking(model, template):
        warnings.append(thinking)
    if not warnings:
        return task
    return replace(task, template=template, warnings=(*task.warnings, *warnings))
