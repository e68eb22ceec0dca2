"""The tensors of a GGUF file under the names and in the order that checkpoints have.

Each is de-quantised by the package gguf as it is read, a strip of rows at a time. llama.cpp changes
some on the way in, and the change is undone here: the features of heads are reordered, norms of
Gemma have one added, GPT-2's kernels are transposed, GPT-NeoX's projections are divided by head,
experts are stacked.
"""

import math
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families import Family
from adapt_jax.decoders.layout import TensorLayout
from adapt_jax.pretrained.dequantized_tensor import DequantizedTensor, Tensor
from adapt_jax.pretrained.gguf.architectures import ARCHITECTURES
from adapt_jax.pretrained.gguf.config import find_default_dtype
from adapt_jax.pretrained.gguf.file import GGUFFile, GGUFTensor, import_gguf, read_gguf
from adapt_jax.pretrained.safetensors_io import DTYPE_NAMES, FileTensor
from adapt_jax.utils.errors import UserError

__all__ = ["open_gguf_tensors"]

# Read with the config, or computed from it.
NOT_LOADED = ("rope_freqs.weight", "rope_factors_*.weight", "blk.*.attn_rot_embd.weight")
EXPERT_PARTS, BIASES = ("gate", "up", "down"), ("gate_bias", "up_bias", "down_bias")
ReadRows = Callable[[int, int], np.ndarray]


def open_gguf_tensors(
    path: Path, family: Family, config: DecoderConfig, stack: ExitStack
) -> dict[str, Tensor]:
    """The tensors by the names of ``family``; what it does not know keeps its name in the file.

    Args:
        config: that of this very file.
        stack: closes the files when it is left.

    Raises:
        UserError: a file is not there or damaged.
    """
    opener = _Opener(read_gguf(path), config, stack)
    tensors: dict[str, Tensor] = {}
    found = set[str]()
    for layout in dict.fromkeys(family.tensor_layouts(config).values()):
        if parts := opener.find_parts(layout):
            tensors[layout.names[0]] = opener.fuse(parts, layout)
            found.update(parts)
            continue
        for number, name in enumerate(layout.names):
            own = opener.find_name(name)
            if own in opener.file.tensors:
                tensors[name] = opener.open(name, own, layout, number)
                found.add(own)
    for own, tensor in opener.file.tensors.items():
        if own not in found and not opener.is_not_loaded(own):
            tensors[own] = opener.make(tensor, opener.read_rows(tensor))
    return tensors


