"""Encoded prefixes in files, so that a process need not encode again what an earlier one encoded.

A file holds the layers of one ``PrefixCache`` (safetensors), and in its metadata a CRC-32 of all
numbers. Its name is a hash of everything that the numbers depend on, to the last bit: the decoder's
weights and shape, the prefix, its padding, the code of this package that encodes it, JAX, its
options, and the processor. So a file is never wrong, only useless: another one is then written
beside it. What is damaged is encoded anew.
"""

import contextlib
import logging
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.mixers import begin_state
from adapt_jax.decoders.prefix import Prefix, PrefixCache, SoftPrompt
from adapt_jax.decoders.states import LayerState
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.safetensors_io import (
    DTYPE_NAMES,
    CorruptFileError,
    read_header,
    read_metadata,
    write_tensors,
)
from adapt_jax.sampling.compiled import encode_prompt_prefix
from adapt_jax.utils import cpu, distributed
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import try_to_write
from adapt_jax.utils.hashing import hash_sources, identity

__all__ = ["PrefixFiles", "read_or_encode", "read_size_limit"]

FILES_VERSION = 1  # raised when the content of a file changes
LIMIT = "ADAPT_JAX_PREFIX_CACHE_MIB"
DEFAULT_LIMIT = 1024  # MiB that the files of a folder take, at most
CHECKSUM = "crc32"  # of all tensors' bytes, in the metadata

log = logging.getLogger("adapt_jax")


class PrefixFiles:
    """A folder of encoded prefixes of one decoder, as its weights are now.

    Args:
        folder: which need not exist; it is made with the first file.
        decoder: an identity of the weights, the shape and the dtype.
        limit: bytes that the files of the folder take at most.
    """

    def __init__(self, folder: Path, model: PretrainedDecoder, decoder: str, limit: int):
        self.folder, self.decoder, self.limit = folder, decoder, limit
        self._weights = jax.tree.leaves(nnx.state(model.decoder))

    def read(
        self, model: PretrainedDecoder, weights: Any, prefix: Prefix, padded: int
    ) -> PrefixCache | None:
        """The encoded prefix; None where it is not there, is damaged, or weights have changed.

        Args:
            weights: of the decoder, as it would encode the prefix now.
            padded: tokens of the prefix with its padding.
        """
        if not self._is_for(weights, padded):
            return None
        file = self._find_file(prefix, padded)
        device = model.decoder.embedding[...].sharding
        expected = _list_tensors(model.config, _get_dtype(model), padded)
        try:
            tensors = _read_file(file, expected)
            with contextlib.suppress(OSError):  # the oldest files are removed first
                os.utime(file)
        except FileNotFoundError:
            return None
        except (OSError, UserError, CorruptFileError) as problem:
            log.warning("%s: is encoded again (%.200s)", file, problem)
            return None
        layers = [
            jax.tree.map(lambda name: jax.device_put(tensors[name], device), layer)
            for layer in _name_layers(model.config)
        ]
        length = jax.device_put(np.asarray(len(prefix), np.int32), device)
        return PrefixCache(layers, length, padded)

    def write(
        self, model: PretrainedDecoder, weights: Any, prefix: Prefix, encoded: PrefixCache
    ) -> None:
        """Keeps an encoded prefix. Where the folder cannot be written, nothing happens."""
        if not self._is_for(weights, encoded.padded) or not distributed.is_main_process():
            return
        expected = _list_tensors(model.config, _get_dtype(model), encoded.padded)
        size = sum(_count_bytes(*one) for one in expected.values())
        if size > self.limit:
            return
        arrays = dict(zip(expected, map(np.asarray, jax.tree.leaves(encoded.layers)), strict=True))
        with try_to_write(self.folder):
            self._make_room(size)
            write_tensors(
                self._find_file(prefix, encoded.padded),
                {name: shape for name, (shape, _) in expected.items()},
                {name: dtype for name, (_, dtype) in expected.items()},
                iter(arrays.items()),
                metadata={CHECKSUM: str(_sum_up(arrays[name] for name in sorted(arrays)))},
            )

    def _is_for(self, weights: Any, padded: int) -> bool:
        """Whether the weights are still the arrays that they were, and there is a prefix."""
        leaves = jax.tree.leaves(weights)
        same = len(leaves) == len(self._weights) and all(
            one is other for one, other in zip(leaves, self._weights, strict=True)
        )
        return same and padded > 0

    def _find_file(self, prefix: Prefix, padded: int) -> Path:
        """The file of a prefix, whether it is there or not."""
        parts = [
            ["soft prompt", np.asarray(part.embeddings[...])]
            if isinstance(part, SoftPrompt)
            else np.asarray(part)
            for part in prefix.parts
            if len(part)
        ]
        key = identity(FILES_VERSION, self.decoder, parts, padded, _describe_execution())
        return self.folder / f"prefix-{key}.safetensors"

    def _make_room(self, size: int) -> None:
        """Removes the files that were not used for longest, until another one fits."""
        files = [(one.stat().st_mtime, one.stat().st_size, one) for one in self._list_files()]
        total = sum(taken for _, taken, _ in files)
        for _, taken, file in sorted(files):
            if total + size <= self.limit:
                return
            file.unlink()
            total -= taken

    def _list_files(self) -> list[Path]:
        return list(self.folder.glob("prefix-*.safetensors"))


