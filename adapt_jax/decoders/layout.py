"""How parameters lie in the tensors of a checkpoint.

Here a kernel is [out, in], as in most checkpoints, and the kernels of experts are [experts, in,
out]. A checkpoint may hold a parameter transposed, several parameters fused into one tensor
(query, key and value), or each expert in a tensor of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["PARAMETER_KINDS", "Index", "ParameterPath", "Shape", "TensorLayout"]

ParameterPath = tuple[Any, ...]  # attribute names and layer numbers: ("layers", 0, "ffn", ...)
Shape = tuple[int, ...]
Index = tuple[slice, ...]  # one slice for each axis

# Kinds of parameters: expressions that are searched in a parameter's path with dots between its
# parts, such as layers.0.ffn.up.kernel.
PARAMETER_KINDS = {
    "embedding": r"^(per_layer_embeddings\.)?embedding$|^input_projection\.",
    "attention": r"\.attention\.",
    "mixer": r"\.mixer\.",
    "ffn": r"\.(ffn|dense_with_moe\.experts)\.",
    "norm": r"(^|\.|_)norm\.",
    "output": r"^output(_projection)?\.",
}


@dataclass(frozen=True)
class TensorLayout:
    """Where one parameter lies in a checkpoint.

    Attributes:
        names: of the tensor, or of one tensor for each expert, in order.
        transposed: whether the last two axes of the tensor are swapped.
        parameters: the parameters that are fused in the tensor, in order, along their output axis.
            Mostly it is the parameter alone.
        groups: into how many groups the fused outputs are divided. Each group holds its share of
            every parameter. GPT-NeoX has a group for each head: query, key and value of head 0,
            then those of head 1, and so on. gpt-oss has one for each gate of an expert, so that
            gates and up projections alternate.
    """

    names: tuple[str, ...]
    transposed: bool
    parameters: tuple[ParameterPath, ...]
    groups: int = 1

    def tensor_shape(self, shapes: Mapping[ParameterPath, Shape]) -> Shape:
        """The shape of each tensor, given the shapes of the parameters."""
        shape = list(shapes[self.parameters[0]])
        if not shape:
            return ()
        axis = _output_axis(self.parameters[0], len(shape))
        shape[axis] = sum(shapes[path][axis] for path in self.parameters)
        has_expert_tensors = len(self.names) > 1
        return self._swap_axes(tuple(shape[1:] if has_expert_tensors else shape))

    def read(
        self,
        path: ParameterPath,
        shapes: Mapping[ParameterPath, Shape],
        tensors: Mapping[str, Any],
        index: Index,
    ) -> np.ndarray:
        """A slice of the parameter at ``path``.

        Args:
            shapes: of the parameters.
            tensors: by name, anything that can be sliced like an array. No more is read of them
                than is asked for, but of a tensor with groups the whole output axis is read.
            index: one slice for each axis of the parameter.
        """
        if len(self.names) > 1:
            names = self.names[index[0]]
            experts = [self._read_one(path, shapes, tensors[name], index[1:]) for name in names]
            return np.stack(experts) if len(experts) > 1 else experts[0][None]
        return self._read_one(path, shapes, tensors[self.names[0]], index)

    def _read_one(
        self, path: ParameterPath, shapes: Mapping[ParameterPath, Shape], tensor: Any, index: Index
    ) -> np.ndarray:
        """A slice of the parameter out of one tensor."""
        if len(self.parameters) == 1:
            return self._read_slice(tensor, index)
        axis = _output_axis(path, len(shapes[path]))
        offset, size = self._find_outputs(path, shapes)
        start, stop, _ = index[axis].indices(size)
        tensor_index = list(index)
        if self.groups == 1:
            # the outputs of a parameter are neighbours: read those that are asked for
            tensor_index[axis] = slice(offset + start, offset + stop)
            return self._read_slice(tensor, tuple(tensor_index))
        # with groups they are scattered: read all outputs, and choose afterwards
        tensor_index[axis] = slice(None)
        fused = np.moveaxis(self._read_slice(tensor, tuple(tensor_index)), axis, 0)
        return np.moveaxis(self.slice_parameter(path, shapes, fused)[start:stop], 0, axis)

    def slice_parameter(
        self, path: ParameterPath, shapes: Mapping[ParameterPath, Shape], fused: np.ndarray
    ) -> np.ndarray:
        """The outputs of the parameter at ``path`` along the first axis of ``fused``.

        The other axes may have any size: that of a LoRA factor is the rank.
        """
        offset, size = self._find_outputs(path, shapes)
        by_group = fused.reshape(self.groups, -1, *fused.shape[1:])
        share = slice(offset // self.groups, (offset + size) // self.groups)
        return by_group[:, share].reshape(size, *fused.shape[1:])

    def fuse(self, arrays: Mapping[ParameterPath, np.ndarray]) -> np.ndarray:
        """All parameters along their output axis, in the order of the tensor.

        ``slice_parameter`` undoes it for each parameter.
        """
        ordered = [arrays[path] for path in self.parameters]
        if len(ordered) == 1:
            return ordered[0]
        axis = _output_axis(self.parameters[0], ordered[0].ndim)
        if self.groups == 1:
            return np.concatenate(ordered, axis=axis)
        outputs_first = [np.moveaxis(array, axis, 0) for array in ordered]
        by_group = [array.reshape(self.groups, -1, *array.shape[1:]) for array in outputs_first]
        fused = np.concatenate(by_group, axis=1)
        return np.moveaxis(fused.reshape(-1, *fused.shape[2:]), 0, axis)

    def write(self, arrays: Mapping[ParameterPath, np.ndarray]) -> dict[str, np.ndarray]:
        """The tensors by name, made of all parameters that lie in them."""
        fused = self.fuse(arrays)
        if self.transposed:
            fused = np.swapaxes(fused, -1, -2)
        tensors: Iterable[np.ndarray] = fused if len(self.names) > 1 else [fused]
        named = zip(self.names, tensors, strict=True)
        return {name: np.ascontiguousarray(tensor) for name, tensor in named}

    def _find_outputs(
        self, path: ParameterPath, shapes: Mapping[ParameterPath, Shape]
    ) -> tuple[int, int]:
        """Where the outputs of a parameter begin among the fused ones, and how many they are."""
        sizes = [shapes[one][_output_axis(one, len(shapes[one]))] for one in self.parameters]
        position = self.parameters.index(path)
        return sum(sizes[:position]), sizes[position]

    def _read_slice(self, tensor: Any, index: Index) -> np.ndarray:
        """A slice of a tensor in the orientation of the parameter."""
        array = tensor[self._swap_axes(index)]
        return np.swapaxes(array, -1, -2) if self.transposed else array

    def _swap_axes(self, axes: tuple[Any, ...]) -> tuple[Any, ...]:
        """Shape or index of the parameter as those of the tensor."""
        return (*axes[:-2], axes[-1], axes[-2]) if self.transposed else axes


def _output_axis(path: ParameterPath, ndim: int) -> int:
    """The output axis of a parameter: the first, or of the kernels and biases of experts the last.

    The latter is negative, so that it also holds for a single expert.
    """
    return -1 if ndim == 3 or str(path[-1]).endswith("_bias") else 0
