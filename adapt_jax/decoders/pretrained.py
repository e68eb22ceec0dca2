"""Reads Hugging Face folders: in slices of a few megabytes, each straight to its place."""

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from adapt_jax.decoders import folders, sharding, tokens
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.families import Family, tensor_names
from adapt_jax.decoders.tensor_files import FLOATS, Damaged, FileTensor, nbytes, tensors_in
from adapt_jax.decoders.tensors import Index, ParameterPath, Shape, Stored
from adapt_jax.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")  # executable when opened, so never opened
STRIP = 1 << 20  # bytes of a file that one thread holds: they stay in the processor's cache
BLOCK = 256  # rows of a strip that are turned at a time
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
        """
        digest = hashlib.sha256(repr(self.config).encode())
        for path, parameter in sorted(parameters(self.decoder).items(), key=str):
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


def parameters(decoder: Decoder) -> dict[ParameterPath, Any]:
    """Path -> array (abstract, for an abstract decoder) of every parameter."""
    flat = nnx.to_flat_state(nnx.state(decoder, nnx.Param))
    return {tuple(path): parameter.get_value() for path, parameter in flat}


def load_pretrained(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: Any = None,
    mesh: Mesh | None = None,
) -> PretrainedDecoder:
    """Reads a Hugging Face folder: ``config.json``, safetensors, tokenizer.

    Beside what the devices hold, the host holds no more than one tensor's part for one device,
    and on a CPU a few megabytes.

    Args:
        path: a folder; "embedded", the decoder that comes with this package; or a model on the
            hub, ``owner/name`` or ``owner/name@revision``, fetched where it is not there yet.
        revision: a branch, tag or commit on the hub, where the path names none.
        dtype: of the weights. By default float32 on CPU, elsewhere what the checkpoint holds.
        mesh: where the weights go (sharding.make_mesh); each device reads only its own part.

    Raises:
        UserError: with all that is wrong at once: the folder, its weights, its config or its
            tokenizer is missing, damaged, of an unknown architecture or quantised, or tensors and
            config disagree.
    """
    folder, problems = folders.find_folder(path, revision), list[str]()
    read = attempt(lambda: folders.read_config(folder), problems)
    tokenizer = attempt(lambda: folders.read_tokenizer(folder), problems) if read else None
    with ExitStack() as stack:
        tensors = open_tensors(folder, stack, problems)
        if read is None or tokenizer is None:
            raise UserError("; ".join(problems))
        decoder = load_decoder(folder, *read, tensors, problems, dtype, mesh)
    name = str(path) if revision is None or "@" in str(path) else f"{path}@{revision}"
    return PretrainedDecoder(decoder, tokenizer, name)


def load_decoder(
    folder: Path,
    family: Family,
    config: DecoderConfig,
    tensors: dict[str, FileTensor],
    problems: list[str],
    dtype: Any,
    mesh: Mesh | None,
) -> Decoder:
    """The decoder that a config tells, with these tensors for its weights.

    Raises:
        UserError: with the ``problems`` found so far, and those of the tensors.
    """
    decoder = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    graphdef, abstract = nnx.split(decoder)
    tensors = {family.canonical(name): tensor for name, tensor in tensors.items()}
    stored = tensor_names(family, config)
    shapes = {key: value.shape for key, value in parameters(decoder).items()}
    if config.tie_embeddings:
        drop_repeated_output(tensors, stored)
    expected = {
        name: stored[key].tensor_shape(shapes) for key in shapes for name in stored[key].names
    }
    problems += disagreements(tensors, expected, family, damaged=bool(problems))
    if problems:
        raise UserError(f"{folder}: {'; '.join(problems)}")
    places = None if mesh is None else dict(nnx.to_flat_state(sharding.shardings(abstract, mesh)))
    here = SingleDeviceSharding(jax.devices()[0])
    flat = []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for key, variable in nnx.to_flat_state(abstract):
            place = here if places is None else places[key].get_value()
            array = read_parameter(
                tensors, stored[tuple(key)], tuple(key), shapes, dtype, place, pool
            )
            flat.append((key, variable.replace(array)))
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def attempt(call: Callable[[], T], problems: list[str]) -> T | None:
    """What the call returns; a mistake of the user's is noted instead of raised."""
    try:
        return call()
    except UserError as mistake:
        problems.append(str(mistake))
        return None


