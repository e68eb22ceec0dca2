"""How an instruction, a question and an answer become the text that a decoder reads."""

from adapt_jax.tasks.templates.template import CHAT, TEMPLATES, Demonstration, Template

__all__ = ["CHAT", "TEMPLATES", "Demonstration", "Template"]
