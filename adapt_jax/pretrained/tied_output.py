"""Decoders whose output is tied to the token embedding, and copies whose output is not."""

from dataclasses import replace

from flax import nnx

from adapt_jax.decoders.layout import ParameterPath
from adapt_jax.pretrained.loading import PretrainedDecoder, abstract_decoder, get_parameters

__all__ = ["EMBEDDING", "OUTPUT", "untie_output"]

EMBEDDING: ParameterPath = ("embedding",)
OUTPUT: ParameterPath = ("output", "kernel")


def untie_output(model: PretrainedDecoder) -> PretrainedDecoder:
    """A copy whose output has a kernel of its own, equal to the embedding.

    Nothing is computed: both parameters are the same array, until one of them is replaced.
    """
    config = replace(model.config, tie_embeddings=False)
    graph, abstract = nnx.split(abstract_decoder(config))
    arrays = get_parameters(model.decoder)
    arrays[OUTPUT] = arrays[EMBEDDING]
    state = [(path, one.replace(arrays[tuple(path)])) for path, one in nnx.to_flat_state(abstract)]
    return replace(model, decoder=nnx.merge(graph, nnx.from_flat_state(state)))
