"""Conversations as text, through the chat template of a tokenizer.

User text stays text: where it spells a control token of the tokenizer, such as ``<|im_end|>``, the
spelling is put between two marks. ``tokenization.encode_chat`` reads only unmarked spellings, which
the template wrote, as control tokens.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from adapt_jax.pretrained.control_tokens import (
    find_control_tokens,
    mark_control_tokens,
    remove_marks,
)
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.jinja_text import DEFAULT_DATE, TemplateRefusal, render_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["find_end_of_turn", "get_template", "has_chat_template", "render_chat"]

Message = Mapping[str, str]


def has_chat_template(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer has a template for conversations."""
    return get_template(tokenizer) is not None


def get_template(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """The chat template, or None: the tokenizer has none, or several and no default."""
    try:
        template = tokenizer.get_chat_template()
    except ValueError:
        return None
    return template if isinstance(template, str) and template else None


def render_chat(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool,
    template_args: Mapping[str, Any] | None = None,
) -> str:
    """A conversation as the chat template writes it, BOS included where the template has one.

    Contents are given as text, or as a list of one part, whichever the template writes out. The
    words of the system are put before the first question where the template has no place for them:
    it refuses the role, or leaves them out.

    Args:
        messages: ``{"role", "content"}`` each; the system's, if any, is the first.
        add_generation_prompt: whether the beginning of the assistant's answer follows.
        template_args: further variables of the template, such as ``enable_thinking``. ``date``, an
            ISO date, is what ``strftime_now`` gives (jinja_text.DEFAULT_DATE by default).

    Returns:
        Text for ``tokenization.encode_chat``. Control tokens that the contents spell are put
        between marks; ``control_tokens.remove_marks`` removes them for display.

    Raises:
        UserError: there is no chat template; it refuses the messages, does not end, or leaves out
            a question.
    """
    template = get_template(tokenizer)
    if template is None:
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template; expected template plain"
        )
    control = find_control_tokens(tokenizer, template)
    marked = [
        {"role": one["role"], "content": mark_control_tokens(one["content"], control)}
        for one in messages
    ]
    variables = {
        **tokenizer.special_tokens_map,
        **(template_args or {}),
        "add_generation_prompt": add_generation_prompt,
    }
    reasons = []
    for conversation in _list_forms(marked):
        try:
            text = _render(template, conversation, variables)
        except TemplateRefusal as refusal:
            reasons.append(str(refusal))
            if refusal.is_final:
                break
            continue
        if missing := _find_missing(text, conversation):
            reasons.append(f"it leaves out {missing[:60]!r}")
            continue
        return text
    raise UserError(f"{tokenizer.name_or_path}: its chat template refuses: {reasons[0]}")


def _render(
    template: str, conversation: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
) -> str:
    given = {"tools": None, "documents": None, "date": DEFAULT_DATE, **variables}
    given = {"messages": conversation, **given}
    return render_template(template, given, date=str(given["date"]), is_chat=True)


def _list_forms(messages: Sequence[Message]) -> list[list[dict[str, Any]]]:
    """The ways to give a conversation to a template, the best first."""
    conversations = [[dict(one) for one in messages]]
    if messages[0]["role"] == "system" and len(messages) > 1:
        system, first, *rest = messages
        joined = {**first, "content": f"{system['content']}\n\n{first['content']}"}
        conversations.append([joined, *map(dict, rest)])
    forms: list[list[dict[str, Any]]] = []
    for conversation in conversations:
        forms.append(conversation)
        forms.append(
            [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in conversation]
        )
    return forms


def _find_missing(text: str, conversation: Sequence[Mapping[str, Any]]) -> str:
    """A line of the system or the user that the text lacks; empty if it has all.

    What the assistant said is not looked for: templates leave out the thoughts of earlier turns.
    """
    for message in conversation:
        content = message["content"]
        if message["role"] == "assistant":
            continue
        words = content if isinstance(content, str) else content[0]["text"]
        if not isinstance(content, str) and _writes_parts(text) and not _writes_parts(words):
            return str(remove_marks(words.strip()))  # it wrote the list itself
        for line in words.splitlines():
            if line.strip() not in text:
                return str(remove_marks(line.strip()))
    return ""


def _writes_parts(text: str) -> bool:
    """Whether a text has a part of a message as Python or JSON writes it."""
    return "'type': 'text'" in text or '"type": "text"' in text


@lru_cache(maxsize=16)
def _find_end(template: str, special: str, added: tuple[str, ...]) -> str | None:
    """The added token that the template writes right after what the assistant said."""
    answer = "Certainly"
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": answer}]
    for conversation in _list_forms(messages):
        variables = {**json.loads(special), "add_generation_prompt": False}
        try:
            text = _render(template, conversation, variables)
        except TemplateRefusal as refusal:
            if refusal.is_final:
                return None
            continue
        if answer not in text:
            continue
        rest = text[text.rindex(answer) + len(answer) :].lstrip()
        found = [token for token in added if token.strip() and rest.startswith(token.strip())]
        return max(found, key=len, default=None)
    return None


def find_end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The id of the token by which the chat template ends what the assistant says.

    It is the added token that a rendered conversation has right after the assistant's words.
    None: there is no template, it ends turns in another way, or it cannot be rendered.
    """
    template = get_template(tokenizer)
    if template is None:
        return None
    special = json.dumps(tokenizer.special_tokens_map, default=str)
    added = tokenizer.get_added_vocab()
    end = _find_end(template, special, tuple(added))
    return None if end is None else added[end]
