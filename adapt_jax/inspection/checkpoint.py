"""Facts about a checkpoint from its ``config.json`` and its files' headers; no tensor is read."""

import math
import re
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families import Family
from adapt_jax.decoders.layout import PARAMETER_KINDS
from adapt_jax.inspection.depth import count_by_depth
from adapt_jax.pretrained import hf_folder as folders
from adapt_jax.pretrained.gguf.file import is_gguf
from adapt_jax.pretrained.hf_config import read_config, read_quantization
from adapt_jax.pretrained.loading import abstract_decoder, check_weights, get_parameters
from adapt_jax.pretrained.quantized import list_float_names
from adapt_jax.pretrained.saving import find_main_dtype
from adapt_jax.pretrained.tokenizer_folder import has_tokenizer
from adapt_jax.pretrained.weight_files import (
    PICKLES,
    describe_quantization,
    join_names,
    open_tensors,
)
from adapt_jax.utils.errors import UserError

__all__ = ["Checkpoint", "count_parameters", "read_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """The description of a Hugging Face folder.

    Attributes:
        parameters: their number by kind: embedding, attention, ffn, norm, output, other.
        dtype: of most of the weights; what they become where they are quantised.
        quantization: how they are quantised; empty: they are not.
        nbytes: of all tensors together, those included that this decoder does not use.
        missing: files of weights that are not there: all of them, or none.
        tokenizer: whether the folder has one.
    """

    path: str
    config: DecoderConfig
    parameters: dict[str, int]
    dtype: str
    quantization: str
    nbytes: int
    missing: tuple[str, ...]
    tokenizer: bool

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        config = self.config
        return {
            "checkpoint": self.path,
            "family": config.family,
            "layers": config.num_layers,
            "context": config.context_length,
            "embed_dim": config.embed_dim,
            "vocab_size": config.vocab_size,
            "parameters": {"total": sum(self.parameters.values()), **self.parameters},
            "stored": {
                "dtype": self.dtype,
                "quantization": self.quantization or None,
                "bytes": self.nbytes,
                "weights": not self.missing,
                "missing_files": list(self.missing),
            },
            "tokenizer": self.tokenizer,
        }


def read_checkpoint(path: str | Path, context_length: int | None = None) -> Checkpoint:
    """Reads what a folder says of itself; works where the weights are absent.

    Args:
        context_length: see load_pretrained.

    Raises:
        UserError: no folder, no ``config.json``, an unknown architecture, a damaged file, or
            tensors that are not those of the config.
    """
    folder = folders.find_folder(path, weights=False)
    family, config = read_config(folder, context_length)
    dtype, size, missing = _read_weights_summary(folder, family, config)
    parameters = count_parameters(config)
    quantization = describe_quantization(folder)
    return Checkpoint(
        str(path), config, parameters, dtype, quantization, size, missing, has_tokenizer(folder)
    )


def count_parameters(config: DecoderConfig) -> dict[str, int]:
    """The number of parameters by kind; kinds that this decoder lacks are left out."""
    counts = count_by_depth(_count_parameters, config)
    return {kind: counts[kind] for kind in (*PARAMETER_KINDS, "other") if counts.get(kind)}


def _count_parameters(config: DecoderConfig) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for path, parameter in get_parameters(abstract_decoder(config)).items():
        name = ".".join(map(str, path))
        kinds = (kind for kind, pattern in PARAMETER_KINDS.items() if re.search(pattern, name))
        counts[next(kinds, "other")] += math.prod(map(int, parameter.shape))
    return counts


def _read_weights_summary(
    folder: Path, family: Family, config: DecoderConfig
) -> tuple[str, int, tuple[str, ...]]:
    """dtype and bytes of the weights, and the files that are missing.

    From the files' headers where all are there, otherwise from the index and ``config.json``.

    Raises:
        UserError: some files are there and some are not, or they disagree with the config.
    """
    if is_gguf(folder):
        return *_read_headers(folder, family, config), ()
    files = folders.list_weight_files(folder)
    missing = tuple(name for name in files if not (folder / name).is_file())
    if not missing:
        return *_read_headers(folder, family, config), ()
    if len(missing) < len(files):
        raise UserError(
            f"{folder}: {len(missing)} of {len(files)} files of weights are missing: "
            f"{join_names(missing, 3)}"
        )
    if (folder / folders.INDEX_FILE).is_file():
        return _read_config_dtype(folder), _read_index(folder, family, config), missing
    if any(any(folder.glob(pattern)) for pattern in PICKLES):
        raise UserError("; ".join(open_tensors(folder, ExitStack())[1]))
    return _read_config_dtype(folder), 0, missing


def _read_headers(folder: Path, family: Family, config: DecoderConfig) -> tuple[str, int]:
    """dtype and bytes of the weights in the files.

    Raises:
        UserError: all that is wrong with them, in one line.
    """
    with ExitStack() as stack:
        tensors, problems = open_tensors(folder, stack)
        if wrong := check_weights(family, config, tensors, damaged=bool(problems)):
            problems.append(f"{folder}: weights and config.json disagree: {wrong}")
    if problems:
        raise UserError("; ".join(dict.fromkeys(problems)))
    size = sum(tensor.nbytes for tensor in tensors.values())
    return find_main_dtype(tensors) or "float32", size


def _read_index(folder: Path, family: Family, config: DecoderConfig) -> int:
    """Bytes of the weights as the index says, 0 where it does not.

    Raises:
        UserError: the index lacks a tensor of this decoder, or names one too many.
    """
    index = folder / folders.INDEX_FILE
    names = set(folders.read_weight_map(index))
    if (quantization := read_quantization(folder)) is not None:
        names = list_float_names(quantization, names)
    named = {family.canonical_name(name) for name in names}
    layouts = family.tensor_layouts(config, named)
    paths = get_parameters(abstract_decoder(config))
    expected = {name for path in paths for name in layouts[path].names}
    tied = set(layouts["output", "kernel"].names) if config.tie_embeddings else set[str]()
    for problem, names in (
        ("has no tensor", expected - named),
        ("names tensors that this config has no place for:", named - expected - tied),
    ):
        if wrong := sorted(name for name in names if not family.ignores_tensor(name, config)):
            raise UserError(f"{index}: {problem} {join_names(wrong, 3)}")
    metadata = folders.read_json(index).get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    return size if isinstance(size, int) and size > 0 else 0


def _read_config_dtype(folder: Path) -> str:
    """The dtype that ``config.json`` names, in its old or new spelling."""
    config = folders.read_json(folder / "config.json")
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            for key in ("dtype", "torch_dtype"):
                if part.get(key):
                    return str(part[key])
    return "float32"
