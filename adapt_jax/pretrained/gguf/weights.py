"""The tensors of a GGUF file under the names and in the order that checkpoints have.

Each is de-quantised by the package gguf as it is read, a strip of rows at a time. llama.cpp changes
some on the way in, and the change is undone here: the features of heads are reordered, norms of
Gemma have one added, GPT-2's kernels are transposed, GPT-NeoX's projections are divided by head,
experts are stacked, latent attention's projection to keys and values is divided.
"""

import math
import re
from contextlib import ExitStack
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families import Family
from adapt_jax.decoders.layout import TensorLayout
from adapt_jax.decoders.mixer_config import DeltaNetConfig
from adapt_jax.pretrained.dequantized_tensor import DequantizedTensor, Tensor
from adapt_jax.pretrained.gguf.architectures import ARCHITECTURES
from adapt_jax.pretrained.gguf.config import find_default_dtype
from adapt_jax.pretrained.gguf.file import GGUFFile, GGUFTensor, import_gguf, read_gguf
from adapt_jax.pretrained.gguf.row_order import (
    ReadRows,
    group_rows,
    interleave,
    reorder_heads,
    separate_pairs,
)
from adapt_jax.pretrained.safetensors_io import DTYPE_NAMES, FileTensor
from adapt_jax.utils.errors import UserError

__all__ = ["open_gguf_tensors"]