def open_tensors(folder: Path, stack: ExitStack, problems: list[str]) -> dict[str, FileTensor]:
    """Every tensor of a folder by name, none of them read yet; what is wrong is noted."""
    index = folder / folders.INDEX
    named: dict[str, str] = {}
    if index.is_file() and not (folder / folders.WEIGHTS).is_file():
        named = attempt(lambda: folders.weight_map(index), problems) or {}
        files = sorted(set(named.values()))
    else:
        files = [folders.WEIGHTS]
        if not (folder / folders.WEIGHTS).is_file():
            pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
            found = f" (pickled weights such as {pickles[0]} are never opened)" if pickles else ""
            expected = f"expected {folders.WEIGHTS} or {folders.INDEX}"
            problems.append(f"{folder}: no weights; {expected}{found}")
            return {}
    tensors: dict[str, FileTensor] = {}
    for name in files:
        try:
            opened = stack.enter_context((folder / name).open("rb", buffering=0))
            held = tensors_in(folder / name, opened.fileno())
        except OSError as error:
            problems.append(f"{folder / name}: cannot be read ({error.strerror})")
        except Damaged as damage:
            problems.append(
                f"{folder / name}: not readable as safetensors: {listed(damage.problems)}"
            )
        else:
            twice = [
                f"{tensor} (also in {tensors[tensor].file.name})"
                for tensor in held
                if tensor in tensors
            ]
            absent = [
                tensor for tensor, file in named.items() if file == name and tensor not in held
            ]
            if twice:
                problems.append(f"{folder / name}: holds again {listed(twice)}")
            if absent:
                problems.append(f"{folder / name}: lacks what {index.name} says: {listed(absent)}")
            tensors |= held
    return tensors


def listed(names: Sequence[str], shown: int = 20) -> str:
    """The first few of a list, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def drop_repeated_output(
    tensors: dict[str, FileTensor], stored: Mapping[ParameterPath, Stored]
) -> None:
    """Some files of tied decoders repeat the embedding as the output: an equal copy is dropped.

    One that differs stays, and is refused as surplus.
    """
    names = (stored["output", "kernel"].names[0], stored["embedding",].names[0])
    if not all(name in tensors for name in names):
        return
    output, embedding = (tensors[name] for name in names)
    if output.shape == embedding.shape and {output.dtype, embedding.dtype} <= FLOATS.keys():
        step = max(1, STRIP // nbytes(output.shape[1:], FLOATS[output.dtype]))
        strips = [(slice(at, at + step), slice(None)) for at in range(0, output.shape[0], step)]
        if all(np.array_equal(output[strip], embedding[strip]) for strip in strips):
            del tensors[names[0]]


def disagreements(
    tensors: Mapping[str, FileTensor],
    shapes: Mapping[str, Shape],
    family: Family,
    damaged: bool,
) -> list[str]:
    """All in which weights are not exactly what the config implies.

    Args:
        shapes: of the tensors that must be there.
        family: says which tensors may be there, unread.
        damaged: some files could not be read, so nothing is known of what is missing.
    """
    missing = [] if damaged else sorted(shapes.keys() - tensors.keys())
    surplus = sorted(n for n in tensors.keys() - shapes.keys() if not family.ignores(n))
    found = [
        f"{len(names)} tensor{'s' * (len(names) > 1)} {what}: {listed(names)}"
        for what, names in (("missing", missing), ("not known to this config", surplus))
        if names
    ]
    wrong = []
    for name in sorted(shapes.keys() & tensors.keys()):
        tensor = tensors[name]
        if tensor.dtype not in FLOATS:
            wrong.append(f"{name} is {tensor.dtype}, expected one of {', '.join(FLOATS)}")
        elif tensor.shape != shapes[name]:
            wrong.append(f"{name} is {list(tensor.shape)}, config.json says {list(shapes[name])}")
    found += [listed(wrong)] if wrong else []
    return [f"weights and config.json disagree: {'; '.join(found)}"] if found else []


def read_parameter(
    tensors: Mapping[str, FileTensor],
    stored: Stored,
    path: ParameterPath,
    shapes: Mapping[ParameterPath, Shape],
    dtype: Any,
    place: Sharding,
    pool: ThreadPoolExecutor,
) -> jax.Array:
    """One parameter; each device's part is read on its own, and one part at a time is held."""
    if dtype is None:
        on_cpu = jax.default_backend() == "cpu"
        dtype = jnp.float32 if on_cpu else FLOATS[tensors[stored.names[0]].dtype]
    parts: dict[str, tuple[Index, list[Any]]] = {}
    for device, index in place.addressable_devices_indices_map(shapes[path]).items():
        bounds = zip(index or (), shapes[path], strict=True)
        whole = tuple(slice(*one.indices(size)[:2]) for one, size in bounds)
        parts.setdefault(str(whole), (whole, []))[1].append(device)
    pieces: list[jax.Array] = []
    for index, devices in parts.values():
        part = read_part(tensors, stored, path, shapes, jnp.dtype(dtype), index, pool)
        pieces += [jax.device_put(part, device) for device in devices]
        jax.block_until_ready(pieces)
    return jax.make_array_from_single_device_arrays(shapes[path], place, pieces)


