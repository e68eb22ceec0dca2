"""Where parameters lie in the tensors of a checkpoint: alone, fused with others, or by expert.

A parameter has its output axis last ([in, out], or [experts, in, out]); a checkpoint may keep it
the other way round, several parameters in one tensor, or each expert in a tensor of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

ParameterPath = tuple[Any, ...]  # attribute names and layer numbers
Shape = tuple[int, ...]
Index = tuple[slice, ...]


@dataclass(frozen=True)
class Stored:
    """Where one parameter lies.

    Attributes:
        names: of its tensor; or of one tensor for each expert, in order.
        swapped: the tensor has the last two axes the other way round.
        parts: the parameters that share the tensor, in order, along their last axis; mostly one.
        groups: how many groups the shared axis consists of; each holds its share of every part
            (GPT-NeoX: query, key and value of head 0, then those of head 1, and so on).
    """

    names: tuple[str, ...]
    swapped: bool
    parts: tuple[ParameterPath, ...]
    groups: int = 1

    def tensor_shape(self, shapes: Mapping[ParameterPath, Shape]) -> Shape:
        """The shape of each of ``names``, given those of the parameters."""
        shape = shapes[self.parts[0]]
        shape = (*shape[:-1], sum(shapes[part][-1] for part in self.parts))
        return self.turned(shape[1:] if len(self.names) > 1 else shape)

    def turned(self, axes: tuple[Any, ...]) -> tuple[Any, ...]:
        """Axes of the parameter in the order of the tensor, or the other way round."""
        return (*axes[:-2], axes[-1], axes[-2]) if self.swapped else axes

    def read(
        self,
        path: ParameterPath,
        shapes: Mapping[ParameterPath, Shape],
        tensors: Mapping[str, Any],
        index: Index,
    ) -> np.ndarray:
        """A part of the parameter at ``path``.

        Args:
            tensors: what can be sliced, by name; no more is read than is asked for, except that of
                a tensor in several groups the whole shared axis is read.
            index: which part, a slice for each axis of the parameter.
        """
        if len(self.names) > 1:
            experts = [
                self._read(path, shapes, tensors[name], index[1:]) for name in self.names[index[0]]
            ]
            return np.stack(experts) if len(experts) > 1 else experts[0][None]
        return self._read(path, shapes, tensors[self.names[0]], index)

    def _read(
        self, path: ParameterPath, shapes: Mapping[ParameterPath, Shape], tensor: Any, index: Index
    ) -> np.ndarray:
        sizes = [shapes[part][-1] for part in self.parts]
        at = self.parts.index(path)
        offset, size = sum(sizes[:at]), sizes[at]
        start, stop, _ = index[-1].indices(size)
        if self.groups == 1:
            return self._sliced(tensor, (*index[:-1], slice(offset + start, offset + stop)))
        whole = self._sliced(tensor, (*index[:-1], slice(None)))
        return self.part(path, shapes, whole)[..., start:stop]

    def part(
        self, path: ParameterPath, shapes: Mapping[ParameterPath, Shape], whole: np.ndarray
    ) -> np.ndarray:
        """What belongs to the parameter at ``path`` along the last axis of ``whole``, all parts'.

        The axes before it are taken as they are: a low-rank factor has others than the parameter.
        """
        sizes = [shapes[part][-1] for part in self.parts]
        at = self.parts.index(path)
        offset, size = sum(sizes[:at]), sizes[at]
        grouped = whole.reshape(*whole.shape[:-1], self.groups, -1)
        mine = slice(offset // self.groups, (offset + size) // self.groups)
        return grouped[..., mine].reshape(*whole.shape[:-1], size)

    def _sliced(self, tensor: Any, index: Index) -> np.ndarray:
        array = tensor[self.turned(index)]
        return np.swapaxes(array, -1, -2) if self.swapped else array

    def joined(self, parts: Mapping[ParameterPath, np.ndarray]) -> np.ndarray:
        """All parts along their last axis, in the order of the tensor: undoes ``part``."""
        arrays = [parts[part] for part in self.parts]
        if len(arrays) == 1:
            return arrays[0]
        grouped = [array.reshape(*array.shape[:-1], self.groups, -1) for array in arrays]
        whole = np.concatenate(grouped, axis=-1)
        return whole.reshape(*whole.shape[:-2], -1)

    def write(self, parameters: Mapping[ParameterPath, np.ndarray]) -> dict[str, np.ndarray]:
        """The tensors, by name, of all parameters that share them."""
        whole = self.joined(parameters)
        if self.swapped:
            whole = np.swapaxes(whole, -1, -2)
        pieces: Iterable[np.ndarray] = whole if len(self.names) > 1 else [whole]
        named = zip(self.names, pieces, strict=True)
        return {name: np.ascontiguousarray(piece) for name, piece in named}
