"""Reads Hugging Face folders; what is wrong with one is told at once, before anything is loaded."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

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
from adapt_jax.pretrained import hf_folder as folders
from adapt_jax.pretrained import tokenization as tokens
from adapt_jax.pretrained.safetensors_io import (
    FLOATS,
    CorruptFileError,
    FileTensor,
    count_bytes,
    read_header,
)
from adapt_jax.pretrained.streaming import Reader, read_parameter
from adapt_jax.utils.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")  # executable when opened, so never opened
COMPARED = 1 << 19  # bytes of two tensors that are compared at a time
T = TypeVar("T")


@dataclass
class PretrainedDecoder:
    """A decoder with its tokenizer. ``path`` is the folder, or name, that it was read from."""

    decoder: Decoder
    tokenizer: "PreTrainedTokenizerBase"
    path: str

    @property
    def config(self) -> DecoderConfig:
        """The decoder's shape."""
        return self.decoder.config

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over the config and all weights, as float32.

        Reading the same folder gives the same one, in any dtype that does not round its weights.
        Fields of the config at their defaults are left out: a new one changes no fingerprint.
        """
        told = (
            (field.name, getattr(self.config, field.name), field) for field in fields(self.config)
        )
        chosen = [(name, value) for name, value, field in told if value != field.default]
        digest = hashlib.sha256(repr(chosen).encode())
        for path, parameter in sorted(get_parameters(self.decoder).items(), key=str):
            digest.update(repr((path, parameter.shape)).encode())
            array = np.asarray(jax.device_get(parameter)).astype(np.float32, copy=False)
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()[:16]

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Token ids of a text; with ``bos``, begun as the tokenizer would: BOS exactly once."""
        return tokens.encode(self.tokenizer, text, bos=bos, vocab_size=self.config.vocab_size)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return tokens.decode(self.tokenizer, ids)


def get_parameters(decoder: Decoder) -> dict[ParameterPath, Any]:
    """Path -> array (abstract, for an abstract decoder) of every parameter."""
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
    """Reads a Hugging Face folder: ``config.json``, safetensors, tokenizer.

    Beside what the devices hold, the host holds no more than one tensor's part for one device.

    Args:
        path: a folder; "embedded", the decoder that comes with this package; or a model on the
            hub, ``owner/name`` or ``owner/name@revision``, fetched where it is not there yet.
        revision: a branch, tag or commit on the hub, where the path names none.
        dtype: of the weights. By default float32 on CPU, elsewhere what the checkpoint holds.
        mesh: where the weights go (sharding.make_mesh); each device reads only its own part.
        context_length: tokens of the longest text, the prefix counted, where that is not to be
            what ``config.json`` says. Decoders whose rotary positions depend on the length of the
            whole text (dynamic, longrope) go beyond the pretrained length only if declared so.

    Raises:
        UserError: with all that is wrong at once: the folder, its weights, its config or its
            tokenizer is missing, damaged, of an unknown architecture or quantised, or tensors and
            config disagree.
    """
    folder, problems = folders.find_folder(path, revision), list[str]()
    read = attempt(lambda: folders.read_config(folder, context_length), problems)
    tokenizer = attempt(lambda: folders.read_tokenizer(folder), problems) if read else None
    with ExitStack() as stack:
        tensors, damages = open_tensors(folder, stack)
        problems += damages
        if read is not None:
            wrong = check_weights(*read, tensors, damaged=bool(damages))
            problems += [f"{folder}: weights and config.json disagree: {wrong}"] * bool(wrong)
        if read is None or tokenizer is None or problems:
            raise UserError("; ".join(problems))
        decoder = load_decoder(*read, tensors, dtype, mesh)
    name = str(path) if revision is None or "@" in str(path) else f"{path}@{revision}"
    return PretrainedDecoder(decoder, tokenizer, name)


def load_decoder(
    family: Family, config: DecoderConfig, tensors: dict[str, FileTensor], dtype: Any, mesh: Any
) -> Decoder:
    """The decoder that a config tells, with these tensors for its weights."""
    graphdef, abstract = nnx.split(abstract_decoder(config))
    stored = family.tensor_layouts(config)
    tensors = {family.canonical_name(name): tensor for name, tensor in tensors.items()}
    shapes = {tuple(key): one.get_value().shape for key, one in nnx.to_flat_state(abstract)}
    places = (
        None if mesh is None else dict(nnx.to_flat_state(sharding.state_shardings(abstract, mesh)))
    )
    here = SingleDeviceSharding(jax.devices()[0])
    begun = []
    with Reader() as reader:
        for key, variable in nnx.to_flat_state(abstract):
            place = here if places is None else places[key].get_value()
            path = tuple(key)
            wait = read_parameter(reader, tensors, stored[path], path, shapes, dtype, place)
            begun.append((key, variable, wait))
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


