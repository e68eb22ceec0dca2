"""Model: a pretrained decoder with the calls that a notebook needs.

model = adapt_jax.load_pretrained("path/to/folder")
model.logits("Once upon a time")               # [1, T, V]
model.log_likelihood("2 + 2 =", " 4")          # log-probability, and whether it is greedy
model.generate(["Once upon a time"], max_new_tokens=20)[0][0].text
"""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from adapt_jax.decoders.prefix import Prefix
from adapt_jax.pretrained import loading
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.sampling.forward import compute_logits
from adapt_jax.sampling.generate import generate
from adapt_jax.sampling.likelihood import LogLikelihood, log_likelihood
from adapt_jax.sampling.types import Candidate, GenerationConfig

__all__ = ["Model", "load_pretrained"]


class Model(PretrainedDecoder):
    """A decoder with its tokenizer, which computes logits and likelihoods, and generates."""

    @classmethod
    def of(cls, decoder: PretrainedDecoder) -> "Model":
        """The same decoder, with these calls."""
        return cls(**{one.name: getattr(decoder, one.name) for one in fields(PretrainedDecoder)})

    def logits(
        self, texts: str | Sequence[int] | Sequence[str | Sequence[int]] | Any
    ) -> Float[np.ndarray, "B T V"]:
        """Logits of token ids [T] or [B, T], or of texts; see ``forward.compute_logits``."""
        return compute_logits(self, texts)

    def log_likelihood(
        self, context: str | Sequence[int], continuation: str | Sequence[int]
    ) -> LogLikelihood:
        """How probable a continuation is; see ``likelihood.log_likelihood``."""
        return log_likelihood(self, context, continuation)

    def generate(
        self,
        prompts: Sequence[str],
        generation_config: GenerationConfig | None = None,
        *,
        prefix: Prefix | None = None,
        seed: int = 0,
        **options: Any,
    ) -> list[list[Candidate]]:
        """Continues each prompt; see ``generate.generate``."""
        return generate(self, prompts, generation_config, prefix=prefix, seed=seed, **options)


def load_pretrained(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: Any = None,
    mesh: Mesh | None = None,
    context_length: int | None = None,
) -> Model:
    """Reads a Hugging Face folder (config files, safetensors, tokenizer), or a GGUF file.

    Quantised weights become floats as they are read.

    Args:
        path: a folder; a GGUF file (extra ``[gguf]``); "embedded", the decoder that comes with
            this package; or a model on the hub, ``owner/name`` or ``owner/name@revision``, fetched
            where it is not there yet.
        revision: a branch, tag or commit on the hub, where the path names none.
        dtype: of the weights. By default float32 on CPU, elsewhere what the checkpoint holds; of
            quantised weights the dtype that its config names, or bfloat16.
        mesh: where the weights go (sharding.make_mesh); each device reads only its own part.
        context_length: tokens of the longest text, the prefix counted, if it is not what
            ``config.json`` says. Decoders whose rotary positions depend on the length of the whole
            text (dynamic, longrope) go beyond the pretrained length only if declared so.

    Raises:
        UserError: with all that is wrong at once: the folder, its weights, its config or its
            tokenizer is missing, damaged, of an unknown architecture or quantised in a way that is
            not read, or tensors and config disagree.
    """
    return Model.of(
        loading.load_pretrained(
            path, revision=revision, dtype=dtype, mesh=mesh, context_length=context_length
        )
    )
