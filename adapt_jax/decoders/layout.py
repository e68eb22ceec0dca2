"""Where parameters lie in the tensors of a checkpoint: alone, fused with others, or by expert.

A parameter lies as most checkpoints have it, a kernel as [out, in]; but experts as [experts, in,
out]. A checkpoint may keep it the other way round, several parameters in one tensor, or each
expert in a tensor of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

ParameterPath = tuple[Any, ...]  # attribute names and layer numbers
Shape = tuple[int, ...]
Index = tuple[slice, ...]


def outputs(axes: int) -> int:
    """Which of a parameter's axes its outputs are: the first, or of experts the last.

    The latter is negative: it holds for one expert, too.
    """
    return -1 if axes == 3 else 0


@dataclass(frozen=True)
class TensorLayout:
    """Where one parameter lies.

    Attributes:
        names: of its tensor; or of one tensor for each expert, in order.
        transposed: the tensor has the last two axes the other way round.
        parameters: those that share the tensor, in order, along their outputs; mostly one.
        groups: how many groups these outputs consist of; each holds its share of every part
            (GPT-NeoX: query, key and value of head 0, then those of head 1, and so on).
    """

    names: tuple[str, ...]
    transposed: bool
    parameters: tuple[ParameterPath, ...]
    groups: int = 1

    def tensor_shape(self, shapes: Mapping[ParameterPath, Shape]) -> Shape:
        """The shape of each of ``names``, given those of the parameters."""
        shape = list(shapes[self.parameters[0]])
        axis = outputs(len(shape))
        shape[axis] = sum(shapes[part][axis] for part in self.parameters)
        return self.to_tensor_axes(tuple(shape[1:] if len(self.names) > 1 else shape))

    def to_tensor_axes(self, axes: tuple[Any, ...]) -> tuple[Any, ...]:
        """Axes of the parameter in the order of the tensor, or the other way round."""
        return (*axes[:-2], axes[-1], axes[-2]) if self.transposed else axes

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
        axis = outputs(len(shapes[path]))
        offset, size = self._place(path, shapes)
        asked = list(index)
        start, stop, _ = asked[axis].indices(size)
        if self.groups == 1:
            asked[axis] = slice(offset + start, offset + stop)
            return self._sliced(tensor, tuple(asked))
        asked[axis] = slice(None)
        return self.slice_parameter(path, shapes, self._sliced(tensor, tuple(asked)))[start:stop]

    def slice_parameter(
        self, path: ParameterPath, shapes: Mapping[ParameterPath, Shape], whole: np.ndarray
    ) -> np.ndarray:
        """What belongs to the kernel or bias at ``path`` along the first axis of ``whole``.

        The second axis is taken as it is: a low-rank factor has another than the parameter.
        """
        offset, size = self._place(path, shapes)
        grouped = whole.reshape(self.groups, -1, *whole.shape[1:])
        mine = slice(offset // self.groups, (offset + size) // self.groups)
        return grouped[:, mine].reshape(size, *whole.shape[1:])

    def _place(self, path: ParameterPath, shapes: Mapping[ParameterPath, Shape]) -> tuple[int, int]:
        """Where the outputs of a part begin among those of all, and how many they are."""
        sizes = [shapes[part][outputs(len(shapes[part]))] for part in self.parameters]
        at = self.parameters.index(path)
        return sum(sizes[:at]), sizes[at]

    def _sliced(self, tensor: Any, index: Index) -> np.ndarray:
        array = tensor[self.to_tensor_axes(index)]
        return np.swapaxes(array, -1, -2) if self.transposed else array

    def fuse(self, parts: Mapping[ParameterPath, np.ndarray]) -> np.ndarray:
        """All parts along their outputs, in the order of the tensor: undoes ``slice_parameter``."""
        arrays = [parts[part] for part in self.parameters]
        if len(arrays) == 1:
            return arrays[0]
        if self.groups == 1:
            return np.concatenate(arrays, axis=outputs(arrays[0].ndim))
        grouped = [array.reshape(self.groups, -1, *array.shape[1:]) for array in arrays]
        whole = np.concatenate(grouped, axis=1)
        return whole.reshape(-1, *whole.shape[2:])

    def write(self, parameters: Mapping[ParameterPath, np.ndarray]) -> dict[str, np.ndarray]:
        """The tensors, by name, of all parameters that share them."""
        whole = self.fuse(parameters)
        if self.transposed:
            whole = np.swapaxes(whole, -1, -2)
        pieces: Iterable[np.ndarray] = whole if len(self.names) > 1 else [whole]
        named = zip(self.names, pieces, strict=True)
        return {name: np.ascontiguousarray(piece) for name, piece in named}
