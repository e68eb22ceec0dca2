"""Texts in, candidates out: the engine in one call."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from adapt_jax.decoders.prefix import Prefix
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.sampling.engine import Engine
from adapt_jax.sampling.types import Candidate, GenerationConfig, Request
from adapt_jax.utils.errors import UserError, nearest

__all__ = ["generate"]


def generate(
    model: PretrainedDecoder,
    prompts: Sequence[str],
    generation_config: GenerationConfig | None = None,
    *,
    prefix: Prefix | None = None,
    seed: int = 0,
    **options: Any,
) -> list[list[Candidate]]:
    """Continues each prompt.

    Args:
        prompts: whole texts, or what follows ``prefix``; BOS, if any, is then part of the prefix.
        generation_config: how to generate; fields can also be given by name, as in
            ``generate(model, ["Once"], top_k=5)``.
        prefix: what is prepended to every prompt; it is encoded once.
        seed: of sampled candidates.

    Returns:
        for each prompt the list of its candidates.

    Raises:
        UserError: a prompt is longer than the context, or an option is unknown or out of range.
    """
    try:
        config = replace(generation_config or GenerationConfig(), **options)
    except TypeError:
        known = [option.name for option in fields(GenerationConfig)]
        wrong = next((name for name in options if name not in known), None)
        if wrong is None:
            raise
        raise UserError(
            f"generate: no option {wrong!r}; it has: {', '.join(known)}{nearest(wrong, known)}"
        ) from None
    if isinstance(prompts, str):
        raise UserError("generate: prompts is a single text; expected a list of texts")
    tokens = [model.encode(prompt, bos=prefix is None) for prompt in prompts]
    requests = [Request(text, tuple(ids)) for text, ids in zip(prompts, tokens, strict=True)]
    engine = Engine(model, prefix or Prefix(), config, seed=seed)
    candidates: list[dict[int, Candidate]] = [{} for _ in prompts]
    for index, number, candidate in engine.run(requests):
        if candidate.finish_reason == "too_long":
            raise UserError(
                f"prompt {index + 1} has {len(tokens[index])} tokens, with its prefix "
                f"{len(tokens[index]) + len(prefix or ())}; the context of {model.path} holds "
                f"{model.config.context_length}"
            )
        candidates[index][number] = candidate
    return [[found[number] for number in sorted(found)] for found in candidates]