class _Opener:
    """Makes tensors of what lies in the file."""

    def __init__(self, file: GGUFFile, config: DecoderConfig, stack: ExitStack):
        gguf = import_gguf()
        self.file, self.config = file, config
        paths = {tensor.file for tensor in file.tensors.values()}
        self.descriptors = {
            path: stack.enter_context(path.open("rb", buffering=0)).fileno() for path in paths
        }
        _check_kinds(file)
        self.default_dtype = DTYPE_NAMES[jnp.dtype(find_default_dtype(file))]
        known = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
        if file.architecture not in known:
            raise UserError(
                f"{file.path}: this version of the package gguf does not know the architecture "
                f"{file.architecture!r}: pip install -U gguf"
            )
        self.names = gguf.get_tensor_name_map(known[file.architecture], config.num_layers)

    def find_name(self, name: str) -> str:
        """The name in the file; experts share a tensor. Empty: llama.cpp knows no such tensor."""
        name = re.sub(r"\.experts\.\d+\.", ".experts.", name)
        name = re.sub(r"^model\.(.*)\.block_sparse_moe\.experts", r"\1.feed_forward.experts", name)
        name = name.replace("e_score_correction_bias", "e_score_correction.bias")
        own = self.names.get_name(name, try_suffixes=(".weight", ".bias")) or ""
        return own + ".weight" if own + ".weight" in self.file.tensors else own

    def is_not_loaded(self, own: str) -> bool:
        """Whether a tensor is not loaded: it is read elsewhere, or predicts further tokens."""
        layer = re.match(r"blk\.(\d+)\.", own)
        is_extra = layer is not None and int(layer[1]) >= self.config.num_layers
        if is_extra and self.file.get("nextn_predict_layers"):
            return True
        return any(fnmatchcase(own, pattern) for pattern in NOT_LOADED)

    def find_parts(self, layout: TensorLayout) -> list[str]:
        """The names of what llama.cpp keeps apart of one tensor; empty where it does not."""
        *_, part = path = layout.parameters[0]
        kind, end = str(part).removesuffix("_bias"), "bias" if part in BIASES else "weight"
        is_shared = "shared" in path and part == "kernel"
        if len(layout.names) > 1 or not (kind in EXPERT_PARTS or is_shared):
            return []
        which = "exps" if kind in EXPERT_PARTS else "shexp"
        inner = [str(one[-1 if kind in EXPERT_PARTS else -2]) for one in layout.parameters]
        names = [f"blk.{path[1]}.ffn_{one.removesuffix('_bias')}_{which}.{end}" for one in inner]
        return names if all(name in self.file.tensors for name in names) else []

    def fuse(self, parts: list[str], layout: TensorLayout) -> Tensor:
        """One tensor of these: those of all experts, or the gate and up projection of a shared one.

        Gates and up projections alternate, or follow one another.
        """
        infos = [self.file.tensors[name] for name in parts]
        if len({info.shape for info in infos}) > 1 or len(infos[0].shape) < 2:
            listed = ", ".join(f"{n} {list(i.shape)}" for n, i in zip(parts, infos, strict=True))
            raise UserError(f"{self.file.path}: expected tensors of one shape, found {listed}")
        opened = [self.make(info, self.read_rows(info)) for info in infos]
        axis = 0 if "shexp" in parts[0] else 1
        shape = list(infos[0].shape)
        shape[axis] = sum(info.shape[axis] for info in infos)
        # the checkpoint has inputs before outputs
        swaps_axes = len(shape) == 3 and not layout.transposed

        def read(first: int, stop: int) -> np.ndarray:
            if axis == 0:  # of the shared expert, whose rows are few
                return np.concatenate([one.read(0, one.shape[0]) for one in opened])[first:stop]
            arrays = [one.read(first, stop) for one in opened]
            if layout.groups > 1:
                fused = np.stack(arrays, axis=2).reshape(stop - first, *shape[1:])
            else:
                fused = np.concatenate(arrays, axis=1)
            return fused.swapaxes(1, 2) if swaps_axes else fused

        size = sum(info.nbytes for info in infos)
        final = (shape[0], shape[2], shape[1]) if swaps_axes else tuple(shape)
        return DequantizedTensor(infos[0].file, final, read, self.default_dtype, size)

    def open(self, name: str, own: str, layout: TensorLayout, number: int) -> Tensor:
        """The tensor ``name`` of a checkpoint, with what llama.cpp changed of it undone.

        Args:
            own: its name in the file.
            number: of the expert.

        Raises:
            UserError: a tensor of experts holds more or fewer of them than the metadata says.
        """
        tensor = self.file.tensors[own]
        if "_exps." in own and len(tensor.shape) == 3:
            if tensor.shape[0] != len(layout.names):
                raise UserError(
                    f"{self.file.path}: {own} holds {tensor.shape[0]} experts, "
                    f"expected {len(layout.names)}"
                )
            rows = math.prod(tensor.shape[1:-1])
            start = tensor.start + number * rows * tensor.row_bytes
            tensor = replace(tensor, shape=tensor.shape[1:], start=start)
        read = self.read_rows(tensor)
        if name.endswith("shared_expert_gate.weight") and len(tensor.shape) == 1:
            return self.make(
                replace(tensor, shape=(1, *tensor.shape)),
                lambda first, stop: read(0, tensor.shape[0])[None][first:stop],
            )
        if self.config.norm.endswith("_plus_one") and name.endswith("norm.weight"):
            return self.make(tensor, _add(read, -1.0))
        if layout.groups > 1:
            return self.make(tensor, self.regroup(read, layout.groups))
        heads = {"q_proj": self.config.num_heads, "k_proj": self.config.num_kv_heads}
        part = name.split(".")[-2]
        if ARCHITECTURES[self.file.architecture].pairs_features and part in heads:
            return self.make(tensor, _separate_pairs(read, tensor.shape[0] // heads[part]))
        if layout.transposed and len(layout.names) == 1:
            made = self.make(tensor, lambda first, stop: read(first, stop).T)
            return replace(made, shape=tensor.shape[::-1], by_columns=True)
        if tensor.kind == self.default_dtype:
            return FileTensor(
                tensor.file,
                self.descriptors[tensor.file],
                self.default_dtype,
                tensor.shape,
                tensor.start,
            )
        return self.make(tensor, read)

    def regroup(self, read: ReadRows, groups: int) -> ReadRows:
        """Rows of all queries, keys and values as those of one group of heads after the other."""
        config = self.config
        sizes = np.array([config.num_heads, config.num_kv_heads, config.num_kv_heads])
        ends = np.cumsum(sizes * config.head_dim).tolist()

        def read_grouped(first: int, stop: int) -> np.ndarray:
            fused = read(0, ends[-1])
            parts = np.split(fused, ends[:-1])
            by_group = [part.reshape(groups, -1, *fused.shape[1:]) for part in parts]
            return np.concatenate(by_group, axis=1).reshape(fused.shape)[first:stop]

        return read_grouped

    def make(self, tensor: GGUFTensor, read: ReadRows) -> DequantizedTensor:
        """A tensor whose rows are read so."""
        return DequantizedTensor(tensor.file, tensor.shape, read, self.default_dtype, tensor.nbytes)

    def read_rows(self, tensor: GGUFTensor) -> ReadRows:
        """A function that reads and de-quantises a range of rows, [first, stop)."""
        gguf = import_gguf()
        kind = gguf.GGMLQuantizationType[tensor.kind]
        rows = math.prod(tensor.shape[:-1])
        raw = FileTensor(
            tensor.file,
            self.descriptors[tensor.file],
            "U8",
            (rows, tensor.row_bytes),
            tensor.start,
        )

        def read(first: int, stop: int) -> np.ndarray:
            if len(tensor.shape) == 1:  # one row, of which a range of numbers is asked for
                return np.asarray(gguf.dequantize(raw[:1, :], kind))[0, first:stop]
            # of three axes, the first is that of experts
            each = math.prod(tensor.shape[1:-1])
            found = np.asarray(gguf.dequantize(raw[first * each : stop * each, :], kind))
            return found.reshape(-1, *tensor.shape[1:])

        return read


def _check_kinds(file: GGUFFile) -> None:
    """Raises UserError for a type of numbers that the package gguf does not de-quantise."""
    gguf = import_gguf()
    for name, tensor in {one.kind: (name, one) for name, one in file.tensors.items()}.values():
        kind = gguf.GGMLQuantizationType[tensor.kind]
        try:
            gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError:  # how gguf reports a type that it does not know
            raise UserError(
                f"{file.path}: {name} is {tensor.kind}, which the package gguf does not "
                "de-quantise; expected a file of another type, such as Q8_0 or Q4_K"
            ) from None


def _add(read: ReadRows, number: float) -> ReadRows:
    return lambda first, stop: read(first, stop) + np.float32(number)


def _separate_pairs(read: ReadRows, size: int) -> ReadRows:
    """Rows of heads of this size as in checkpoints: the first feature of every pair comes first."""

    def read_separated(first: int, stop: int) -> np.ndarray:
        begin, end = first // size, -(-stop // size)
        heads = read(begin * size, end * size)
        by_pair = heads.reshape(end - begin, size // 2, 2, *heads.shape[1:])
        rows = by_pair.swapaxes(1, 2).reshape(heads.shape)
        return rows[first - begin * size : stop - begin * size]

    return read_separated
