"""Template: how an instruction, a question and an answer become the text a decoder reads."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapt_jax.tasks.example import Example
from adapt_jax.tasks.letters import LETTERS
from adapt_jax.tasks.negation import is_negated
from adapt_jax.utils.errors import UserError, nearest

__all__ = ["CHAT", "TEMPLATES", "Demonstration", "Template", "fill"]

MAX_MARKERS = 20  # of a text, that are looked at
RESERVED_ARGS = {"messages", "add_generation_prompt"}  # of a chat template
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def fill(text: str, values: Mapping[str, str]) -> str:
    """``text`` with each ``{name}`` of ``values`` replaced, in one pass: what is put in is never
    read as a placeholder itself, so questions may hold braces."""
    return PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)


@dataclass(frozen=True)
class Demonstration:
    """A solved question that is prepended to the one that is asked."""

    question: str
    answer: str
    reasoning: str = ""
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))  # JSON brings a list

    @classmethod
    def of(cls, example: Example) -> "Demonstration":
        return cls(example.question, example.answer, example.reasoning, example.choices)


@dataclass(frozen=True)
class Template:
    """The wording around instruction, question and answer.

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
        known = {
            "instruction": {"instruction"},
            "question": {"question"},
            "choice": {"letter", "choice"},
            "answer": {"answer"},
            "answer_with_reasoning": {"reasoning", "answer"},
            "separator": set(),
        }
        for key, names in known.items():
            wording = getattr(self, key)
            if not isinstance(wording, str):
                raise UserError(f"template.{key}: expected a text, found {wording!r:.80}")
            found = set(PLACEHOLDER.findall(wording))
            for name in sorted(found - names):
                raise UserError(
                    f"template.{key}: unknown placeholder {{{name}}}{nearest(name, names)}"
                )
            if key in ("question", "answer", "answer_with_reasoning") and found < names:
                lacking = ", ".join(f"{{{name}}}" for name in sorted(names - found))
                raise UserError(f"template.{key}: lacks {lacking}")
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
            opening = (self.separator + self.question.partition("{question}")[0]).rstrip()
            stop = (opening,) if opening else ()  # a bare blank line would cut paragraphs
        object.__setattr__(self, "stop", tuple(stop))

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
        parts = [fill(self.instruction, {"instruction": instruction})] if instruction else []
        for shown in demonstrations:
            parts.append(self.format_question(shown.question, shown.choices))
            parts.append(self.format_answer(shown.answer, shown.reasoning if reasoning else ""))
            parts.append(self.separator)
        return "".join(parts)

    def format_question(self, question: str, choices: Sequence[str] = ()) -> str:
        """The question and its choices, ending where the answer begins.

        Raises:
            UserError: for more than 26 choices to show.
        """
        shown = choices if self.choice else ()
        if len(shown) > len(LETTERS):
            raise UserError(
                f"{len(shown)} choices are more than letters: set template.choice to '' and the "
                "answer parser to 'label'"
            )
        lines = (
            fill(self.choice, {"letter": letter, "choice": choice})
            for letter, choice in zip(LETTERS, shown, strict=False)
        )
        return fill(self.question, {"question": question + "".join(lines)})

    def format_answer(self, answer: str, reasoning: str = "") -> str:
        """The text that a decoder should write after the question."""
        wording = self.answer_with_reasoning if reasoning else self.answer
        return fill(wording, {"answer": answer, "reasoning": reasoning})

    def split_reasoning(self, text: str) -> tuple[str, str]:
        """Generated text -> (reasoning, the text after the last marker).

        The marker ("The answer is") is found in any letter case, at the start of a word; not where
        it is negated ("I don't think the answer is"). Where it does not occur, or the template has
        none, both parts are the whole text.
        """
        for marker in self._markers():
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
        for wording in (self.answer_with_reasoning, self.answer):
            closing = wording.rpartition("{answer}")[2].strip()
            if closing and first.rstrip().endswith(closing):
                return first.rstrip()[: -len(closing)] + line_break + rest
        return stated

    def _markers(self) -> list[str]:
        """The words before ``{answer}``, with reasoning and without."""
        before = (
            self.answer_with_reasoning.partition("{answer}")[0],
            self.answer.partition("{answer}")[0],
        )
        markers = (text.rpartition("}")[2].strip() for text in before)
        return [marker for marker in dict.fromkeys(markers) if marker]


CHAT = Template(
    instruction="{instruction}",
    question="{question}",
    answer="The answer is {answer}.",
    answer_with_reasoning="{reasoning} The answer is {answer}.",
    chat=True,
)
TEMPLATES = {"plain": Template(), "chat": CHAT}  # by the name that a task file may give