def read_part(
    tensors: Mapping[str, FileTensor],
    stored: Stored,
    path: ParameterPath,
    shapes: Mapping[ParameterPath, Shape],
    dtype: np.dtype,
    index: Index,
    pool: ThreadPoolExecutor,
) -> np.ndarray:
    """A part of a parameter, read and turned strip by strip.

    A strip is read, cast and turned while it lies in the processor's cache: this is twice as fast
    as reading the whole tensor first, and needs no memory for it.
    """
    out = aligned(tuple(one.stop - one.start for one in index), dtype)

    def copy(strip: Index) -> None:
        there = tuple(
            slice(one.start + part.start, one.start + part.stop)
            for one, part in zip(index, strip, strict=True)
        )
        # astype keeps the order of the axes in memory, so that it runs over whole rows
        piece = stored.read(path, shapes, tensors, there).astype(dtype, copy=False)
        target = out[strip]
        if piece.ndim < 2:
            target[...] = piece
        else:
            for at in range(0, piece.shape[-2], BLOCK):
                target[..., at : at + BLOCK, :] = piece[..., at : at + BLOCK, :]

    list(pool.map(copy, strips(out.shape, stored, dtype.itemsize)))
    return out


def strips(shape: Shape, stored: Stored, itemsize: int) -> list[Index]:
    """A parameter cut into parts that lie together in the file, of about STRIP bytes."""
    if len(shape) == 3:  # by expert
        experts = [slice(at, at + 1) for at in range(shape[0])]
        rest: list[Index] = [(slice(0, shape[1]), slice(0, shape[2]))]
        if len(stored.names) > 1:
            rest = strips(shape[1:], stored, itemsize)
        return [(expert, *strip) for expert in experts for strip in rest]
    axis = 1 if stored.swapped and len(shape) == 2 else 0
    whole = tuple(slice(0, size) for size in shape)
    if stored.groups > 1 or not shape:
        return [whole]
    width = math.prod(shape) // max(shape[axis], 1) * itemsize
    step = max(16, STRIP // max(width, 1))
    return [
        (*whole[:axis], slice(at, min(at + step, shape[axis])), *whole[axis + 1 :])
        for at in range(0, shape[axis], step)
    ]


def aligned(shape: Shape, dtype: np.dtype) -> np.ndarray:
    """An empty array that begins where XLA wants it to, so that a CPU device takes it uncopied."""
    raw = np.empty(nbytes(shape, dtype) + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes(shape, dtype)].view(dtype).reshape(shape)
