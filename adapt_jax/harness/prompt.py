"""What an adaptation prepends to the harness's prompts, besides its soft prompt."""

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.utils.errors import UserError

__all__ = ["get_prompt_text", "has_conversation", "prepend_messages"]

Messages = list[dict[str, str]]


def get_prompt_text(adaptation: Adaptation | None) -> str:
    """The instruction and demonstrations, where they are plain text."""
    if adaptation is None or adaptation.prompt.template.chat:
        return ""
    return adaptation.prompt.text


def has_conversation(adaptation: Adaptation | None) -> bool:
    """Whether the instruction or the demonstrations are messages of a chat template."""
    if adaptation is None or not adaptation.prompt.template.chat:
        return False
    return len(adaptation.prompt.messages("")) > 1


def prepend_messages(adaptation: Adaptation | None, history: Messages) -> Messages:
    """A conversation behind the instruction and demonstrations; two system messages become one.

    Raises:
        UserError: the adaptation prepends plain text.
    """
    if get_prompt_text(adaptation):
        raise UserError(
            "adaptation: its instruction and demonstrations are plain text, for which a chat "
            "template has no place; leave out --apply_chat_template"
        )
    if adaptation is None or not has_conversation(adaptation):
        return history
    before = adaptation.prompt.messages("")[:-1]
    if before[0]["role"] == "system" and history[0]["role"] == "system":
        joined = f"{before[0]['content'].rstrip()}\n\n{history[0]['content']}"
        before, history = [{"role": "system", "content": joined}, *before[1:]], history[1:]
    return [*before, *history]
