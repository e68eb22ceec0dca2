"""What a checkpoint is, from its ``config.json`` and its files' headers: no tensor is read."""

import re
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families import Family
from adapt_jax.methods.fine_tuning import PARTS
from adapt_jax.pretrained import hf_folder as folders
from adapt_jax.pretrained.hf_config import read_config
from adapt_jax.pretrained.loading import (
    PICKLES,
    abstract_decoder,
    check_weights,
    get_parameters,
    join_names,
    open_tensors,
)
from adapt_jax.pretrained.safetensors_io import FLOATS, count_bytes
from adapt_jax.pretrained.saving import find_main_dtype
from adapt_jax.utils.errors import UserError

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face folder, unread.

    Attributes:
        parameters: their number by kind: embedding, attention, ffn, norm, output, other.
        dtype: what most of the stored weights are.
        nbytes: of all tensors together; those that this decoder leaves unread are counted too.
        missing: files that the index names and that are not there; all, where there are no weights.
        tokenizer: whether the folder has one.
    """

    path: str
    config: DecoderConfig
    parameters: dict[str, int]
    dtype: str
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
    dtype, size, missing = stored(folder, family, config)
    tokenizer = any((folder / name).is_file() for name in TOKENIZERS)
    return Checkpoint(str(path), config, count(config), dtype, size, missing, tokenizer)


def count(config: DecoderConfig) -> dict[str, int]:
    """The number of parameters by kind; kinds that this decoder lacks are left out."""
    kinds: Counter[str] = Counter()
    for path, parameter in get_parameters(abstract_decoder(config)).items():
        name = ".".join(map(str, path))
        found = (kind for kind, part in PARTS.items() if part and re.search(part, name))
        kinds[next(found, "other")] += int(np.prod(parameter.shape))
    return {kind: kinds[kind] for kind in (*PARTS, "other") if kinds[kind]}


def stored(folder: Path, family: Family, config: DecoderConfig) -> tuple[str, int, tuple[str, ...]]:
    """dtype and bytes of the weights, and the files that are missing.

    From the files' headers where all are there, otherwise from the index and ``config.json``.
    """
    files = folders.list_weight_files(folder)
    missing = tuple(name for name in files if not (folder / name).is_file())
    if missing and len(missing) < len(files):
        raise UserError(
            f"{folder}: {len(missing)} of {len(files)} files of weights are missing: "
            f"{join_names(missing, 3)}"
        )
    indexed = (folder / folders.INDEX_FILE).is_file()
    if missing and not indexed and any(any(folder.glob(pattern)) for pattern in PICKLES):
        raise UserError("; ".join(open_tensors(folder, ExitStack())[1]))
    if not missing:
        with ExitStack() as stack:
            tensors, problems = open_tensors(folder, stack)
            if wrong := check_weights(family, config, tensors, damaged=bool(problems)):
                problems.append(f"{folder}: weights and config.json disagree: {wrong}")
        if problems:
            raise UserError("; ".join(problems))
        size = sum(count_bytes(one.shape, FLOATS[one.dtype]) for one in tensors.values())
        return find_main_dtype(tensors) or "float32", size, ()
    size = 0
    if indexed:
        named = {
            family.canonical_name(name)
            for name in folders.read_weight_map(folder / folders.INDEX_FILE)
        }
        places = family.tensor_layouts(config)
        expected = {
            n for path in get_parameters(abstract_decoder(config)) for n in places[path].names
        }
        tied = set(places["output", "kernel"].names) if config.tie_embeddings else set[str]()
        surplus = named - expected - tied
        for what, names in (
            ("has no tensor", expected - named),
            ("names tensors that this config has no place for:", surplus),
        ):
            if lacking := sorted(name for name in names if not family.ignores_tensor(name, config)):
                raise UserError(f"{folder / folders.INDEX_FILE}: {what} {join_names(lacking, 3)}")
        said = folders.read_json(folder / folders.INDEX_FILE).get("metadata")
        size = int(said.get("total_size", 0)) if isinstance(said, dict) else 0
    hf = folders.read_json(folder / "config.json")
    parts = (hf, hf.get("text_config") or {})
    told = (part.get(key) for part in parts for key in ("dtype", "torch_dtype"))
    return next((str(name) for name in told if name), "float32"), size, missing
