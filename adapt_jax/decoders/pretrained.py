"""Reads and writes Hugging Face folders: tensor by tensor, each straight to its place."""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from adapt_jax.decoders import sharding, tokens
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.families import FAMILIES, Family, tensor_names
from adapt_jax.decoders.tensors import ParameterPath, Shape, Stored
from adapt_jax.errors import UserError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EMBEDDED = Path(__file__).resolve().parents[1] / "assets" / "arithmetic"  # named "embedded"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")  # executable when opened, so never opened
FLOATS = ("F64", "F32", "F16", "BF16")
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass
class PretrainedDecoder:
    """A decoder with its tokenizer. ``path`` is the folder that it was read from."""

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
            digest.update(np.asarray(jax.device_get(parameter)).astype(np.float32).tobytes())
        return digest.hexdigest()[:16]

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Token ids of a text; with ``bos``, begun as the tokenizer would: BOS exactly once."""
        return tokens.encode(self.tokenizer, text, bos=bos, vocab_size=self.config.vocab_size)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return tokens.decode(self.tokenizer, ids)


def parameters(decoder: Decoder) -> dict[tuple[Any, ...], Any]:
    """Path -> array (abstract, for an abstract decoder) of every parameter."""
    flat = nnx.to_flat_state(nnx.state(decoder, nnx.Param))
    return {tuple(path): parameter.get_value() for path, parameter in flat}


def load_pretrained(
    path: str | Path, *, dtype: Any = None, mesh: Mesh | None = None
) -> PretrainedDecoder:
    """Reads a Hugging Face folder: ``config.json``, safetensors, tokenizer.

    Args:
        path: a folder; "embedded", the decoder that comes with this package; or the name of a
            model in the local Hugging Face cache (nothing is ever downloaded here).
        dtype: of the weights. By default float32 on CPU, elsewhere what the checkpoint holds.
        mesh: where the weights go (sharding.make_mesh); each device reads only its own part.

    Raises:
        UserError: the folder, its weights, its config or its tokenizer is missing, malformed, of an
            unknown architecture or quantised, or tensors and config disagree.
    """
    folder = find_folder(path)
    family, config = read_config(folder)
    decoder = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    graphdef, abstract = nnx.split(decoder)
    stored = tensor_names(family, config)
    shapes = {key: value.shape for key, value in parameters(decoder).items()}
    places = None if mesh is None else dict(nnx.to_flat_state(sharding.shardings(abstract, mesh)))
    with ExitStack() as stack:
        tensors = open_tensors(folder, stack)
        if config.tie_embeddings:
            drop_repeated_output(tensors, stored)
        expected = {
            name: stored[key].tensor_shape(shapes) for key in shapes for name in stored[key].names
        }
        check_tensors(folder, tensors, expected, family.IGNORED)
        flat = []
        for key, variable in nnx.to_flat_state(abstract):
            place = None if places is None else places[key].get_value()
            array = read_parameter(tensors, stored[tuple(key)], tuple(key), shapes, dtype, place)
            flat.append((key, variable.replace(array)))
    state = nnx.from_flat_state(flat)
    return PretrainedDecoder(nnx.merge(graphdef, state), read_tokenizer(folder), str(path))


def save_pretrained(model: PretrainedDecoder, folder: str | Path, *, dtype: Any = None) -> None:
    """Writes a Hugging Face folder that transformers loads too.

    All files are complete before the first of them appears in ``folder``.

    Args:
        dtype: of the weights in the file; by default what they are in memory.

    Raises:
        UserError: the folder cannot be written, or the decoder has parameters that its family has
            no tensor for (low-rank factors are merged into the kernels first).
    """
    folder, family = Path(folder), FAMILIES[model.config.family]
    stored = tensor_names(family, model.config)
    tensors: dict[str, np.ndarray] = {}
    written = parameters(model.decoder)
    for key in written:
        if key not in stored:
            raise UserError(f"{folder}: no Hugging Face tensor for {'.'.join(map(str, key))}")
        if key == stored[key].parts[0]:
            parts = {part: written[part] for part in stored[key].parts}
            tensors |= stored[key].write(
                {
                    part: np.asarray(jax.device_get(value)).astype(dtype or value.dtype)
                    for part, value in parts.items()
                }
            )
    hf = family.to_hf(model.config) | {"dtype": str(next(iter(tensors.values())).dtype)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
            whole = Path(temporary)
            save_file(tensors, whole / WEIGHTS, metadata={"format": "pt"})
            (whole / "config.json").write_text(json.dumps(hf, indent=2) + "\n")
            model.tokenizer.save_pretrained(whole)
            for file in whole.iterdir():
                os.replace(file, folder / file.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error})") from None


def find_folder(path: str | Path) -> Path:
    """The folder that a path, "embedded" or the name of a cached model stands for."""
    if str(path) == "embedded":
        path = EMBEDDED
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(f"{path}: is a file; expected a Hugging Face folder with config.json")
    if str(path).count("/") == 1 and not str(path).startswith(("/", ".", "~")):
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(str(path), local_files_only=True))
        except (OSError, ValueError):
            raise UserError(
                f"{path}: no such folder, nor in the local Hugging Face cache; "
                f"`hf download {path}` would fetch it from the hub"
            ) from None
    raise UserError(f"{path}: no such folder; expected a Hugging Face folder, or 'embedded'")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file whose top level is an object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content


def read_config(folder: Path) -> tuple[Family, DecoderConfig]:
    """The family and the shape that ``config.json`` tells.

    ``generation_config.json``, where it is there, has the last word on BOS, EOS and padding.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"{folder}: no config.json; expected a Hugging Face model folder")
    hf = read_json(file)
    generation = folder / "generation_config.json"
    if generation.is_file():
        said = read_json(generation)
        hf |= {name: said[name] for name in SPECIAL_IDS if said.get(name) is not None}
    if hf.get("quantization_config"):
        raise UserError(f"{file}: quantised weights (quantization_config) are not supported")
    architecture = str((hf.get("architectures") or ["none"])[0])
    if architecture not in FAMILIES:
        raise UserError(
            f"{file}: architecture {architecture!r} is not supported; "
            f"supported: {', '.join(FAMILIES)}{nearest(architecture, FAMILIES)}"
        )
    try:
        return FAMILIES[architecture], FAMILIES[architecture].to_config(hf)
    except KeyError as error:
        raise UserError(f"{file}: no field {error}") from None
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"{file}: {error}") from None


