"""What the decoder will see for a question under a rung: tokens, parts, loss. No weights needed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp

from adapt_jax.adaptation.storage import DESCRIPTION, read_without_weights
from adapt_jax.comparison.preview_parts import Part, decode_each, name_parts
from adapt_jax.comparison.setup import choose_methods
from adapt_jax.inspection.training_programs import trace_tuning
from adapt_jax.methods.base import Method, PromptingMethod, TuningMethod
from adapt_jax.methods.registry import METHODS
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.without_weights import load_without_weights
from adapt_jax.prompting.multiple_choice import tokenize_choices
from adapt_jax.prompting.prompt import MethodNotApplicable, Prompt, resolve_template
from adapt_jax.prompting.retriever import Retriever
from adapt_jax.sampling.model import load_pretrained
from adapt_jax.tasks.example import Example
from adapt_jax.tasks.loading import load_task
from adapt_jax.tasks.task import Task
from adapt_jax.utils.config import (
    CompareConfig,
    Overrides,
    TuneConfig,
    load_config,
    read_yaml,
    validate,
)
from adapt_jax.utils.errors import UserError, nearest

__all__ = ["Preview", "preview"]


@dataclass(frozen=True)
class Preview:
    """The parts of what the decoder sees, and what they are.

    Attributes:
        title: rung, task or adaptation, and decoder.
        parts: in the order in which the decoder reads them.
        choices: of a question whose choices are scored: each follows ``parts`` alone.
    """

    title: str
    parts: list[Part]
    choices: list[Part]

    @property
    def num_tokens(self) -> int:
        """Tokens and learned embeddings before the answer."""
        return sum(len(part) for part in self.parts if not part.has_loss)


@dataclass(frozen=True)
class _Source:
    """What a configuration or an adaptation says of its prompt."""

    title: str
    model: PretrainedDecoder
    prompt: Prompt
    method: Method | None = None
    task: Task | None = None
    soft_prompt: tuple[int, bool] | None = None  # its length, and whether it is before BOS
    seed: int = 0


def preview(
    path: str | Path,
    *,
    rung: str | None = None,
    question: str | None = None,
    choices: Sequence[str] = (),
    index: int = 0,
    decoder: str | None = None,
    overrides: Overrides | None = None,
) -> Preview:
    """The tokens of a question's prompt; of a rung that trains, those of a training example.

    Args:
        path: a configuration of compare or tune, or a saved adaptation.
        rung: of a comparison; by default its first.
        question: a question of your own; otherwise one of the task is taken.
        index: of the test question, or of the training example where the rung trains, from 0.
        decoder: where the decoder of an adaptation is, if it was moved.

    Raises:
        UserError: for whatever the user can mend; the rung cannot run on the task.
    """
    folder = Path(path)
    if folder.is_dir():
        source = _read_adaptation(folder, decoder)
        if question is None:
            raise UserError(f"{folder}: an adaptation has no questions of its own: --question TEXT")
    else:
        source = _read_config(path, rung, overrides)
    if question is not None:
        example = Example("question", question, choices=tuple(choices))
        return _show_question(source, example)
    assert source.task is not None
    trains = isinstance(source.method, TuningMethod)
    split = source.task.train if trains else source.task.test
    if not 0 <= index < len(split):
        name = "train" if trains else "test"
        raise UserError(f"--index {index}: the {name} split has 0 to {len(split) - 1}")
    if isinstance(source.method, TuningMethod):
        return _show_training(source, source.method, source.task, split[index])
    return _show_question(source, split[index])


def _read_adaptation(folder: Path, decoder: str | None) -> _Source:
    if not (folder / DESCRIPTION).is_file():
        raise UserError(f"{folder}: no adaptation here ({DESCRIPTION} not found)")
    name, prompt, model, soft_prompt = read_without_weights(folder, decoder)
    place = None
    if soft_prompt is not None:
        place = (soft_prompt.embeddings[...].shape[-2], soft_prompt.before_bos)
    return _Source(f"{name}, {folder}, decoder {model.path}", model, prompt, soft_prompt=place)


def _read_config(path: str | Path, rung: str | None, overrides: Overrides | None) -> _Source:
    """The prompt of a rung of a comparison, or of the method of a tuning."""
    settings: TuneConfig | CompareConfig
    if "method" in read_yaml(path):
        tuning, where, place = load_config(TuneConfig, path, overrides)
        settings, options = tuning, dict(tuning.method)
        name = str(options.pop("name", None))
        method = validate(METHODS.find(name, f"{where}: method.name"), options, f"{where}: method")
        if rung not in (None, name):
            raise UserError(f"--rung {rung}: {where} makes {name}")
    else:
        settings, where, place = comparison = load_config(CompareConfig, path, overrides)
        methods = choose_methods(comparison[0], where)
        name = rung or next(iter(methods))
        if name not in methods:
            raise UserError(
                f"--rung: {name!r} is none of {', '.join(methods)}{nearest(name, methods)}"
            )
        method = methods[name]
    assert isinstance(settings.task, dict)
    if getattr(method, "bootstrap", None) is not None:
        command = "tune" if isinstance(settings, TuneConfig) else "compare"
        raise UserError(
            f"{where}: {name}: with bootstrap the decoder writes the reasonings that are shown or "
            f"trained on, and it does so when it runs: there is nothing to show before adapt-jax "
            f"{command}; preview its output folder then"
        )
    load = load_pretrained if _needs_weights(method) else load_without_weights
    model = load(settings.decoder, context_length=settings.context_length)
    task = load_task(settings.task, place.folder, place.name)
    task = resolve_template(task, model)
    assert isinstance(method, PromptingMethod | TuningMethod)
    try:
        prompt = method.build_prompt(model, task, settings.seed)
    except MethodNotApplicable as reason:
        raise UserError(f"{where}: {name} cannot run on {task.name}: {reason}") from None
    soft_prompt = None
    if isinstance(method, TuningMethod):
        length = trace_tuning(model.config, method, jnp.float32).soft_prompt_length
        before = getattr(method, "position", "before_bos") == "before_bos"
        soft_prompt = (length, before) if length else None
    title = f"{name} of {task.name}, decoder {settings.decoder}"
    return _Source(title, model, prompt, method, task, soft_prompt, settings.seed)


def _needs_weights(method: Method) -> bool:
    """Whether demonstrations are chosen by the decoder's own hidden states."""
    options = getattr(method, "demonstrations", None)
    return getattr(options, "similarity", "") == "decoder"


