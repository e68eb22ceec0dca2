"""The modules of PEFT and transformers, by their names, and the parameters here that they hold.

PEFT adapts a multimodal checkpoint as a whole, with a name before those of its text decoder.
"""

from collections.abc import Mapping

import numpy as np

from adapt_jax.decoders.families import FAMILIES, Family
from adapt_jax.decoders.families.multimodal import TEXT_MODULES, make_multimodal_family
from adapt_jax.decoders.layout import ParameterPath, TensorLayout
from adapt_jax.pretrained.gguf.file import is_gguf
from adapt_jax.pretrained.hf_folder import find_cached_folder, read_json
from adapt_jax.pretrained.loading import PretrainedDecoder, get_parameters
from adapt_jax.pretrained.lora_factors import EMBEDDING_TABLES
from adapt_jax.pretrained.peft.options import LoRAOptions
from adapt_jax.pretrained.tied_output import EMBEDDING, OUTPUT
from adapt_jax.utils.errors import UserError

__all__ = ["KERNELS", "PEFTModules", "check_prompt_tuning", "find_text_module"]

KERNELS = ("kernel", "router")  # the parameters that have factors, by their names here


def find_text_module(path: str) -> str:
    """What stands before the modules of the text decoder, in place of "model.".

    Such as "model.language_model."; empty where the checkpoint at this path is a text decoder.
    """
    folder = find_cached_folder(path) if path else None
    if folder is None or is_gguf(folder) or not (folder / "config.json").is_file():
        return ""
    named = read_json(folder / "config.json").get("architectures")
    return TEXT_MODULES.get(str(named[0]), "") if isinstance(named, list) and named else ""


class PEFTModules:
    """The parameters of a decoder by the names of the tensors that hold them.

    A tied output is a module of its own: its parameter ("output", "kernel") is the embedding.

    Attributes:
        parameters: path -> array.
        shapes: path -> shape.
        layouts: name of a tensor -> where its parameters lie in it.
    """

    def __init__(self, model: PretrainedDecoder):
        self.model = model
        self.is_tied = model.config.tie_embeddings
        # also by their names inside of a multimodal model
        self.family: Family = make_multimodal_family(FAMILIES[model.config.family])
        self.has_towers = bool(find_text_module(model.path))
        layouts = self.family.tensor_layouts(model.config)
        fused = self.family.fused_layouts(model.config)
        self.parameters = get_parameters(model.decoder)
        # tensors of whole modules, in the order in which transformers defines them
        ordered = (fused[path] for path in fused if path in self.parameters)
        self.fused = {layout.names[0]: layout for layout in ordered if len(layout.names) == 1}
        if self.is_tied:
            self.parameters[OUTPUT] = self.parameters[EMBEDDING]
        self.shapes = {path: value.shape for path, value in self.parameters.items()}
        self.layouts = {
            name: layout
            for path in self.parameters
            for layout in (layouts[path], fused[path])
            for name in layout.names
        }

    def find_layout(self, tensor: str) -> TensorLayout | None:
        """Where the parameters of a tensor lie; None if there is none of this name."""
        layout = self.layouts.get(self.family.canonical_name(tensor))
        return None if layout is None or len(layout.names) > 1 else layout

    def find_kernels(self, module: str) -> TensorLayout | None:
        """Where the kernels of a module lie; None if it holds none, or stacked experts."""
        layout = self.find_layout(f"{module}.weight")
        return layout if layout is not None and layout.parameters[0][-1] in KERNELS else None

    def find_embedding(self, module: str) -> ParameterPath | None:
        """The embedding table of a module; None if it is no embedding."""
        layout = self.find_layout(f"{module}.weight")
        is_table = layout is not None and layout.parameters[0][-1] in EMBEDDING_TABLES
        return layout.parameters[0] if layout is not None and is_table else None

    def find_experts(self, module: str, options: LoRAOptions) -> tuple[str, TensorLayout] | None:
        """Which tensor of experts the factors of a module belong to; None if to none.

        PEFT wraps a module once for each of its parameters that ``target_parameters`` names; the
        last one is outermost, and the others are its base layers.
        """
        plain, depth = module.replace(".base_layer", ""), module.count(".base_layer")
        inside = [
            n for n in self.fused if n.rpartition(".")[0] == self.family.canonical_name(plain)
        ]
        targeted = [name for name in inside if options.is_target_parameter(name)]
        if depth >= len(targeted):
            return None
        name = targeted[-1 - depth]
        layout = self.fused[name]
        return (name, layout) if len(self.shapes[layout.parameters[0]]) == 3 else None

    def is_in_tower(self, module: str) -> bool:
        """Whether a module belongs to the images or sounds of the checkpoint, and not to text."""
        return self.has_towers and self.family.ignores_tensor(f"{module}.weight", self.model.config)

    def name_module(self, path: ParameterPath) -> str:
        """The module that holds a parameter alone."""
        name = next(name for name, one in self.layouts.items() if one.parameters == (path,))
        return name.removesuffix(".weight")

    def read_whole(
        self, tensors: Mapping[str, np.ndarray], problems: list[str]
    ) -> dict[ParameterPath, np.ndarray]:
        """Whole tensors by parameter. What does not fit is noted among the problems."""
        read: dict[ParameterPath, np.ndarray] = {}
        for name, array in tensors.items():
            layout = self.find_layout(name)
            if layout is None:
                problems.append(f"{name}: no parameter of {self.model.path}")
                continue
            if array.shape != layout.tensor_shape(self.shapes):
                expected = list(layout.tensor_shape(self.shapes))
                problems.append(f"{name}: is {list(array.shape)}, expected {expected}")
                continue
            for path in layout.parameters:
                index = tuple(slice(0, size) for size in self.shapes[path])
                read[path] = layout.read(path, self.shapes, {layout.names[0]: array}, index)
        return read

    def read_shared(
        self, tensors: Mapping[str, np.ndarray], problems: list[str]
    ) -> dict[ParameterPath, np.ndarray]:
        """The same, where a tied embedding and output are one tensor, under either name or both."""
        read = self.read_whole(tensors, problems)
        pair = [read[path] for path in (EMBEDDING, OUTPUT) if path in read]
        if not self.is_tied or not pair:
            return read
        if not np.array_equal(pair[0], pair[-1]):
            changed = self.drop_unchanged({EMBEDDING: pair[0], OUTPUT: pair[1]})
            name = self.name_module(next(iter(changed)))
            problems.append(f"{name}.weight: was trained apart from the output that is tied to it")
        return read | {EMBEDDING: pair[0], OUTPUT: pair[0]}

    def drop_unchanged(
        self, arrays: Mapping[ParameterPath, np.ndarray]
    ) -> dict[ParameterPath, np.ndarray]:
        """The parameters that differ from the decoder's own.

        PEFT also writes parameters that stayed as they were.
        """
        return {
            path: array
            for path, array in arrays.items()
            if not np.array_equal(array, np.asarray(self.parameters[path], np.float32))
        }


def check_prompt_tuning(model: PretrainedDecoder) -> None:
    """Checks that PEFT's prompt tuning generates what this decoder does.

    Raises:
        UserError: it gives the decoder embeddings, which stand for less than their tokens do.
    """
    if FAMILIES[model.config.family].needs_tokens(model.config):
        raise UserError(
            f"PEFT's prompt tuning gives {model.path} embeddings in place of tokens, of which it "
            "computes something else; LoRA can be exchanged with PEFT"
        )
