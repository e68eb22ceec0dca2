"""Writes Hugging Face folders that transformers loads too: one tensor at a time, in shards."""

import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adapt_jax.decoders.families import FAMILIES
from adapt_jax.decoders.layout import ParameterPath, Shape, TensorLayout
from adapt_jax.pretrained.hf_folder import INDEX_FILE, WEIGHTS_FILE, find_folder
from adapt_jax.pretrained.loading import PretrainedDecoder, get_parameters, open_tensors
from adapt_jax.pretrained.safetensors_io import (
    CODES,
    FLOATS,
    FileTensor,
    count_bytes,
    write_tensors,
)
from adapt_jax.utils.errors import UserError

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
DEFAULT_SHARD_SIZE = "5GB"


def save_pretrained(
    model: PretrainedDecoder,
    folder: str | Path,
    *,
    dtype: Any = None,
    max_shard_size: int | str = DEFAULT_SHARD_SIZE,
) -> None:
    """Writes a Hugging Face folder: config, weights, tokenizer, and how to generate.

    All files are complete before the first of them appears in ``folder``; weights that stood there
    before are taken away.

    Args:
        dtype: of the weights in the files; by default what they are in memory.
        max_shard_size: bytes of one file, or a text such as "200MB"; a larger tensor stands alone.

    Raises:
        UserError: the folder cannot be written, or the decoder has parameters that its family has
            no tensor for (low-rank factors are merged into the kernels first).
    """
    folder, family = Path(folder), FAMILIES[model.config.family]
    stored = family.tensor_layouts(model.config)
    held = get_parameters(model.decoder)
    shapes = {key: value.shape for key, value in held.items()}
    kind = jnp.dtype(dtype or next(iter(held.values())).dtype)
    if kind not in CODES:
        raise UserError(f"dtype {kind}: expected one of {', '.join(map(str, CODES))}")
    written: dict[str, Shape] = {}  # of all tensors, in the order of the parameters
    sources: dict[str, ParameterPath] = {}  # tensor -> one parameter in it
    for key in held:
        if key not in stored:
            raise UserError(f"{folder}: no Hugging Face tensor for {'.'.join(map(str, key))}")
        written |= dict.fromkeys(stored[key].names, stored[key].tensor_shape(shapes))
        sources |= dict.fromkeys(stored[key].names, key)
    shards = split_into_shards(written, kind, parse_shard_size(max_shard_size))
    # transformers before 4.56, and what is built on it, reads the second name alone
    config = family.to_hf(model.config) | {"dtype": str(kind), "torch_dtype": str(kind)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
            whole = Path(temporary)
            for file, names in shards.items():
                arrays = iterate_tensors(list(names), sources, stored, held, kind)
                write_tensors(whole / file, names, kind, arrays)
            if len(shards) > 1:
                total = sum(count_bytes(shape, kind) for shape in written.values())
                where = {name: file for file, names in shards.items() for name in names}
                index = {"metadata": {"total_size": total}, "weight_map": where}
                (whole / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
            (whole / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            write_tokenizer(model, whole)
            for old in [*folder.glob("model*.safetensors"), folder / INDEX_FILE]:
                old.unlink(missing_ok=True)
            for new in whole.iterdir():
                os.replace(new, folder / new.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error})") from None


def read_source_dtype(path: str | Path) -> str | None:
    """The dtype of most bytes in a folder's weights; None where no weights can be read there."""
    try:
        with ExitStack() as stack:
            tensors, _ = open_tensors(find_folder(path), stack)
    except UserError:  # the folder was moved
        return None
    return find_main_dtype(tensors)


def find_main_dtype(tensors: Mapping[str, FileTensor]) -> str | None:
    """The floating-point dtype that takes most bytes of these tensors."""
    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        if tensor.dtype in FLOATS:
            sizes[str(FLOATS[tensor.dtype])] += count_bytes(tensor.shape, FLOATS[tensor.dtype])
    return max(sizes, key=lambda dtype: sizes[dtype], default=None)


def parse_shard_size(size: int | str) -> int:
    """Bytes, from a number or a text such as "5GB".

    Raises:
        UserError: for any other text, and what is not above zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?B)?\s*", str(size).upper())
    count = int(float(found[1]) * UNITS[found[2] or ""]) if found else 0
    if count < 1:
        raise UserError(f"max_shard_size {size!r}: expected a size such as 5GB or 200MB")
    return count


def split_into_shards(
    shapes: dict[str, Shape], dtype: Any, size: int
) -> dict[str, dict[str, Shape]]:
    """File -> its tensors: as few files as keep to the size, tensors in their order."""
    shards: list[dict[str, Shape]] = [{}]
    room = size
    for name, shape in shapes.items():
        if shards[-1] and count_bytes(shape, dtype) > room:
            shards.append({})
            room = size
        shards[-1][name] = shape
        room -= count_bytes(shape, dtype)
    if len(shards) == 1:
        return {WEIGHTS_FILE: shards[0]}
    count = len(shards)
    return {f"model-{n:05}-of-{count:05}.safetensors": shard for n, shard in enumerate(shards, 1)}


def iterate_tensors(
    names: list[str],
    sources: dict[str, ParameterPath],
    stored: dict[ParameterPath, TensorLayout],
    held: dict[ParameterPath, Any],
    dtype: Any,
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of each tensor; what one parameter holds for several names is fetched once."""
    waiting = set(names)
    for name in names:
        if name not in waiting:
            continue
        one = stored[sources[name]]
        parts = {
            part: np.asarray(jax.device_get(held[part])).astype(dtype, copy=False)
            for part in one.parameters
        }
        for written, array in one.write(parts).items():
            if written in waiting:
                waiting.discard(written)
                yield written, array


def write_tokenizer(model: PretrainedDecoder, folder: Path) -> None:
    """The tokenizer with its chat template, and how the decoder's own folder says to generate."""
    model.tokenizer.save_pretrained(folder)
    if not model.path:  # it was never read from a folder
        return
    try:
        generation = find_folder(model.path) / "generation_config.json"
    except UserError:  # the folder was moved
        return
    if generation.is_file():
        shutil.copy(generation, folder / generation.name)
