"""Writes Hugging Face folders that transformers loads too: one tensor at a time, in shards."""

import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from adapt_jax.decoders.families import FAMILIES
from adapt_jax.decoders.layout import ParameterPath, Shape, TensorLayout
from adapt_jax.pretrained.dequantized_tensor import Tensor
from adapt_jax.pretrained.hf_folder import INDEX_FILE, WEIGHTS_FILE, find_cached_folder, read_json
from adapt_jax.pretrained.loading import PretrainedDecoder, get_parameters
from adapt_jax.pretrained.safetensors_io import (
    DTYPE_NAMES,
    FLOATS,
    count_bytes,
    write_tensors,
)
from adapt_jax.pretrained.weight_files import open_tensors
from adapt_jax.utils.distributed import fetch_array, is_main_process
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import (
    check_output_folder,
    replace_folder,
    report_write_errors,
    write_text,
)

__all__ = [
    "DEFAULT_SHARD_SIZE",
    "find_main_dtype",
    "parse_shard_size",
    "read_source_dtype",
    "save_pretrained",
]

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
DEFAULT_SHARD_SIZE = "5GB"
# What a Hugging Face folder holds of its decoder: none of it stays beside another decoder.
OWN_FILES = (
    *("*.safetensors", INDEX_FILE, "config.json", "generation_config.json", "tokenizer*"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template*"),
)


def save_pretrained(
    model: PretrainedDecoder,
    folder: str | Path,
    *,
    dtype: Any = None,
    max_shard_size: int | str = DEFAULT_SHARD_SIZE,
) -> None:
    """Writes a Hugging Face folder: config, weights, tokenizer, and how to generate.

    A folder that holds a decoder is replaced in one step, and what else it holds is kept. Of
    several processes all call it, and process 0 writes.

    Args:
        dtype: of the weights in the files; by default what they are in memory.
        max_shard_size: bytes of one file, or a text such as "200MB"; a larger tensor
            gets a file of its own.

    Raises:
        UserError: the folder cannot be written, or the decoder has parameters that its family has
            no tensor for (LoRA factors are merged into the kernels first).
    """
    folder, parameters = Path(folder), get_parameters(model.decoder)
    layouts = FAMILIES[model.config.family].tensor_layouts(model.config)
    if lacking := [".".join(map(str, path)) for path in parameters if path not in layouts]:
        raise UserError(f"{folder}: no Hugging Face tensor for {lacking[0]}")
    dtype = jnp.dtype(dtype or next(iter(parameters.values())).dtype)
    if dtype not in DTYPE_NAMES:
        raise UserError(f"dtype {dtype}: expected one of {', '.join(map(str, DTYPE_NAMES))}")
    shard_bytes = parse_shard_size(max_shard_size)

    if not is_main_process():
        _write_weights(None, parameters, layouts, dtype, shard_bytes)
        return

    def write(new: Path) -> None:
        _write_weights(new, parameters, layouts, dtype, shard_bytes)
        _write_config(new, model, dtype)
        model.tokenizer.save_pretrained(new)

    def write_all(new: Path) -> None:
        write(new)
        _keep_other_files(folder.resolve(), new)

    if (folder / "config.json").is_file():
        replace_folder(folder, write_all, marker="config.json")
    else:
        _add_to_folder(folder, write)


def _add_to_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Writes a decoder into a folder that holds none; ``config.json`` appears last."""
    target = check_output_folder(folder)
    with report_write_errors(folder):
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".new-") as temporary:
            write(Path(temporary))
            files = sorted(Path(temporary).iterdir(), key=lambda file: file.name == "config.json")
            for file in files:
                os.replace(file, target / file.name)


def _keep_other_files(old: Path, new: Path) -> None:
    """Puts the files of the old folder that describe no decoder into the new one.

    They are linked, so that nothing is copied.
    """

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:  # a file system without links
            shutil.copy2(source, target, follow_symlinks=False)

    def is_old(folder: str, names: list[str]) -> list[str]:
        if Path(folder) != old:
            return []
        return [n for n in names if any(fnmatch(n, p) for p in OWN_FILES) or (new / n).exists()]

    shutil.copytree(old, new, symlinks=True, ignore=is_old, copy_function=link, dirs_exist_ok=True)


def _write_weights(
    folder: Path | None,
    parameters: Mapping[ParameterPath, Any],
    layouts: Mapping[ParameterPath, TensorLayout],
    dtype: np.dtype,
    shard_bytes: int,
) -> None:
    """The safetensors files, and their index where there are several.

    Without a folder it takes part in fetching the tensors, which another process writes.
    """
    shapes = {path: value.shape for path, value in parameters.items()}
    tensor_shapes: dict[str, Shape] = {}  # in the order of the parameters
    sources: dict[str, ParameterPath] = {}  # tensor -> one parameter in it
    for path in parameters:
        names = layouts[path].names
        tensor_shapes |= dict.fromkeys(names, layouts[path].tensor_shape(shapes))
        sources |= dict.fromkeys(names, path)
    shards = _split_into_shards(tensor_shapes, dtype, shard_bytes)
    for file, in_shard in shards.items():
        arrays = _iterate_tensors(list(in_shard), sources, layouts, parameters, dtype)
        if folder is None:
            for _ in arrays:
                pass
        else:
            write_tensors(folder / file, in_shard, dtype, arrays)
    if folder is None:
        return
    if len(shards) > 1:
        total = sum(count_bytes(shape, dtype) for shape in tensor_shapes.values())
        weight_map = {name: file for file, in_shard in shards.items() for name in in_shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_text(folder / INDEX_FILE, json.dumps(index, indent=2, sort_keys=True) + "\n")


def _write_config(folder: Path, model: PretrainedDecoder, dtype: np.dtype) -> None:
    """config.json, and generation_config.json where the decoder's own folder has one."""
    config = FAMILIES[model.config.family].to_hf(model.config)
    # transformers before 4.56, and what is built on it, reads the second name alone
    config |= {"dtype": str(dtype), "torch_dtype": str(dtype)}
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    source = find_cached_folder(model.path) if model.path else None
    if source is None or not (source / "generation_config.json").is_file():
        return
    generation = read_json(source / "generation_config.json")
    # transformers takes EOS from this file alone, so it has what the tokenizer adds, too
    eos = list(model.config.eos_ids)
    generation["eos_token_id"] = eos[0] if len(eos) == 1 else eos or None
    write_text(folder / "generation_config.json", json.dumps(generation, indent=2) + "\n")


def read_source_dtype(path: str | Path) -> str | None:
    """The dtype of most bytes in a folder's weights; None where no weights can be read there.

    Of quantised weights it is the one that they are kept in. Nothing is fetched.
    """
    if (folder := find_cached_folder(path)) is None:  # it was moved
        return None
    with ExitStack() as stack:
        tensors, _ = open_tensors(folder, stack)
    return find_main_dtype(tensors)


def find_main_dtype(tensors: Mapping[str, Tensor]) -> str | None:
    """The floating-point dtype that takes most bytes of these tensors."""
    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        if (dtype := FLOATS.get(tensor.default_dtype)) is not None:
            sizes[str(dtype)] += count_bytes(tensor.shape, dtype)
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


def _split_into_shards(
    shapes: Mapping[str, Shape], dtype: np.dtype, max_bytes: int
) -> dict[str, dict[str, Shape]]:
    """File -> its tensors: as few files as keep to the size, tensors in their order."""
    shards: list[dict[str, Shape]] = [{}]
    left = max_bytes
    for name, shape in shapes.items():
        if shards[-1] and count_bytes(shape, dtype) > left:
            shards.append({})
            left = max_bytes
        shards[-1][name] = shape
        left -= count_bytes(shape, dtype)
    if len(shards) == 1:
        return {WEIGHTS_FILE: shards[0]}
    count = len(shards)
    return {f"model-{n:05}-of-{count:05}.safetensors": shard for n, shard in enumerate(shards, 1)}


def _iterate_tensors(
    names: list[str],
    sources: Mapping[str, ParameterPath],
    layouts: Mapping[ParameterPath, TensorLayout],
    parameters: Mapping[ParameterPath, Any],
    dtype: np.dtype,
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of each tensor; what one parameter holds for several names is fetched once."""
    left = set(names)
    for name in names:
        if name not in left:
            continue
        layout = layouts[sources[name]]
        parts = {
            part: _cast(fetch_array(parameters[part]), dtype, name) for part in layout.parameters
        }
        for tensor_name, array in layout.write(parts).items():
            if tensor_name in left:
                left.discard(tensor_name)
                yield tensor_name, array


def _cast(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """The array in this dtype.

    Args:
        name: of the tensor, for the message.

    Raises:
        UserError: a number is too large for the dtype, and would become infinite.
    """
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype, copy=False)
    largest = float(jnp.finfo(dtype).max)
    if largest < float(jnp.finfo(array.dtype).max):
        count = int((np.isinf(narrow) & np.isfinite(array)).sum())
        if count:
            raise UserError(
                f"{name}: {count:,} numbers are too large for {dtype}, whose largest is "
                f"{largest:,.0f}; choose dtype bfloat16 or float32"
            )
    return narrow