def read_or_encode(
    model: PretrainedDecoder,
    graph: Any,
    weights: Any,
    prefix: Prefix,
    padded: int,
    files: PrefixFiles | None,
) -> PrefixCache:
    """What layers keep of a prefix, from its file or encoded now.

    Args:
        graph: with ``weights``, the decoder as ``nnx.split`` gives it.
        padded: tokens of the prefix with its padding.
    """
    if files is not None and (found := files.read(model, weights, prefix, padded)) is not None:
        return found
    padding = ((0, padded - len(prefix)), (0, 0))
    embeddings = jnp.pad(prefix.embeddings(model.decoder, _get_dtype(model)), padding)
    encoded = encode_prompt_prefix(graph, weights, embeddings, np.int32(len(prefix)))
    if files is not None:
        files.write(model, weights, prefix, encoded)
    return encoded


def read_size_limit() -> int:
    """Bytes that the files of a folder may take; 0 turns them off.

    Raises:
        UserError: the environment names no number of MiB.
    """
    text = os.environ.get(LIMIT, str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise UserError(f"{LIMIT}: {text!r:.50}; expected a number of MiB, 0 for none")
    return int(text) << 20


def _get_dtype(model: PretrainedDecoder) -> np.dtype:
    """The dtype that the decoder computes in."""
    return np.dtype(model.decoder.embedding[...].dtype)


def _name_layers(config: DecoderConfig) -> list[Any]:
    """The layers of a PrefixCache, with the name of a tensor in place of each array."""
    keys_and_values = [(f"{n}.keys", f"{n}.values") for n in config.layers_with_kv_cache]
    states: list[Any] = []
    for number in config.layers_with_state:
        state = jax.eval_shape(lambda: begin_state(config, np.float32))
        has_recurrence = state.recurrent is not None
        recurrent: Any = f"{number}.recurrent" if has_recurrence else None
        states.append(LayerState(f"{number}.convolution", recurrent))  # type: ignore[arg-type]
    return [*keys_and_values, *states]


def _list_tensors(
    config: DecoderConfig, dtype: np.dtype, padded: int
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of each tensor of a file."""
    shapes: list[tuple[tuple[int, ...], np.dtype]] = []
    for index in config.layers_with_kv_cache:
        shapes += [((heads, padded, size), dtype) for heads, size in config.kv_cache_sizes(index)]
    for _ in config.layers_with_state:
        state = jax.eval_shape(lambda: begin_state(config, dtype))
        shapes += [(one.shape, np.dtype(one.dtype)) for one in jax.tree.leaves(state)]
    return dict(zip(jax.tree.leaves(_name_layers(config)), shapes, strict=True))


def _count_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return int(np.prod(shape)) * dtype.itemsize


def _read_file(
    file: Path, expected: dict[str, tuple[tuple[int, ...], np.dtype]]
) -> dict[str, np.ndarray]:
    """The tensors of a file.

    Raises:
        OSError, UserError, CorruptFileError: it is not there, or not what was written.
    """
    with file.open("rb", buffering=0) as opened:
        tensors = read_header(file, opened.fileno())
        found = {name: (one.shape, one.dtype) for name, one in tensors.items()}
        if found != {name: (shape, DTYPE_NAMES[one]) for name, (shape, one) in expected.items()}:
            raise CorruptFileError(["its tensors are others than those of this decoder"])
        arrays = {
            name: tensors[name].read_into(cpu.allocate_aligned(shape, dtype))
            for name, (shape, dtype) in expected.items()
        }
        checksum = str(_sum_up(arrays[name] for name in sorted(arrays)))
        if read_metadata(opened.fileno()).get(CHECKSUM) != checksum:
            raise CorruptFileError(["its checksum is not that of its numbers"])
    return arrays


def _sum_up(arrays: Iterator[np.ndarray] | Sequence[np.ndarray]) -> int:
    """The CRC-32 of the arrays' bytes, one after the other."""
    checksum = 0
    for array in arrays:
        if array.size:
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            checksum = zlib.crc32(data, checksum)
    return checksum


@cache
def _describe_execution() -> dict[str, Any]:
    """What the bits of encoded prefixes depend on besides the decoder and the prefix."""
    device = jax.local_devices()[0]
    return {
        "code": hash_sources("decoders", "sampling", "utils"),
        "jax": [jax.__version__, jax.lib.__version__],
        "options": {
            name: str(getattr(jax.config, name))
            for name in ("jax_default_matmul_precision", "jax_enable_x64")
        },
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "device": [device.platform, device.device_kind],
        "processor": cpu.describe_processor() if device.platform == "cpu" else "",
        "byteorder": sys.byteorder,
    }
