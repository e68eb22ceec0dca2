"""Reads Hugging Face folders and GGUF files. All problems are reported before weights are read."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, SingleDeviceSharding

from adapt_jax.decoders import sharding
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.families import Family
from adapt_jax.decoders.layout import ParameterPath
from adapt_jax.pretrained import hf_config, hf_folder, tokenization
from adapt_jax.pretrained.dequantized_tensor import Tensor
from adapt_jax.pretrained.safetensors_io import (
    FLOATS,
    count_bytes,
)
from adapt_jax.pretrained.streaming import ParameterSource, Reader, read_parameter
from adapt_jax.pretrained.tokenizer_folder import read_tokenizer
from adapt_jax.pretrained.weight_files import (
    describe_quantization,
    join_names,
    note_problem,
    open_tensors,
)
from adapt_jax.utils.cpu import multiplies_bfloat16
from adapt_jax.utils.distributed import fetch_array
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.hashing import IDENTITY_VERSION, identity, to_plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "PretrainedDecoder",
    "abstract_decoder",
    "abstract_rngs",
    "check_weights",
    "get_parameters",
    "list_shape_fields",
    "load_pretrained",
]

COMPARED_BYTES = 1 << 19  # of two tensors that are compared at a time
log = logging.getLogger("adapt_jax")
TOKEN_ID_FIELDS = ("bos_id", "eos_ids", "pad_id")


@dataclass
class PretrainedDecoder:
    """A decoder with its tokenizer.

    Attributes:
        path: the folder, or name, that it was read from.
        requested_dtype: the dtype that was asked for; None where the platform chose it.
    """

    decoder: Decoder
    tokenizer: "PreTrainedTokenizerBase"
    path: str
    requested_dtype: str | None = None

    @property
    def config(self) -> DecoderConfig:
        """The decoder's shape."""
        return self.decoder.config

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over the shape and all weights: it recognises the decoder.

        Weights are hashed as float32, so the same folder has the same fingerprint in every dtype
        that does not round them. Where they lie on devices of several processes, all of these ask
        for it together. Fields of the config at their defaults are left out: a new field
        changes no fingerprint. So are the ids of BOS, EOS and padding, which are no part of it.
        """
        shape = list_shape_fields(self.config)
        digest = hashlib.sha256(json.dumps([IDENTITY_VERSION, shape], sort_keys=True).encode())
        for path, parameter in sorted(get_parameters(self.decoder).items(), key=str):
            digest.update(json.dumps([path, parameter.shape]).encode())
            array = fetch_array(parameter).astype(np.float32, copy=False)
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()[:16]

    @cached_property
    def identity(self) -> str:
        """16 hex digits over all that answers depend on, except for the prompt.

        That is the fingerprint, the dtype that is computed in, the tokens that begin and end texts,
        the tokenizer and its chat template.
        """
        token_ids = {name: getattr(self.config, name) for name in TOKEN_ID_FIELDS}
        dtype = str(self.decoder.embedding[...].dtype)
        tokenizer = tokenization.describe_tokenizer(self.tokenizer)
        return identity("decoder", self.fingerprint, dtype, token_ids, tokenizer)

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Token ids of a text; with ``bos``, begun as the tokenizer would: BOS exactly once.

        What spells a control token, such as ``</s>``, stays text.
        """
        return tokenization.encode(
            self.tokenizer,
            text,
            bos=bos,
            vocab_size=self.config.vocab_size,
            eos_ids=self.config.eos_ids,
        )

    def encode_chat(self, text: str) -> list[int]:
        """Token ids of a conversation that ``chat.render_chat`` gave."""
        return tokenization.encode_chat(self.tokenizer, text, vocab_size=self.config.vocab_size)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return tokenization.decode(self.tokenizer, ids)


def list_shape_fields(config: DecoderConfig) -> dict[str, Any]:
    """The fields of a config that are not at their defaults, without the ids of special tokens."""
    found: dict[str, Any] = _list_set_fields(config)
    return {name: value for name, value in found.items() if name not in TOKEN_ID_FIELDS}


