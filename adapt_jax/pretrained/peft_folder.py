"""Reads PEFT folders: prompt tuning and LoRA, as adapter_config.json with its tensors.

Whatever an adapter asks for is either computed here exactly as PEFT computes it, or refused by its
name. PEFT names a module where this decoder has kernels: the factors of a fused projection are
sliced.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from adapt_jax.decoders.families import FAMILIES, Family
from adapt_jax.decoders.layout import ParameterPath, TensorLayout
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.pretrained.hf_folder import find_local_folder, read_json
from adapt_jax.pretrained.loading import PretrainedDecoder, get_parameters
from adapt_jax.pretrained.lora_factors import LoRAFactors, LoRAWeights
from adapt_jax.pretrained.peft_options import PEFT_TYPES, LoRAOptions, find_option_problems
from adapt_jax.pretrained.safetensors_io import read_tensors
from adapt_jax.pretrained.weight_files import join_names
from adapt_jax.utils.bucket import localize
from adapt_jax.utils.errors import UserError

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "BASE_PREFIX",
    "KERNELS",
    "PROMPT_EMBEDDINGS",
    "Adapter",
    "read_adapter",
    "read_base_decoder",
]

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PROMPT_EMBEDDINGS = "prompt_embeddings"  # the tensor of a soft prompt
BASE_PREFIX = "base_model.model."  # before every module's name
_FACTOR = re.compile(r"(.+)\.lora_([AB])(?:\.([^.]+))?\.weight")
_SAVED_MODULE = re.compile(r"(.+)\.modules_to_save(?:\.([^.]+))?\.(weight|bias)")
KERNELS = ("kernel", "router")  # the parameters that have factors, by their names here


@dataclass(frozen=True)
class Adapter:
    """The content of a PEFT folder: a soft prompt, or LoRA weights.

    ``replaced`` are whole parameters that were trained beside the factors (modules_to_save, bias).
    """

    soft_prompt: SoftPrompt | None = None
    lora_weights: LoRAWeights | None = None
    replaced: Mapping[ParameterPath, np.ndarray] = field(default_factory=dict)


def _find_adapter_folder(folder: str | Path) -> Path:
    """The folder, if it has an adapter.

    Raises:
        UserError: it has none; a subfolder that has one is named.
    """
    folder = localize(folder)
    if (folder / ADAPTER_CONFIG).is_file():
        return folder
    inner = sorted(file.parent for file in folder.glob(f"*/{ADAPTER_CONFIG}"))
    found = f"; found adapters in {join_names([str(one) for one in inner], 3)}" if inner else ""
    raise UserError(f"{folder}: no {ADAPTER_CONFIG}; expected a PEFT folder{found}")


def read_base_decoder(folder: str | Path) -> Path:
    """The folder on this machine of the decoder that an adapter names.

    A name on the hub is not followed: nothing is fetched because a received file names it.

    Raises:
        UserError: the adapter names no decoder, or none that is a folder here.
    """
    file = _find_adapter_folder(folder) / ADAPTER_CONFIG
    config = read_json(file)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not name or not isinstance(name, str):
        raise UserError(f"{file}: names no decoder; say where it lies with --decoder")
    if (found := find_local_folder(name)) is not None:
        return found
    full_name = f"{name}@{revision}" if revision else name
    raise UserError(
        f"{file}: names the decoder {full_name[:200]!r}, which is no folder here, and nothing is "
        f"fetched because a file names it; if you trust it, give --decoder {full_name[:200]}"
    )


def read_adapter(folder: str | Path, model: PretrainedDecoder) -> Adapter:
    """The part that a PEFT folder adds to this decoder.

    Raises:
        UserError: naming whatever is damaged, does not fit the decoder, or cannot be represented.
    """
    folder = _find_adapter_folder(folder)
    config = read_json(folder / ADAPTER_CONFIG)
    peft_type = config.get("peft_type")
    if not isinstance(peft_type, str) or peft_type not in PEFT_TYPES:
        known, shown = ", ".join(PEFT_TYPES), repr(peft_type)[:60]
        raise UserError(
            f"{folder / ADAPTER_CONFIG}: peft_type {shown} is not supported; supported: {known}"
        )
    if problems := find_option_problems(config):
        raise UserError(f"{folder}: cannot be represented here: {join_names(problems)}")
    tensors = _read_tensors(folder)
    read = _read_soft_prompt if peft_type == "PROMPT_TUNING" else _read_lora
    return read(folder, config, tensors, model)


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of the adapter, as float32."""
    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        pickled = list(folder.glob("*.bin"))
        found = f" ({pickled[0].name} is pickled, so it is never opened)" if pickled else ""
        raise UserError(f"{folder}: no {ADAPTER_WEIGHTS}{found}")
    arrays = read_tensors(file)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused
        # each array is dropped once it is cast: not all are held twice
        arrays = {name: arrays.pop(name).astype(np.float32) for name in list(arrays)}
    if wrong := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise UserError(f"{file}: not finite: {join_names(wrong, 3)}")
    return arrays


