"""Template: how an instruction, a question and an answer become the text a decoder reads."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapt_jax.tasks.example import Example
from adapt_jax.tasks.language.letters import LETTERS
from adapt_jax.tasks.language.negation import is_negated
from adapt_jax.tasks.templates.wordings import (
    ROW,
    check_wording,
    is_jinja,
    list_placeholders,
    opening_of,
    render_wording,
    text_around_answer,
)
from adapt_jax.utils.errors import UserError

__all__ = ["CHAT", "TEMPLATES", "Demonstration", "Template"]

MAX_MARKERS = 20  # of a text, that are looked at
RESERVED_ARGS = {"messages", "add_generation_prompt"}  # of a chat template
ANSWERS = {"answer", "reasoning"}  # names that a question must not have
# By key of Template, the names that its wording may have and those that it must have.
NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "instruction": (("instruction",), ()),
    "choice": (("letter", "choice"), ()),
    "answer": (("answer",), ("answer",)),
    "answer_with_reasoning": (("reasoning", "answer"), ("reasoning", "answer")),
    "separator": ((), ()),
}


@dataclass(frozen=True)
class Demonstration:
    """A solved question that is prepended to the one that is asked."""

    question: str
    answer: str
    reasoning: str = ""
    choices: tuple[str, ...] = ()
    fields: Mapping[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))  # JSON brings a list

    @classmethod
    def of(cls, example: "Example | Demonstration") -> "Demonstration":
        """An example as it is shown; a demonstration is one already."""
        if isinstance(example, Demonstration):
            return example
        return cls(
            example.question, example.answer, example.reasoning, example.choices, example.fields
        )


@dataclass(frozen=True)
class Template:
    """The wording around instruction, question and answer.

    A wording with ``{{`` or ``{%`` in it is a Jinja template, rendered in a sandbox; any other has
    ``{name}`` where a value is put in. A question in Jinja also sees the fields of its row, by
    their names and as ``row``, except for the answer; and ``choices``, which then are listed
    nowhere else.

    The whole text is ``prompt_prefix(...)``, ``format_question(question)`` and
    ``format_answer(answer, reasoning)``, joined with nothing between them. The default is the
    form of the few-shot chain-of-thought papers (2201.11903, appendix G).

    With ``chat`` the three are the contents of messages in the decoder's own chat template: the
    instruction is the system's, questions are the user's, answers the assistant's (``CHAT`` has
    the wording for it). Then ``separator`` is not used, and the end of the turn ends an answer.

    Attributes:
        instruction: wraps ``{instruction}``; left out when a task has no instruction.
        question: wraps ``{question}``, ending where the answer begins.
        choice: one line for each of a question's choices, from ``{letter}`` and ``{choice}``;
            the empty string shows none (many labels, named once in the instruction).
        answer: wraps ``{answer}``.
        answer_with_reasoning: wraps ``{reasoning}`` and ``{answer}``; the words between are the
            marker by which the answer is found again.
        separator: between a demonstration and the next question.
        stop: strings that end a generation; when empty, the beginning of a next question.
        chat: whether the decoder's own chat template is used.
        chat_template_args: further variables of the chat template, such as ``enable_thinking``.

    Raises:
        UserError: a placeholder that a field does not know or lacks, or a value of another type.
    """

    instruction: str = "{instruction}\n\n"
    question: str = "Q: {question}\nA:"
    choice: str = "\n({letter}) {choice}"
    answer: str = " The answer is {answer}."
    answer_with_reasoning: str = " {reasoning} The answer is {answer}."
    separator: str = "\n\n"
    stop: tuple[str, ...] = ()
    chat: bool = False
    chat_template_args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, (names, required) in NAMES.items():
            check_wording(getattr(self, key), names, required, f"template.{key}")
        self._check_question()
        args = self.chat_template_args
        if not isinstance(args, Mapping) or not all(isinstance(key, str) for key in args):
            raise UserError(
                f"template.chat_template_args: expected names and values, found {args!r:.80}"
            )
        if args and not self.chat:
            raise UserError("template.chat_template_args: belongs to `chat: true`")
        for name in RESERVED_ARGS & args.keys():
            raise UserError(f"template.chat_template_args: {name!r} is set for every question")
        self._move_space_to_answer()
        if not isinstance(self.chat, bool):
            raise UserError(f"template.chat: expected true or false, found {self.chat!r}")
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, list | tuple) or not all(isinstance(s, str) and s for s in stop):
            raise UserError(
                f"template.stop: expected texts that are not empty, found {self.stop!r:.80}"
            )
        if not stop and not self.chat:
            opening = (self.separator + opening_of(self.question)).rstrip()
            stop = (opening,) if opening else ()  # a bare blank line would cut paragraphs
        object.__setattr__(self, "stop", tuple(stop))
        for key in ("answer", "answer_with_reasoning"):
            text_around_answer(getattr(self, key), f"template.{key}")

    def _check_question(self) -> None:
        where = "template.question"
        if not isinstance(self.question, str) or not is_jinja(self.question):
            check_wording(self.question, ("question",), ("question",), where)
            return
        names = list_placeholders(self.question, where)
        if given := ANSWERS & names:
            raise UserError(f"{where}: {min(given)!r} would be given away")
        if not names - {"choices"}:
            raise UserError(f"{where}: names neither question nor a field of its row")

    @property
    def row_fields(self) -> frozenset[str]:
        """The fields of a row that the question is made of, besides question and choices."""
        if not is_jinja(self.question):
            return frozenset()
        return list_placeholders(self.question, "template.question") - {"question", "choices"}

    def _move_space_to_answer(self) -> None:
        """A space at the end of the question begins the answer: tokenizers join it to a word."""
        question = self.question.rstrip(" ")
        space = self.question[len(question) :]
        if space and not self.chat:
            object.__setattr__(self, "question", question)
            for key in ("answer", "answer_with_reasoning"):
                wording = getattr(self, key)
                if not wording[:1].isspace():
                    object.__setattr__(self, key, space + wording)

    def prompt_prefix(
        self, instruction: str, demonstrations: Sequence[Demonstration], reasoning: bool
    ) -> str:
        """Everything before the question: the instruction, then the demonstrations."""
        parts = [self.format_instruction(instruction)]
        for shown in demonstrations:
            parts.append(self.format_example(shown))
            parts.append(self.format_answer(shown.answer, shown.reasoning if reasoning else ""))
            parts.append(self.separator)
        return "".join(parts)

    def format_instruction(self, instruction: str) -> str:
        """The instruction in its wording; empty where the wording needs one and there is none."""
        where = "template.instruction"
        if not instruction and "instruction" in list_placeholders(self.instruction, where):
            return ""
        values = {"instruction": instruction}
        return render_wording(self.instruction, values, where)

    def format_example(self, example: Example | Demonstration) -> str:
        """The question of an example; see ``format_question``."""
        try:
            return self.format_question(example.question, example.choices, example.fields)
        except UserError as error:
            if not isinstance(example, Example) or not self.row_fields:
                raise
            raise UserError(f"{error} (example {example.id!r:.60})") from None

    def format_question(
        self,
        question: str,
        choices: Sequence[str] = (),
        fields: Mapping[str, Any] | None = None,
    ) -> str:
        """The question and its choices, ending where the answer begins.

        Args:
            fields: those of its row that ``row_fields`` names.

        Raises:
            UserError: for more than 26 choices to show, or a field that the template needs and
                the question lacks.
        """
        where = "template.question"
        if not is_jinja(self.question):
            whole = question + self._list_choices(choices)
            return render_wording(self.question, {"question": whole}, where)
        names = list_placeholders(self.question, where)
        if fields is None and self.row_fields:
            needed = ", ".join(sorted(self.row_fields))
            raise UserError(
                f"{where}: needs fields of a row ({needed:.100}), which a bare question has not; "
                "give a file of rows"
            )
        values: dict[str, Any] = {**(fields or {}), "choices": list(choices)}
        values["question"] = question
        if "choices" not in names:
            values["question"] += self._list_choices(choices)
        values.setdefault(ROW, fields or {})
        text = render_wording(self.question, values, where)
        return text if self.chat else text.rstrip(" ")  # see _move_space_to_answer

    def _list_choices(self, choices: Sequence[str]) -> str:
        """The lines of the choices below a question."""
        shown = choices if self.choice else ()
        if len(shown) > len(LETTERS):
            raise UserError(
                f"{len(shown)} choices are more than letters: set template.choice to '' and the "
                "answer parser to 'label'"
            )
        return "".join(
            render_wording(self.choice, {"letter": letter, "choice": choice}, "template.choice")
            for letter, choice in zip(LETTERS, shown, strict=False)
        )

    def format_answer(self, answer: str, reasoning: str = "") -> str:
        """The text that a decoder should write after the question."""
        key = "answer_with_reasoning" if reasoning else "answer"
        values = {"answer": answer, "reasoning": reasoning}
        return render_wording(getattr(self, key), values, f"template.{key}")

    def answer_opening(self) -> str:
        """The words before an answer that has no reasoning."""
        return text_around_answer(self.answer, "template.answer")[0]

    def split_reasoning(self, text: str) -> tuple[str, str]:
        """Generated text -> (reasoning, the text after the last marker).

        The marker ("The answer is") is found in any letter case, at the start of a word; not where
        it is negated ("I don't think the answer is"). Where it does not occur, or the template has
        none, both parts are the whole text.
        """
        for marker in self.list_markers():
            start = r"(?<!\w)" if marker[0].isalnum() else ""
            found = list(re.finditer(start + re.escape(marker), text, re.IGNORECASE))
            for one in reversed(found[-MAX_MARKERS:]):
                if not is_negated(text, one.start()):
                    return text[: one.start()].strip(), text[one.end() :]
        return text, text

    def remove_closing(self, stated: str) -> str:
        """The text after the marker, without the words that the template puts after the answer.

        So a label that ends with a full stop is distinguished from one that does not.
        """
        first, line_break, rest = stated.lstrip().partition("\n")
        for _, after in self._texts_around_answer():
            closing = after.strip()
            if closing and first.rstrip().endswith(closing):
                return first.rstrip()[: -len(closing)] + line_break + rest
        return stated

    def list_markers(self) -> list[str]:
        """The words before ``{answer}``, by which it is found, with reasoning and without."""
        markers = (before.strip() for before, _ in self._texts_around_answer())
        return [marker for marker in dict.fromkeys(markers) if marker]

    def _texts_around_answer(self) -> list[tuple[str, str]]:
        """The words before and after the answer, with reasoning and without."""
        keys = ("answer_with_reasoning", "answer")
        return [text_around_answer(getattr(self, key), f"template.{key}") for key in keys]


CHAT = Template(
    instruction="{instruction}",
    question="{question}",
    answer="The answer is {answer}.",
    answer_with_reasoning="{reasoning} The answer is {answer}.",
    chat=True,
)
TEMPLATES = {"plain": Template(), "chat": CHAT}  # by the name that a task file may give