def attempt(call: Callable[[], T], problems: list[str]) -> T | None:
    """What the call returns; a mistake of the user's is noted instead of raised."""
    try:
        return call()
    except UserError as mistake:
        problems.append(str(mistake))
        return None


def open_tensors(folder: Path, stack: ExitStack) -> tuple[dict[str, FileTensor], list[str]]:
    """Every tensor of a folder by name, none of them read yet; and all that is damaged."""
    index, problems = folder / folders.INDEX_FILE, list[str]()
    named: dict[str, str] = {}
    files = [folders.WEIGHTS_FILE]
    if not (folder / folders.WEIGHTS_FILE).is_file():
        if not index.is_file():
            pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
            found = f" (pickled weights such as {pickles[0]} are never opened)" if pickles else ""
            expected = f"expected {folders.WEIGHTS_FILE} or {folders.INDEX_FILE}"
            return {}, [f"{folder}: no weights; {expected}{found}"]
        named = attempt(lambda: folders.read_weight_map(index), problems) or {}
        files = sorted(set(named.values()))
    tensors: dict[str, FileTensor] = {}
    for name in files:
        file = folder / name
        try:
            held = read_header(file, stack.enter_context(file.open("rb", buffering=0)).fileno())
        except OSError as error:
            problems.append(f"{file}: cannot be read ({error.strerror})")
        except CorruptFileError as damage:
            problems.append(f"{file}: not readable as safetensors: {join_names(damage.problems)}")
        else:
            twice = [f"{one} (also in {tensors[one].file.name})" for one in held if one in tensors]
            absent = [one for one, where in named.items() if where == name and one not in held]
            problems += [f"{file}: holds again {join_names(twice)}"] * bool(twice)
            problems += [f"{file}: lacks what {index.name} says: {join_names(absent)}"] * bool(
                absent
            )
            tensors |= held
    return tensors, problems


def join_names(names: Sequence[str], shown: int = 20) -> str:
    """The first few of a list, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def same(one: FileTensor, other: FileTensor) -> bool:
    """Whether two tensors are equal, read strip by strip.

    Some files of tied decoders repeat the embedding as the output.
    """
    if one.shape != other.shape or not {one.dtype, other.dtype} <= FLOATS.keys():
        return False
    step = max(1, COMPARED // max(count_bytes(one.shape[1:], FLOATS[one.dtype]), 1))
    strips = [(slice(at, at + step), slice(None)) for at in range(0, one.shape[0], step)]
    return all(np.array_equal(one[strip], other[strip]) for strip in strips)


def check_weights(
    family: Family, config: DecoderConfig, tensors: dict[str, FileTensor], damaged: bool
) -> str:
    """All in which weights are not exactly what the config implies; empty where they are.

    Args:
        tensors: what is there; a repeated output is taken out.
        damaged: some files could not be read, so nothing is known of what is missing.
    """
    stored = family.tensor_layouts(config)
    held = {path: value.shape for path, value in get_parameters(abstract_decoder(config)).items()}
    shapes = {name: stored[key].tensor_shape(held) for key in held for name in stored[key].names}
    named = {family.canonical_name(name): name for name in tensors}
    if config.tie_embeddings:
        output, embedding = stored["output", "kernel"].names[0], stored["embedding",].names[0]
        if output in named and embedding in named:
            if same(tensors[named[output]], tensors[named[embedding]]):
                del tensors[named.pop(output)]
    missing = [] if damaged else sorted(shapes.keys() - named.keys())
    unknown = (n for n in named.keys() - shapes.keys() if not family.ignores_tensor(n, config))
    surplus = sorted(named[n] for n in unknown)
    found = [
        f"{len(names)} tensor{'s' * (len(names) > 1)} {what}: {join_names(names)}"
        for what, names in (("missing", missing), ("not known to this config", surplus))
        if names
    ]
    wrong = []
    for name in sorted(shapes.keys() & named.keys()):
        tensor = tensors[named[name]]
        if tensor.dtype not in FLOATS:
            wrong.append(f"{name} is {tensor.dtype}, expected one of {', '.join(FLOATS)}")
        elif tensor.shape != shapes[name]:
            wrong.append(f"{name} is {list(tensor.shape)}, config.json says {list(shapes[name])}")
    found += [join_names(wrong)] if wrong else []
    return "; ".join(found)