def _show_question(source: _Source, example: Example) -> Preview:
    """What the decoder sees when it is asked."""
    model, prompt = source.model, source.prompt
    if prompt.retrieval is not None:
        prompt = Retriever(model, prompt).choose(example)
    parts = name_parts(model, prompt, example)
    choices: list[Part] = []
    if prompt.multiple_choice is not None:
        answers = prompt.multiple_choice.list_answers(example.choices)
        prefix, (request,) = tokenize_choices(model, prompt, [(example, answers)])
        asked = sum(len(part) for part in parts)
        opening = [*prefix, *request.context][asked:]
        if opening:
            parts.append(Part("answer opening", decode_each(model, opening)))
        choices = [
            Part(f"choice {answer!r}", decode_each(model, ids))
            for answer, ids in zip(answers, request.continuations, strict=True)
        ]
    return Preview(source.title, _insert_soft_prompt(parts, source), choices)


def _show_training(source: _Source, method: TuningMethod, task: Task, example: Example) -> Preview:
    """What a training step sees of an example; its loss is on the last part."""
    model, prompt = source.model, source.prompt
    limit = model.config.context_length - (source.soft_prompt or (0, True))[0]
    one = replace(task, train=[example])
    tokenized = method.training_examples(model, prompt, one, source.seed, limit)
    found = [each for each in tokenized.examples if each.id == example.id]
    if not found:
        raise UserError(f"example {example.id!r}: longer than the context, so it is not trained on")
    ids = [*tokenized.prompt_prefix, *found[0].tokens]
    start = len(tokenized.prompt_prefix) + found[0].target_start
    texts = decode_each(model, ids)
    parts = name_parts(model, prompt, example)
    if tuple(text for part in parts for text in part.tokens) != texts[:start]:
        border = len(tokenized.prompt_prefix)  # the method words the example in its own way
        parts = [Part("prefix", texts[:border]), Part("question", texts[border:start])]
        parts = [part for part in parts if part.tokens]
    parts.append(Part("answer", texts[start:], has_loss=True))
    return Preview(source.title, _insert_soft_prompt(parts, source), [])


def _insert_soft_prompt(parts: list[Part], source: _Source) -> list[Part]:
    """The parts with the soft prompt on its side of BOS."""
    if source.soft_prompt is None:
        return parts
    length, before_bos = source.soft_prompt
    soft = Part("soft prompt", embeddings=length)
    bos = source.model.config.bos_id
    first = parts[0]
    has_bos = bos is not None and first.tokens[:1] == decode_each(source.model, [bos])
    if before_bos or not has_bos:
        return [soft, *parts]
    rest = [replace(first, tokens=first.tokens[1:])] if len(first) > 1 else []
    return [Part("BOS", first.tokens[:1]), soft, *rest, *parts[1:]]
