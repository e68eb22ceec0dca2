"""A decoder's config and tokenizer, for what needs no weights: prompts, lengths, shapes."""

from pathlib import Path

from adapt_jax.pretrained import hf_config, hf_folder
from adapt_jax.pretrained.loading import PretrainedDecoder, abstract_decoder
from adapt_jax.pretrained.tokenizer_folder import read_tokenizer

__all__ = ["load_without_weights"]


def load_without_weights(path: str | Path, context_length: int | None = None) -> PretrainedDecoder:
    """As ``load_pretrained``, with a decoder of shapes alone; the weights may be absent.

    Args:
        path: a folder, "embedded", or a name on the hub, of which only the small files are fetched.
        context_length: see load_pretrained.

    Raises:
        UserError: no folder, an unknown architecture, or no usable tokenizer.
    """
    folder = hf_folder.find_folder(path, weights=False)
    _, config = hf_config.read_config(folder, context_length)
    tokenizer = read_tokenizer(folder)
    config = hf_config.add_eos_ids(folder, config, tokenizer)
    return PretrainedDecoder(abstract_decoder(config), tokenizer, str(path))