# Read with the config, or computed from it.
NOT_LOADED = ("rope_freqs.weight", "rope_factors_*.weight", "blk.*.attn_rot_embd.weight")
EXPERT_PARTS, BIASES = ("gate", "up", "down"), ("gate_bias", "up_bias", "down_bias")
# Tensors of a layer that llama.cpp keeps in two parts.
SPLIT = {
    "self_attn.kv_b_proj.weight": ("attn_k_b.weight", "attn_v_b.weight"),
    "linear_attn.in_proj_qkvz.weight": ("attn_qkv.weight", "attn_gate.weight"),
}
# Names of tensors, and what the package gguf knows them by.
SPELLINGS = (
    (r"\.experts\.\d+\.", ".experts."),
    (r"^model\.(.*)\.block_sparse_moe\.experts", r"\1.feed_forward.experts"),
    (r"^model\.(.*\.feed_forward\.experts\.w\d)", r"\1"),
    (r"e_score_correction_bias", "e_score_correction.bias"),
    (r"expert_bias$", "expert_bias.bias"),
    (r"dt_bias$", "dt_proj.bias"),
)
XIELU = ".mlp.act_fn."  # whose numbers are metadata


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
            elif XIELU in name:
                tensors[name] = opener.read_number(name)
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
        for pattern, spelling in SPELLINGS:
            name = re.sub(pattern, spelling, name)
        for known in (name, name.removeprefix("transformer.")):
            own = self.names.get_name(known, try_suffixes=(".weight", ".bias")) or ""
            if own:
                break
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
        for name, apart in SPLIT.items():
            if layout.names[0].endswith(name):
                names = [f"blk.{path[1]}.{one}" for one in apart]
                return names if all(one in self.file.tensors for one in names) else []
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
        if "attn_k_b" in parts[0]:
            return self.fuse_keys_and_values(*infos)
        if "attn_gate" in parts[-1]:
            return self.fuse_delta_net(*infos)
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

    def fuse_keys_and_values(self, keys: GGUFTensor, values: GGUFTensor) -> Tensor:
        """The projection of latents: keys of a head [R, h] turned, then its values [V, R]."""
        latent, heads = self.config.latent_attention, self.config.num_heads
        assert latent is not None
        rank, nope_dim, value_dim = latent.kv_rank, latent.nope_dim, latent.value_dim
        expected = (heads, rank, nope_dim), (heads, value_dim, rank)
        if (keys.shape, values.shape) != expected:
            raise UserError(
                f"{self.file.path}: attn_k_b and attn_v_b are {keys.shape} and {values.shape}; "
                f"expected {expected[0]} and {expected[1]}"
            )
        read_keys, read_values = self.read_rows(keys), self.read_rows(values)
        size = nope_dim + value_dim
        parts = (lambda first, stop: read_keys(first, stop).swapaxes(1, 2)), read_values
        return DequantizedTensor(
            keys.file,
            (heads * size, rank),
            interleave(parts, size),
            self.default_dtype,
            keys.nbytes + values.nbytes,
        )

    def fuse_delta_net(self, qkv: GGUFTensor, gate: GGUFTensor) -> Tensor:
        """The four projections of Qwen3-Next's delta net, those of a key head side by side."""
        mixer = self.config.mixer
        assert isinstance(mixer, DeltaNetConfig)
        keys, values = mixer.key_size, mixer.value_size
        if qkv.shape[0] != 2 * keys + values or gate.shape[0] != values:
            raise UserError(
                f"{self.file.path}: attn_qkv and attn_gate have {qkv.shape[0]} and "
                f"{gate.shape[0]} rows; expected {2 * keys + values} and {values}"
            )
        read_qkv, read_gate = self.read_rows(qkv), self.read_rows(gate)
        size, share = mixer.key_dim, values // mixer.num_key_heads
        parts = (
            group_rows(read_qkv, 0, size),
            group_rows(read_qkv, keys, size),
            group_rows(read_qkv, 2 * keys, share),
            group_rows(read_gate, 0, share),
        )
        return DequantizedTensor(
            qkv.file,
            (2 * (keys + values), qkv.shape[1]),
            interleave(parts, 2 * (size + share)),
            self.default_dtype,
            qkv.nbytes + gate.nbytes,
        )

    def read_number(self, name: str) -> Tensor:
        """A number of xIELU, which metadata list for each layer.

        Raises:
            UserError: it is not there, or no number.
        """
        layer, part = int(name.split(".")[2]), name.rpartition(".")[2]
        listed = self.file.metadata.get(f"xielu.{part}")
        if not isinstance(listed, list) or len(listed) != self.config.num_layers:
            raise UserError(
                f"{self.file.path}: xielu.{part}: expected a number for each of "
                f"{self.config.num_layers} layers"
            )
        if not isinstance(listed[layer], float):
            raise UserError(f"{self.file.path}: xielu.{part}: found {listed[layer]!r:.40}")
        number = np.float32(listed[layer])
        shape = (1,) if part.startswith("alpha") else ()
        read = lambda first, stop: np.full(shape, number)  # noqa: E731
        return DequantizedTensor(self.file.path, shape, read, "F32", 4)

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
        if name.endswith(("conv.conv.weight", "conv1d.weight")) and len(tensor.shape) == 2:
            channels = self.reorder_delta_net(name, read) or read
            by_channel = replace(tensor, shape=(tensor.shape[0], 1, tensor.shape[1]))
            return self.make(by_channel, lambda first, stop: channels(first, stop)[:, None])
        if (undone := self.undo(name, own, tensor, read, layout)) is not None:
            return self.make(tensor, undone)
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

    def undo(
        self, name: str, own: str, tensor: GGUFTensor, read: ReadRows, layout: TensorLayout
    ) -> ReadRows | None:
        """Reads the rows as they were before llama.cpp changed them; None where it did not."""
        heads = {"q_proj": self.config.num_heads, "k_proj": self.config.num_kv_heads}
        part = name.split(".")[-2]
        if name.endswith("A_log"):
            read = self.reorder_delta_net(name, read) or read
            return lambda first, stop: np.log(-read(first, stop))
        if "linear_attn." in name:
            return self.reorder_delta_net(name, read)
        if self.config.norm.endswith("_plus_one") and name.endswith("norm.weight"):
            return lambda first, stop: read(first, stop) - np.float32(1)
        if layout.groups > 1 and "attn_qkv" in own:
            return self.group_heads(read, layout.groups)
        if ARCHITECTURES[self.file.architecture].pairs_features and part in heads:
            return separate_pairs(read, tensor.shape[0] // heads[part])
        return None

    def reorder_delta_net(self, name: str, read: ReadRows) -> ReadRows | None:
        """The value heads of a delta net of Qwen3.5 in their own order; None where they are so."""
        mixer = self.config.mixer
        if not (ARCHITECTURES[self.file.architecture].tiles_heads and "linear_attn." in name):
            return None
        assert isinstance(mixer, DeltaNetConfig)
        heads = mixer.num_key_heads, mixer.num_value_heads
        part = name.removesuffix(".weight").rpartition(".")[2]
        if part == "out_proj":  # whose columns they are
            columns = reorder_heads(lambda i, j: np.arange(i, j), 0, mixer.value_dim, *heads)
            order = columns(0, mixer.value_size)
            return lambda first, stop: read(first, stop)[:, order]
        sizes = {"in_proj_qkv": mixer.value_dim, "in_proj_z": mixer.value_dim}
        sizes |= {"conv1d": mixer.value_dim}
        sizes |= dict.fromkeys(("in_proj_a", "in_proj_b", "A_log", "dt_bias"), 1)
        if part not in sizes:
            return None
        start = 2 * mixer.key_size if part in ("in_proj_qkv", "conv1d") else 0
        return reorder_heads(read, start, sizes[part], *heads)

    def group_heads(self, read: ReadRows, groups: int) -> ReadRows:
        """Rows of all queries, keys and values as those of one group of heads after the other."""
        config, start, parts, size = self.config, 0, [], 0
        for heads in (config.num_heads, config.num_kv_heads, config.num_kv_heads):
            share = heads * config.head_dim // groups
            parts.append(group_rows(read, start, share))
            start, size = start + heads * config.head_dim, size + share
        return interleave(parts, size)

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
