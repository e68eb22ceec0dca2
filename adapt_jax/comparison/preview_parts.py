"""A prompt's tokens in named parts: instruction, demonstrations, question, answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.tokenization import count_common_prefix
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.tasks.example import Example

__all__ = ["Part", "decode_each", "name_parts"]


@dataclass(frozen=True)
class Part:
    """Some tokens that follow each other.

    Attributes:
        name: what they are, such as "demonstration 2".
        tokens: their texts.
        has_loss: whether a training takes its loss on them.
        embeddings: how many learned embeddings stand here instead of tokens.
    """

    name: str
    tokens: tuple[str, ...] = ()
    has_loss: bool = False
    embeddings: int = 0

    def __len__(self) -> int:
        return self.embeddings or len(self.tokens)


def decode_each(model: PretrainedDecoder, ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each token, with the space that belongs to it.

    A tokenizer drops a space at the start of a text, so each token is decoded behind another one.
    """

    def decode(ids: Sequence[int]) -> str:
        text = model.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(text)

    anchor = model.encode("a", bos=False)[-1:]
    start = decode(anchor)
    texts = []
    for id in ids:
        text = decode([*anchor, id])
        texts.append(text[len(start) :] if text.startswith(start) else decode([id]))
    return tuple(texts)


def name_parts(model: PretrainedDecoder, prompt: Prompt, example: Example) -> list[Part]:
    """The whole prompt of a question, up to where the answer begins.

    Args:
        model: may be without weights.
        prompt: with the demonstrations of this question.
    """
    question = prompt.template.format_example(example)
    text = prompt.render_prompt(model, question)
    ids = prompt.encode(model, text)
    find = _find_chat_ends if prompt.template.chat else _find_plain_ends
    ends = [
        (name, count_common_prefix(prompt.encode(model, text[:end]), ids))
        for name, end in find(prompt, example, text)
    ]
    texts = decode_each(model, ids)
    parts, start = [], 0
    for name, end in [*ends, ("answer prompt", len(ids))]:
        if end > start:
            parts.append(Part(name, texts[start:end]))
            start = end
    return parts


def _find_plain_ends(prompt: Prompt, example: Example, text: str) -> list[tuple[str, int]]:
    """Where each part of a plain template ends, in characters of the whole text."""
    ends = []
    for count in range(len(prompt.demonstrations) + 1):
        shown = prompt.demonstrations[:count]
        name = f"demonstration {count}" if count else "instruction"
        ends.append((name, len(replace(prompt, demonstrations=shown).text)))
    start = len(prompt.text)
    return [*ends, ("question", _find_question_end(example, text, start))]


def _find_chat_ends(prompt: Prompt, example: Example, text: str) -> list[tuple[str, int]]:
    """Where each part of a rendered chat ends; it begins with the marks before its message."""
    messages = prompt.messages(prompt.template.format_example(example))
    names = ["instruction"] if messages[0]["role"] == "system" else []
    for number in range(1, len(prompt.demonstrations) + 1):
        names += ["", f"demonstration {number}"]  # its question and its answer
    names.append("question")
    ends, position = [], 0
    for name, message in zip(names, messages, strict=True):
        content = message["content"].strip()
        found = text.find(content, position)
        if found < 0:  # the template changes what it is given
            return [("prompt", len(text))]
        position = found + len(content)
        ends += [(name, position)] if name else []
    return ends


def _find_question_end(example: Example, text: str, start: int) -> int:
    """Where question and choices end, and the words that ask for the answer begin."""
    lasts = [text.rfind(one.strip(), start) for one in (example.question, *example.choices[-1:])]
    pieces = [example.question.strip(), *(one.strip() for one in example.choices[-1:])]
    return max(
        (at + len(piece) for at, piece in zip(lasts, pieces, strict=True) if at >= start),
        default=len(text),
    )