def _strip_wrapper_names(
    tensors: Mapping[str, np.ndarray], problems: list[str]
) -> dict[str, np.ndarray]:
    """The tensors by their names without what torch.compile and DistributedDataParallel add."""
    plain: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        short = name.replace("_orig_mod.", "")
        while short.startswith("module."):
            short = short.removeprefix("module.")
        if short in plain:
            problems.append(f"{name}: holds {short} again")
        plain[short] = array
    return plain


def _read_soft_prompt(
    folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray], model: PretrainedDecoder
) -> Adapter:
    problems: list[str] = []
    tensors = _strip_wrapper_names(tensors, problems)
    rows, embed_dim = tensors.pop(PROMPT_EMBEDDINGS, None), model.config.embed_dim
    if rows is None or problems:
        found = join_names([*problems, *sorted(tensors)])
        raise UserError(f"{folder / ADAPTER_WEIGHTS}: expected {PROMPT_EMBEDDINGS}; found {found}")
    said = config.get("num_virtual_tokens")
    if rows.ndim != 2 or rows.shape[1] != embed_dim or said not in (None, rows.shape[0]):
        raise UserError(
            f"{folder / ADAPTER_WEIGHTS}: {PROMPT_EMBEDDINGS} is {list(rows.shape)}, expected "
            f"[{said or 'virtual tokens'}, {embed_dim}] for {model.path}"
        )
    if config.get("token_dim") not in (None, embed_dim):
        raise UserError(
            f"{folder / ADAPTER_CONFIG}: token_dim is {config['token_dim']}; expected {embed_dim}"
        )
    # PEFT can save the decoder's embeddings too; they must be the decoder's own
    whole_tensors = {name.removeprefix("base_model."): array for name, array in tensors.items()}
    replaced = _Modules(model).match_whole(whole_tensors, problems)
    problems += [f"{'.'.join(map(str, path))}: differs from the decoder's" for path in replaced]
    if problems:
        raise UserError(f"{folder}: cannot be represented here: {join_names(problems)}")
    return Adapter(SoftPrompt(jnp.asarray(rows), before_bos=True))


def _read_lora(
    folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray], model: PretrainedDecoder
) -> Adapter:
    problems: list[str] = []
    modules = _Modules(model)
    pairs, whole_tensors, originals = _sort_tensors(
        _strip_wrapper_names(tensors, problems), problems
    )
    # with what PEFT wraps, it can also save the module as it was: that must be the decoder's
    changed = modules.match_whole(originals, problems)
    problems += [f"{'.'.join(map(str, path))}: differs from the decoder's" for path in changed]
    options = LoRAOptions(folder / ADAPTER_CONFIG, config)
    factors: dict[ParameterPath, LoRAFactors] = {}
    for module, pair in pairs.items():
        layout = modules.find_kernels(f"{module}.weight")
        experts = modules.find_experts(module, options) if layout is None else None
        if experts is not None:
            name, layout = experts
            rank, alpha = options.get_rank(name), options.get_alpha(name)
            factors |= _split_expert_factors(name, layout, pair, rank, alpha, modules, problems)
        elif layout is None:
            problems.append(f"{module}: no module of {model.path}")
        elif problem := options.find_problem(module, pair):
            problems.append(f"{module}: {problem}")
        else:
            rank, alpha = options.get_rank(module), options.get_alpha(module)
            factors |= _slice_factors(module, layout, pair, rank, alpha, modules, problems)
    replaced = modules.match_whole(whole_tensors, problems)
    for name in config.get("modules_to_save") or ():
        if not any(f".{name}." in f".{tensor}" for tensor in whole_tensors):
            problems.append(f"modules_to_save names {name!r}, of which there is no tensor"[:200])
    if not pairs and not problems:
        problems.append("holds no lora_A and lora_B")
    if problems:
        raise UserError(f"{folder}: cannot be represented here: {join_names(problems)}")
    stabilized = bool(config.get("use_rslora"))
    return Adapter(None, LoRAWeights(factors, model.fingerprint, stabilized), replaced)


