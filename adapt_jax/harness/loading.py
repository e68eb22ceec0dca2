"""The decoder, adaptation and tokenizer that ``model_args`` name."""

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.comparison.adaptations import find_adaptation
from adapt_jax.pretrained.gguf.file import is_gguf
from adapt_jax.pretrained.hf_folder import find_folder
from adapt_jax.pretrained.loading import PretrainedDecoder, load_pretrained
from adapt_jax.pretrained.tokenizer_folder import read_tokenizer
from adapt_jax.utils.errors import UserError, nearest

__all__ = ["check_arguments", "load_adaptation", "load_decoder", "load_tokenizer"]

# arguments that the harness's command line hands to every model, and that change nothing here
IGNORED = ("batch_size", "max_batch_size", "device", "trust_remote_code")


def check_arguments(model: type, others: Iterable[str]) -> None:
    """Refuses arguments of a model that are not known; the harness hands some to every model."""
    known = [name for name in inspect.signature(model).parameters if name != "others"]
    for name in others:
        if name not in IGNORED:
            raise UserError(
                f"model_args.{name}: not known to adapt_jax; expected {', '.join(known)}"
                f"{nearest(name, known)}"
            )


def load_adaptation(
    adaptation: str | Path | Adaptation | None, pretrained: str | Path | PretrainedDecoder | None
) -> Adaptation | None:
    """The adaptation, if one is named.

    Raises:
        UserError: it cannot be read, or the harness's prompts cannot follow it.
    """
    if adaptation is None:
        return None
    if not isinstance(adaptation, Adaptation):
        adaptation = Adaptation.load(find_adaptation(str(adaptation)), pretrained)
    soft_prompt = adaptation.soft_prompt
    if soft_prompt is not None and soft_prompt.ensemble_size:
        raise UserError(
            f"adaptation: an ensemble of {soft_prompt.ensemble_size} soft prompts votes on "
            "answers; the harness can ask a single one"
        )
    if adaptation.prompt.retrieval is not None:
        raise UserError(
            "adaptation: its demonstrations are chosen for each question, which the harness's "
            "prompts do not name; expected fixed ones"
        )
    return adaptation


def load_decoder(
    adaptation: Adaptation | None,
    pretrained: str | Path | PretrainedDecoder | None,
    revision: str | None,
    dtype: str | None,
    max_length: int | None,
) -> PretrainedDecoder:
    """The decoder that answers."""
    if adaptation is not None:
        for name, value in {"revision": revision, "dtype": dtype}.items():
            if value is not None:
                raise UserError(f"{name}: {value}; an adaptation has its own")
        return adaptation.model
    if isinstance(pretrained, PretrainedDecoder):
        return pretrained
    if pretrained is None:
        raise UserError("model_args: name a decoder, as pretrained=FOLDER, or adaptation=FOLDER")
    try:
        wanted = None if dtype in (None, "auto") else jnp.dtype(dtype)
    except TypeError:
        raise UserError(f"dtype: {dtype!r}; expected float32, bfloat16 or float16") from None
    return load_pretrained(
        str(pretrained), revision=revision, dtype=wanted, context_length=max_length
    )


def load_tokenizer(model: PretrainedDecoder, add_bos_token: bool | None) -> Any:
    """The decoder's tokenizer; where BOS is chosen, read once more, as the model hf reads it."""
    if add_bos_token is None:
        return model.tokenizer
    if is_gguf(folder := find_folder(model.path, None)):
        tokenizer = read_tokenizer(folder)
        tokenizer.add_bos_token = add_bos_token
        return tokenizer
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, add_bos_token=add_bos_token)
