"""The templates of a task file: the one that questions are asked in, and those of a training."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from adapt_jax.tasks.example import Example
from adapt_jax.tasks.templates.template import CHAT, TEMPLATES, Template
from adapt_jax.utils.errors import UserError, nearest

__all__ = ["check_templates", "load_template", "load_templates"]

CHECKED_EXAMPLES = 3  # of each split, that are rendered when a task is loaded

Wording = Mapping[str, Any] | str


def load_template(wording: Wording, where: str) -> tuple[Template, tuple[str, ...]]:
    """The template of a task file, and warnings about it.

    Args:
        wording: a name in TEMPLATES, or fields of Template that are worded otherwise.
        where: the task file and the key, for messages.

    Raises:
        UserError: an unknown name, or a wording that cannot be used.
    """
    if isinstance(wording, str):
        _check_name(wording, TEMPLATES, f"{where}: template")
        return TEMPLATES[wording], ()
    base = CHAT if wording.get("chat") is True else Template()
    template = _reword(base, wording, where, "template")
    warnings = []
    if not template.stop and not template.chat:
        warnings.append(
            "the template has no words before {question} and no stop string: answers end only "
            "with the end-of-sequence token"
        )
    if isinstance(question := wording.get("question"), str) and question != template.question:
        warnings.append("the space at the end of template.question belongs to the answer now")
    return template, tuple(warnings)


def load_templates(wordings: Sequence[Wording], base: Template, where: str) -> tuple[Template, ...]:
    """Further templates, each the task's own but for what it words otherwise.

    Args:
        wordings: fields of Template; a text is the wording of the question.
        base: the task's own template.

    Raises:
        UserError: as ``load_template``, or a key that is the same for all templates of a task.
    """
    templates = []
    for number, wording in enumerate(wordings, start=1):
        key = f"templates.{number}"
        wording = {"question": wording} if isinstance(wording, str) else wording
        for name in ("chat", "chat_template_args", "stop"):
            if name in wording:
                raise UserError(f"{where}: {key}.{name}: belongs to the task's own template")
        templates.append(_reword(base, wording, where, key))
    return tuple(templates)


def check_templates(
    templates: Sequence[Template],
    instruction: str,
    splits: Mapping[str, Sequence[Example]],
    where: str,
) -> None:
    """Renders the first examples of each split, so that a template which cannot be rendered is
    refused before any work.

    Args:
        templates: the task's own, in which all splits are asked; then those of training.

    Raises:
        UserError: naming the file and the key.
    """
    for number, template in enumerate(templates):
        with _name_place(where, f"templates.{number}" if number else "template"):
            template.format_instruction(instruction)
            for split, examples in splits.items():
                shown = examples if split == "train" or not number else ()
                for example in shown[:CHECKED_EXAMPLES]:
                    template.format_example(example)
                    template.format_answer(example.answer, example.reasoning)


def _reword(base: Template, wording: Mapping[str, Any], where: str, key: str) -> Template:
    for name in wording:
        _check_name(name, Template.__dataclass_fields__, f"{where}: {key}")
    with _name_place(where, key):
        # the stop string follows from the wording, so it is found again
        return replace(base, **{"stop": (), **wording})


@contextmanager
def _name_place(where: str, key: str) -> Iterator[None]:
    """Errors of a template say ``template.KEY``; here they say where in the task file it is."""
    try:
        yield
    except UserError as error:
        message = str(error).replace("template.", f"{key}.", 1)
        raise UserError(f"{where}: {message}") from None


def _check_name(name: str, table: Mapping[str, Any], where: str) -> None:
    if name not in table:
        raise UserError(f"{where}: {name!r} is none of {', '.join(table)}{nearest(name, table)}")