def open_tensors(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Every tensor's name -> the open file that holds it; no tensor is read yet."""
    if (folder / WEIGHTS).is_file():
        files = [folder / WEIGHTS]
    elif (folder / INDEX).is_file():
        weight_map = read_json(folder / INDEX).get("weight_map", {})
        files = sorted({folder / name for name in weight_map.values()})
    else:
        pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
        found = f" (pickled weights such as {pickles[0]} are never opened)" if pickles else ""
        raise UserError(f"{folder}: no weights; expected {WEIGHTS} or {INDEX}{found}")
    tensors: dict[str, Any] = {}
    for file in files:
        try:
            opened = stack.enter_context(safe_open(file, framework="np"))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file}: not readable as safetensors ({error})") from None
        tensors |= dict.fromkeys(opened.keys(), opened)
    return tensors


def drop_repeated_output(tensors: dict[str, Any], stored: dict[ParameterPath, Stored]) -> None:
    """Some files of tied decoders repeat the embedding as the output: an equal copy is dropped.

    One that differs stays, and is refused as surplus.
    """
    output, embedding = stored["output", "kernel"].names[0], stored["embedding",].names[0]
    if output in tensors and embedding in tensors:
        one, other = (tensors[name].get_tensor(name) for name in (output, embedding))
        if np.array_equal(one, other):
            del tensors[output]


def check_tensors(
    folder: Path,
    tensors: dict[str, Any],
    shapes: dict[str, Shape],
    ignored: tuple[str, ...],
) -> None:
    """Refuses, in one message, weights that are not exactly what the config implies.

    Args:
        tensors: the open file of each tensor that is there.
        shapes: what must be there.
        ignored: ends of names that may be there.
    """
    missing = sorted(shapes.keys() - tensors.keys())
    surplus = sorted(name for name in tensors.keys() - shapes.keys() if not name.endswith(ignored))
    problems = [
        f"{len(names)} tensor{'s' * (len(names) > 1)} {what}: {', '.join(names[:3])}"
        + ", ..." * (len(names) > 3)
        for what, names in (("missing", missing), ("not known to this config", surplus))
        if names
    ]
    wrong = []
    for name in sorted(shapes.keys() & tensors.keys()):
        piece = tensors[name].get_slice(name)
        if piece.get_dtype() not in FLOATS:
            wrong.append(f"{name} is {piece.get_dtype()}, expected one of {', '.join(FLOATS)}")
        elif tuple(piece.get_shape()) != shapes[name]:
            wrong.append(f"{name} is {piece.get_shape()}, config.json says {list(shapes[name])}")
    problems += wrong[:3] + [f"and {len(wrong) - 3} more like these"] * (len(wrong) > 3)
    if problems:
        raise UserError(f"{folder}: weights and config.json disagree: {'; '.join(problems)}")


def read_parameter(
    files: dict[str, Any],
    stored: Stored,
    path: ParameterPath,
    shapes: dict[ParameterPath, Shape],
    dtype: Any,
    place: Any,
) -> jax.Array:
    """One parameter; with a place, each device's part is read on its own."""
    shape = shapes[path]
    tensors = {name: files[name].get_slice(name) for name in stored.names}
    if dtype is None and jax.default_backend() == "cpu":
        dtype = jnp.float32

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        array = stored.read(path, shapes, tensors, index or (slice(None),) * len(shape))
        return np.ascontiguousarray(array.astype(dtype or array.dtype))

    if place is not None:
        return jax.make_array_from_callback(shape, place, part)
    return jnp.asarray(part(None))


def read_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The folder's tokenizer, through transformers; code in the folder is never run."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever the file at fault leads it to
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{folder}: no usable tokenizer ({reason[0]})") from None
