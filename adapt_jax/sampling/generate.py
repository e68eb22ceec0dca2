"""Text in, candidates out: the engine in one call."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from adapt_jax.decoders.prefix import Prefix
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.sampling.engine import Engine
from adapt_jax.sampling.types import Candidate, GenerationConfig, Request
from adapt_jax.utils.errors import UserError, nearest


def generate(
    model: PretrainedDecoder,
    prompts: Sequence[str],
    generation_config: GenerationConfig | None = None,
    *,
    prefix: Prefix | None = None,
    seed: int = 0,
    **options: Any,
) -> list[list[Candidate]]:
    """Continues each prompt; one list of candidates per prompt.

    Args:
        prompts: whole texts, or what follows ``prefix`` (then BOS, if any, stands there).
        generation_config: how; or give its fields by name, as in ``generate(model, ["Once"], top_k=5)``.

    Raises:
        UserError: for a prompt longer than the context, and whatever Decoding refuses.
    """
    try:
        generation_config = replace(generation_config or GenerationConfig(), **options)
    except TypeError:
        known = [option.name for option in fields(GenerationConfig)]
        wrong = next(name for name in options if name not in known)
        raise UserError(
            f"generate: no option {wrong!r}; it has: {', '.join(known)}{nearest(wrong, known)}"
        ) from None
    if isinstance(prompts, str):
        raise UserError("generate: prompts is a single text; expected a list of texts")
    tokens = [model.encode(prompt, bos=prefix is None) for prompt in prompts]
    requests = [Request(p, tuple(t)) for p, t in zip(prompts, tokens, strict=True)]
    candidates: list[list[Candidate]] = [
        [Candidate("", (), 0.0, "")] * generation_config.candidates for _ in prompts
    ]
    for index, number, candidate in Engine(
        model, prefix or Prefix(), generation_config, seed=seed
    ).run(requests):
        if candidate.finish_reason == "too_long":
            raise UserError(
                f"prompt {index + 1} has {len(tokens[index])} tokens, with its prefix "
                f"{len(tokens[index]) + len(prefix or ())}; the context of {model.path} holds "
                f"{model.config.context_length}"
            )
        candidates[index][number] = candidate
    return candidates
