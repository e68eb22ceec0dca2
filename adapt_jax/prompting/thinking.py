"""Chat templates that begin every answer with an opened ``<think>``, and what to set instead."""

import re

from adapt_jax.pretrained.chat import render_chat
from adapt_jax.pretrained.control_tokens import remove_marks
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.tasks.templates import Template
from adapt_jax.utils.errors import UserError

__all__ = ["describe_thinking", "find_thinking_remedy"]

_OPENED = re.compile(
    r"(?:<\|?(?:start_)?(?:think|thinking|thought|reasoning)\|?>|\[think\])\s*\Z", re.IGNORECASE
)
_SWITCHED_OFF = {"enable_thinking": False}  # the variable of Qwen, GLM, SmolLM and others


def describe_thinking(model: PretrainedDecoder, template: Template) -> str:
    """What a chat template that opens ``<think>`` does, and the remedy; empty for others."""
    if not template.chat or not (opened := _find_opened(model, template, {})):
        return ""
    remedy = find_thinking_remedy(model, template)
    return (
        f"the chat template of {model.path} begins every answer with {opened!r}: the decoder "
        f"thinks before it answers, which counts in max_new_tokens; {remedy}"
    )


def find_thinking_remedy(model: PretrainedDecoder, template: Template) -> str:
    """What to set so that a chat template does not begin an answer with thoughts."""
    changed = _render(model, template, _SWITCHED_OFF) != _render(model, template, {})
    if changed and not _find_opened(model, template, _SWITCHED_OFF):
        return (
            "to ask without: template: {chat: true, chat_template_args: {enable_thinking: false}}"
        )
    return "its template has no enable_thinking; to ask without: template: plain"


def _find_opened(model: PretrainedDecoder, template: Template, args: dict[str, bool]) -> str:
    """The tag that the generation prompt opens and does not close."""
    found = _OPENED.search(_render(model, template, args))
    return found[0] if found else ""


def _render(model: PretrainedDecoder, template: Template, args: dict[str, bool]) -> str:
    """A question in the chat template, up to where the answer begins; empty where it is refused."""
    try:
        text = render_chat(
            model.tokenizer,
            [{"role": "user", "content": "Why?"}],
            add_generation_prompt=True,
            template_args={**template.chat_template_args, **args},
        )
    except UserError:
        return ""
    return remove_marks(text)
