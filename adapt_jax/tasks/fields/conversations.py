"""Conversations of chat data: the last answer of the assistant, and what is said before it.

Two forms are read: ``[{"role": ..., "content": ...}]``, and ShareGPT's ``[{"from", "value"}]``.
Calls of tools and what tools return are turns like others; the tools' schemas are not read.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from adapt_jax.tasks.fields.values import Missing, parse_structured, read_value, to_plain_value
from adapt_jax.tasks.sources.rows import Row
from adapt_jax.utils.errors import UserError, nearest

__all__ = ["read_conversation"]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
LABELS = {"system": "", "user": "User: ", "assistant": "Assistant: ", "tool": "Tool: "}


def read_conversation(row: Row, name: str) -> tuple[str, str]:
    """The question and the answer of a conversation.

    The answer is the last turn of the assistant, empty where there is none. The question is what
    is said before it: of one turn of the user its text alone (after the system's), of several
    turns all of them, each behind its role.

    Args:
        name: of the field that holds the conversation.

    Raises:
        Missing: the user says nothing.
        UserError: the field is no conversation, or a role is unknown.
    """
    turns = _read_turns(row, name)
    answers = [index for index, (role, _) in enumerate(turns) if role == "assistant"]
    last = answers[-1] if answers else len(turns)
    before = turns[:last]
    if not any(role == "user" and text for role, text in before):
        raise Missing(f"{row.where}: field {name!r}: the user says nothing before the answer")
    several = sum(role != "system" for role, _ in before) > 1
    texts = [(LABELS[role] if several else "") + text for role, text in before if text]
    return "\n\n".join(texts), turns[last][1] if answers else ""


def _read_turns(row: Row, name: str) -> list[tuple[str, str]]:
    value = to_plain_value(parse_structured(read_value(row, name)))
    if not isinstance(value, list | tuple) or not all(isinstance(one, dict) for one in value):
        raise UserError(f"{row.where}: field {name!r}: expected a list of messages")
    turns = []
    for number, message in enumerate(value, start=1):
        role = str(message.get("role", message.get("from"))).lower()
        content = message.get("content", message.get("value"))
        if role not in ROLES:
            hint = nearest(role, ROLES)
            raise UserError(
                f"{row.where}: field {name!r}, message {number}: the role {role!r:.40} is none of "
                f"{', '.join(ROLES)}{hint}"
            )
        texts = [_join_content(content).strip(), *_list_calls(message)]
        turns.append((ROLES[role], "\n".join(filter(None, texts))))
    return turns


def _list_calls(message: Mapping[str, Any]) -> list[str]:
    """The calls of tools that an assistant's message holds, each as JSON with name and arguments.

    The form is that of OpenAI: ``tool_calls: [{"function": {"name", "arguments"}}]``.
    """
    calls = to_plain_value(message.get("tool_calls")) or []
    if not isinstance(calls, list | tuple):
        return []
    found = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else {}
        if isinstance(function, dict) and "name" in function:
            arguments = parse_structured(function.get("arguments"))
            shown = {"name": function["name"], "arguments": arguments}
            found.append(json.dumps(shown, ensure_ascii=False, default=str))
    return found


def _join_content(content: Any) -> str:
    """The text of a message, which may come in parts: ``[{"type": "text", "text": ...}]``."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [one.get("text") if isinstance(one, dict) else one for one in content]
        return "\n".join(part for part in parts if isinstance(part, str))
    return "" if content is None else str(content)