def _list_set_fields(value: Any) -> Any:
    """A dataclass as the names and values of its fields that are not at their defaults."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            one.name: _list_set_fields(getattr(value, one.name))
            for one in fields(value)
            if one.default is MISSING or getattr(value, one.name) != one.default
        }
    if isinstance(value, list | tuple):
        return [_list_set_fields(one) for one in value]
    return to_plain(value)


def get_parameters(decoder: Decoder) -> dict[ParameterPath, Any]:
    """Path -> array of every parameter; of an abstract decoder, its shape and dtype."""
    flat = nnx.to_flat_state(nnx.state(decoder, nnx.Param))
    return {tuple(path): parameter.get_value() for path, parameter in flat}


def load_pretrained(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: Any = None,
    mesh: Mesh | None = None,
    context_length: int | None = None,
) -> PretrainedDecoder:
    """Reads a Hugging Face folder (config files, safetensors, tokenizer) or a GGUF file.

    Arguments and errors are those of ``adapt_jax.load_pretrained``, which adds the calls of a
    Model. Besides what the devices hold, the host holds no more than one tensor's part for one
    device.
    """
    folder, problems = hf_folder.find_folder(path, revision), list[str]()
    shape = note_problem(lambda: hf_config.read_config(folder, context_length), problems)
    tokenizer = note_problem(lambda: read_tokenizer(folder), problems) if shape else None
    with ExitStack() as stack:
        tensors, damages = open_tensors(folder, stack)
        problems += damages
        if shape is not None:
            wrong = check_weights(*shape, tensors, damaged=bool(damages))
            problems += [f"{folder}: weights and config.json disagree: {wrong}"] * bool(wrong)
        if shape is None or tokenizer is None or problems:
            raise UserError("; ".join(dict.fromkeys(problems)))
        family, config = shape
        config = hf_config.add_eos_ids(folder, config, tokenizer)
        decoder = _load_decoder(family, config, tensors, dtype, mesh)
    _report_quantization(str(path), describe_quantization(folder), tensors, decoder)
    name = str(path) if revision is None or "@" in str(path) else f"{path}@{revision}"
    requested = None if dtype is None else str(decoder.embedding[...].dtype)
    if requested == "bfloat16" and jax.default_backend() == "cpu" and not multiplies_bfloat16():
        log.warning(
            "dtype: this processor has no instructions for bfloat16 products (avx512_bf16, "
            "amx_bf16); float32 is faster here"
        )
    return PretrainedDecoder(decoder, tokenizer, name, requested)


def _report_quantization(
    name: str, quantization: str, tensors: Mapping[str, Tensor], decoder: Decoder
) -> None:
    """Says what de-quantised weights take in memory."""
    if not quantization or set(quantization.removeprefix("GGUF: ").split(", ")) <= FLOATS.keys():
        return
    stored = sum(tensor.nbytes for tensor in tensors.values())
    in_memory = sum(parameter.nbytes for parameter in get_parameters(decoder).values())
    log.warning(
        "%s: weights are de-quantised (%s): %s in files, %s as %s in memory",
        name,
        quantization,
        _format_bytes(stored),
        _format_bytes(in_memory),
        decoder.embedding[...].dtype,
    )


def _format_bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _load_decoder(
    family: Family,
    config: DecoderConfig,
    tensors: dict[str, Tensor],
    dtype: Any,
    mesh: Mesh | None,
) -> Decoder:
    """The decoder of this config, with these tensors for its weights."""
    graphdef, abstract = nnx.split(abstract_decoder(config))
    tensors = {family.canonical_name(name): tensor for name, tensor in tensors.items()}
    layouts = family.tensor_layouts(config, tensors)
    shapes = {tuple(key): one.get_value().shape for key, one in nnx.to_flat_state(abstract)}
    placed = (
        None if mesh is None else dict(nnx.to_flat_state(sharding.state_shardings(abstract, mesh)))
    )
    first_device = SingleDeviceSharding(jax.local_devices()[0])
    begun = []
    with Reader() as reader:
        # all parameters begin at once; each wait then takes one that is ready or nearly so
        for key, variable in nnx.to_flat_state(abstract):
            place = first_device if placed is None else placed[key].get_value()
            source = ParameterSource(layouts[tuple(key)], tuple(key), shapes, tensors)
            begun.append((key, variable, read_parameter(reader, source, dtype, place)))
        flat = [(key, variable.replace(wait())) for key, variable, wait in begun]
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


@lru_cache(maxsize=4)
def abstract_decoder(config: DecoderConfig) -> Decoder:
    """A decoder of shapes alone, to be read and not to be changed."""
    return nnx.eval_shape(lambda: Decoder(config, rngs=abstract_rngs()))


def abstract_rngs() -> Any:
    """In place of nnx.Rngs where shapes alone are wanted: drawing takes long to trace."""
    drawn = SimpleNamespace(normal=jnp.zeros, uniform=lambda shape, **_: jnp.zeros(shape))
    return SimpleNamespace(params=drawn)


def tensors_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers, compared strip by strip.

    Some files of tied decoders repeat the embedding as the output.
    """
    if one.shape != other.shape or not {one.dtype, other.dtype} <= FLOATS.keys():
        return False
    step = max(1, COMPARED_BYTES // max(count_bytes(one.shape[1:], FLOATS[one.dtype]), 1))
    strips = [(slice(at, at + step), slice(None)) for at in range(0, one.shape[0], step)]
    return all(np.array_equal(one[strip], other[strip]) for strip in strips)


def check_weights(
    family: Family, config: DecoderConfig, tensors: dict[str, Tensor], damaged: bool
) -> str:
    """All in which weights are not exactly what the config implies; empty where they are.

    Args:
        tensors: what the files hold; an output that repeats the embedding is taken out.
        damaged: some files could not be read, so nothing is known of what is missing.
    """
    found_as = {family.canonical_name(name): name for name in tensors}
    by_name = {canonical: tensors[name] for canonical, name in found_as.items()}
    layouts = family.tensor_layouts(config, by_name)
    held = {path: value.shape for path, value in get_parameters(abstract_decoder(config)).items()}
    shapes = {name: layouts[key].tensor_shape(held) for key in held for name in layouts[key].names}
    if config.tie_embeddings:
        output, embedding = layouts["output", "kernel"].names[0], layouts["embedding",].names[0]
        if output in found_as and embedding in found_as:
            if tensors_equal(tensors[found_as[output]], tensors[found_as[embedding]]):
                del tensors[found_as.pop(output)]
    missing = [] if damaged else sorted(shapes.keys() - found_as.keys())
    unknown = (n for n in found_as.keys() - shapes.keys() if not family.ignores_tensor(n, config))
    surplus = sorted(found_as[n] for n in unknown)
    problems = [
        f"{len(names)} tensor{'s' * (len(names) > 1)} {what}: {join_names(names)}"
        for what, names in (("missing", missing), ("not known to this config", surplus))
        if names
    ]
    wrong = []
    for name in sorted(shapes.keys() & found_as.keys()):
        tensor = tensors[found_as[name]]
        if tensor.dtype not in FLOATS:
            wrong.append(f"{name} is {tensor.dtype}, expected one of {', '.join(FLOATS)}")
        elif tensor.shape != shapes[name]:
            wrong.append(f"{name} is {list(tensor.shape)}, config.json says {list(shapes[name])}")
    return "; ".join([*problems, join_names(wrong)] if wrong else problems)