def _sort_tensors(
    tensors: Mapping[str, np.ndarray], problems: list[str]
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The factors by module and by A and B; trained whole tensors; and modules as they were."""
    pairs: dict[str, dict[str, np.ndarray]] = {}
    trained: dict[str, np.ndarray] = {}
    originals: dict[str, np.ndarray] = {}
    adapters = set()
    for full_name, array in tensors.items():
        name = full_name.removeprefix(BASE_PREFIX)
        while name.startswith("module."):
            name = name.removeprefix("module.")
        if found := _FACTOR.fullmatch(name):
            pairs.setdefault(found[1], {})[found[2]] = array
            adapters.add(found[3])
        elif found := _SAVED_MODULE.fullmatch(name):
            trained[f"{found[1]}.{found[3]}"] = array
            adapters.add(found[2])
        elif ".original_module." in name:
            originals[name.replace(".original_module.", ".")] = array
        else:
            trained[name.replace(".base_layer.", ".")] = array
    if len(names := sorted(name for name in adapters if name is not None)) > 1:
        problems.append(f"holds several adapters ({join_names(names, 5)}); save one alone")
    return pairs, trained, originals


def _slice_factors(
    module: str,
    layout: TensorLayout,
    pair: Mapping[str, np.ndarray],
    rank: int,
    alpha: float,
    modules: "_Modules",
    problems: list[str],
) -> dict[ParameterPath, LoRAFactors]:
    """The factors of one module, for each of the kernels that it holds."""
    a, b, shapes = pair["A"], pair["B"], modules.shapes
    inputs = shapes[layout.parameters[0]][1]
    outputs = sum(shapes[part][0] for part in layout.parameters)
    if a.shape != (rank, inputs) or b.shape != (outputs, rank):
        found = f"lora_A is {list(a.shape)} and lora_B {list(b.shape)}"
        problems.append(f"{module}: {found}, expected {[rank, inputs]} and {[outputs, rank]}")
        return {}
    return {
        path: LoRAFactors(a, layout.slice_parameter(path, shapes, b), alpha)
        for path in layout.parameters
    }


def _split_expert_factors(
    name: str,
    layout: TensorLayout,
    pair: Mapping[str, np.ndarray],
    rank: int,
    alpha: float,
    modules: "_Modules",
    problems: list[str],
) -> dict[ParameterPath, LoRAFactors]:
    """The factors of all experts of one tensor, for each of the kernels that it holds.

    PEFT keeps A as [E·R, I], expert by expert, and B as [O, R·E], rank by rank (ParamWrapper).
    """
    shapes = modules.shapes
    count, inputs, _ = shapes[layout.parameters[0]]
    outputs = sum(shapes[part][2] for part in layout.parameters)
    expected = {"A": (count * rank, inputs), "B": (outputs, rank * count)}
    found = {which: array.shape for which, array in pair.items()}
    if found != expected:
        problems.append(f"{name}: lora_A and lora_B are {found}, expected {expected}")
        return {}
    a = pair["A"].reshape(count, rank, inputs)
    b = pair["B"].reshape(outputs, rank, count)
    return {
        path: LoRAFactors(a, layout.slice_parameter(path, shapes, b).transpose(2, 0, 1), alpha)
        for path in layout.parameters
    }


class _Modules:
    """The parameters of a decoder by the names of the tensors that hold them."""

    def __init__(self, model: PretrainedDecoder):
        self.model = model
        self.family: Family = FAMILIES[model.config.family]
        layouts = self.family.tensor_layouts(model.config)
        fused = self.family.fused_layouts(model.config)
        self.parameters = get_parameters(model.decoder)
        self.shapes = {path: value.shape for path, value in self.parameters.items()}
        self.layouts = {
            name: layout
            for path in self.parameters
            for layout in (layouts[path], fused[path])
            for name in layout.names
        }
        # tensors of whole modules, in the order in which transformers defines them
        ordered = (fused[path] for path in fused if path in self.parameters)
        self.fused = {layout.names[0]: layout for layout in ordered if len(layout.names) == 1}
        if model.config.tie_embeddings:  # the output's name stands for the embedding
            self.layouts[layouts["output", "kernel"].names[0]] = layouts["embedding",]

    def find_kernels(self, name: str) -> TensorLayout | None:
        """Where the kernels of a tensor lie; None if it holds no kernels, or stacked experts."""
        layout = self.layouts.get(self.family.canonical_name(name))
        if layout is None or len(layout.names) > 1 or layout.parameters[0][-1] not in KERNELS:
            return None
        return layout

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

    def match_whole(
        self, tensors: Mapping[str, np.ndarray], problems: list[str]
    ) -> dict[ParameterPath, np.ndarray]:
        """Whole tensors by parameter, except for those that equal the decoder's own.

        What does not fit is noted among the problems.
        """
        replaced: dict[ParameterPath, np.ndarray] = {}
        for name, array in tensors.items():
            layout = self.layouts.get(self.family.canonical_name(name))
            if layout is None or len(layout.names) > 1:
                problems.append(f"{name}: no parameter of {self.model.path}")
                continue
            if array.shape != layout.tensor_shape(self.shapes):
                expected = list(layout.tensor_shape(self.shapes))
                problems.append(f"{name}: is {list(array.shape)}, expected {expected}")
                continue
            for path in layout.parameters:
                index = tuple(slice(0, size) for size in self.shapes[path])
                read = layout.read(path, self.shapes, {layout.names[0]: array}, index)
                if np.array_equal(read, np.asarray(self.parameters[path], np.float32)):
                    continue  # PEFT also writes parameters that stayed as they were
                if path == ("embedding",) and self.model.config.tie_embeddings:
                    problems.append(f"{name}: was trained apart from the output that is tied to it")
                else:
                    replaced[path] = read
        return replaced
