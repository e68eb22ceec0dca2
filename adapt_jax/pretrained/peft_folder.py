"""PEFT's folders: soft prompts and low-rank updates as adapter_config.json with its tensors.

PEFT names a module where this decoder has kernels: in a fused projection several of them, whose
factors leave as one block (A side by side, B block-diagonal) and come in by slicing.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from adapt_jax.decoders.families import FAMILIES, Family
from adapt_jax.decoders.layout import ParameterPath, TensorLayout
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.pretrained.hf_folder import read_json
from adapt_jax.pretrained.loading import PretrainedDecoder, get_parameters, join_names
from adapt_jax.pretrained.lora_factors import LoRAFactors, LoRAWeights
from adapt_jax.pretrained.safetensors_io import (
    FLOATS,
    CorruptFileError,
    FileTensor,
    read_header,
    write_tensors,
)
from adapt_jax.utils.errors import UserError

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base_model.model."  # in front of every module's name
FACTOR = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
# Options of PEFT's LoRA that are known here, or change nothing in a trained adapter. Any other
# that is set is refused by its name.
KNOWN_OPTIONS = {
    *("peft_type", "task_type", "peft_version", "auto_mapping", "inference_mode"),
    *("base_model_name_or_path", "revision", "r", "lora_alpha", "lora_dropout", "use_rslora"),
    *("rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "modules_to_save"),
    *("layers_to_transform", "layers_pattern", "fan_in_fan_out", "bias", "init_lora_weights"),
    *("megatron_core", "qalora_group_size", "runtime_config", "ensure_weight_tying"),
    "eva_config",
}
# Ways to begin a training that leave the decoder's own kernels as they were.
PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Adapter:
    """What a PEFT folder holds: a soft prompt, or low-rank updates.

    ``replaced`` are whole parameters that were trained beside the factors (modules_to_save, bias).
    """

    soft_prompt: SoftPrompt | None = None
    lora_weights: LoRAWeights | None = None
    replaced: Mapping[ParameterPath, np.ndarray] = field(default_factory=dict)


def write_soft_prompt(folder: Path, soft_prompt: SoftPrompt, model: PretrainedDecoder) -> None:
    """PEFT's prompt tuning: one tensor ``prompt_embeddings``, [P, D], float32.

    Raises:
        UserError: the soft prompt stands behind BOS, where PEFT has none, or is an ensemble.
    """
    if soft_prompt.ensemble_size:
        raise UserError(
            f"an ensemble of {soft_prompt.ensemble_size} soft prompts is voted; PEFT's prompt "
            "tuning holds one and votes nothing"
        )
    if not soft_prompt.before_bos:
        raise UserError(
            "the soft prompt stands behind BOS; PEFT puts every soft prompt before it, so the "
            "adapter would not generate the same"
        )
    embeddings = np.asarray(soft_prompt.embeddings[...], np.float32)
    config = {
        **_common(model, "PROMPT_TUNING"),
        "num_attention_heads": model.config.num_heads,
        "num_layers": model.config.num_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": embeddings.shape[0],
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "token_dim": embeddings.shape[1],
        "tokenizer_kwargs": None,
        "tokenizer_name_or_path": None,
    }
    _write(folder, config, {"prompt_embeddings": embeddings})


def write_lora(folder: Path, updates: LoRAWeights, model: PretrainedDecoder) -> None:
    """PEFT's LoRA: ``lora_A`` [R, in] and ``lora_B`` [out, R] of every module, float32.

    Raises:
        UserError: an update belongs to a parameter that is no module of its own in PEFT.
    """
    stored = FAMILIES[model.config.family].tensor_layouts(model.config)
    shapes = {path: value.shape for path, value in get_parameters(model.decoder).items()}
    modules: dict[str, TensorLayout] = {}
    mixture = model.config.moe is not None and not model.config.dense_with_moe
    for path in updates.factors:
        one, mixed = stored[path], mixture and "ffn" in path
        if mixed or len(one.names) > 1 or len(shapes[path]) != 2:
            why = ", which it would take for the experts'" if mixed else ""
            raise UserError(f"PEFT has no module for {'.'.join(map(str, path))}{why}")
        modules[_module(path, one)] = one
    tensors, ranks, alphas = {}, {}, {}
    for module, one in modules.items():
        fused = _fused(one, updates, shapes)
        tensors[f"{BASE}{module}.lora_A.weight"] = fused.a
        tensors[f"{BASE}{module}.lora_B.weight"] = fused.b
        ranks[module], alphas[module] = fused.rank, fused.alpha
    rank, alpha = (Counter(numbers.values()).most_common(1)[0][0] for numbers in (ranks, alphas))
    kernels = (path for path in shapes if path[-1] in ("kernel", "router"))
    every = {_module(path, stored[path]) for path in kernels}
    config = {
        **_common(model, "LORA"),
        "alpha_pattern": {m: _plain(a) for m, a in alphas.items() if a != alpha},
        "bias": "none",
        "fan_in_fan_out": any(one.transposed for one in modules.values()),
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": _plain(alpha),
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "r": rank,
        "rank_pattern": {m: r for m, r in ranks.items() if r != rank},
        "target_modules": _targets(set(modules), every),
        "use_rslora": updates.rank_stabilized,
    }
    _write(folder, config, tensors)


def _module(path: ParameterPath, one: TensorLayout) -> str:
    """The module of a kernel; whatever files call the output, transformers calls it lm_head."""
    return "lm_head" if path[0] == "output" else one.names[0].removesuffix(".weight")


def _fused(
    one: TensorLayout, updates: LoRAWeights, shapes: Mapping[ParameterPath, Any]
) -> LoRAFactors:
    """The factors of the parts of one tensor as those of the whole; a part without any is zero."""
    mine = {part: updates.factors[part] for part in one.parameters if part in updates.factors}
    first = next(iter(mine.values()))
    if len(one.parameters) == 1:
        return first
    scale = first.scale(updates.rank_stabilized)
    scaled = {
        part: factors.b * np.float32(factors.scale(updates.rank_stabilized) / scale)
        for part, factors in mine.items()
    }
    if len(mine) == len(one.parameters) and all(
        np.array_equal(f.a, first.a) for f in mine.values()
    ):
        return LoRAFactors(first.a, one.fuse(scaled), first.alpha)  # it was one block before
    rank = sum(factors.rank for factors in mine.values())
    blocks = {part: np.zeros((shapes[part][0], rank), np.float32) for part in one.parameters}
    at = 0
    for part, factors in mine.items():
        blocks[part][:, at : at + factors.rank] = scaled[part]
        at += factors.rank
    a = np.concatenate([factors.a for factors in mine.values()])
    alpha = scale * (rank**0.5 if updates.rank_stabilized else rank)
    return LoRAFactors(a, one.fuse(blocks), alpha)


def _targets(chosen: set[str], every: set[str]) -> list[str]:
    """The shortest ends of module names by which PEFT finds those that are chosen and no others."""
    ends = set()
    for module in chosen:
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            end = ".".join(parts[-count:])
            if {m for m in every if m == end or m.endswith(f".{end}")} <= chosen:
                ends.add(end)
                break
    return sorted(ends)


def _plain(number: float) -> float:
    """Whole numbers without a point, as people write them."""
    return int(number) if number == int(number) else number


def _common(model: PretrainedDecoder, kind: str) -> dict[str, Any]:
    """What every adapter_config.json says."""
    name, _, revision = model.path.partition("@")
    here = Path(model.path).expanduser()
    return {
        "auto_mapping": None,
        "base_model_name_or_path": str(here.resolve()) if here.is_dir() else name,
        "inference_mode": True,
        "peft_type": kind,
        "revision": (revision or None) if not here.is_dir() else None,
        "task_type": "CAUSAL_LM",
    }


def _write(folder: Path, config: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {name: array.shape for name, array in tensors.items()}
    write_tensors(folder / ADAPTER_WEIGHTS, shapes, np.float32, iter(tensors.items()))
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")


def read_adapter(folder: str | Path, model: PretrainedDecoder) -> Adapter:
    """What a PEFT folder adds to this decoder.

    Raises:
        UserError: naming whatever is damaged, does not fit the decoder, or cannot be represented.
    """
    folder = Path(folder)
    if not (folder / ADAPTER_CONFIG).is_file():
        raise UserError(f"{folder}: no {ADAPTER_CONFIG}; expected a PEFT folder")
    config = read_json(folder / ADAPTER_CONFIG)
    kind = config.get("peft_type")
    readers = {"PROMPT_TUNING": _read_soft_prompt, "LORA": _read_low_rank}
    if kind not in readers:
        known = ", ".join(readers)
        raise UserError(
            f"{folder / ADAPTER_CONFIG}: peft_type {kind!r} is not supported; supported: {known}"
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        pickled = list(folder.glob("*.bin"))
        found = f" ({pickled[0].name} is pickled, so it is never opened)" if pickled else ""
        raise UserError(f"{folder}: no {ADAPTER_WEIGHTS}{found}")
    with ExitStack() as stack:
        try:
            opened = stack.enter_context((folder / ADAPTER_WEIGHTS).open("rb", buffering=0))
            held = read_header(folder / ADAPTER_WEIGHTS, opened.fileno())
        except (OSError, CorruptFileError) as error:
            raise UserError(
                f"{folder / ADAPTER_WEIGHTS}: not readable as safetensors: {error}"
            ) from None
        other = [f"{name} is {t.dtype}" for name, t in held.items() if t.dtype not in FLOATS]
        if other:
            raise UserError(
                f"{folder / ADAPTER_WEIGHTS}: expected one of {', '.join(FLOATS)}: {join_names(other)}"
            )
        arrays = {name: _whole(tensor) for name, tensor in held.items()}
    if wrong := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise UserError(f"{folder / ADAPTER_WEIGHTS}: not finite: {join_names(wrong, 3)}")
    try:
        return readers[kind](folder, config, arrays, model)
    except re.error as error:
        raise UserError(
            f"{folder / ADAPTER_CONFIG}: {error.pattern!r} is no regular expression ({error})"
        ) from None


def _whole(tensor: FileTensor) -> np.ndarray:
    """All of a tensor, as float32."""
    return tensor[tuple(slice(None) for _ in tensor.shape)].astype(np.float32)


def _read_soft_prompt(
    folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray], model: PretrainedDecoder
) -> Adapter:
    rows, wanted = tensors.pop("prompt_embeddings", None), model.config.embed_dim
    if rows is None or tensors:
        found = f"; found {join_names(sorted(tensors))}" if tensors else ""
        raise UserError(f"{folder / ADAPTER_WEIGHTS}: expected prompt_embeddings alone{found}")
    if (modules := config.get("num_transformer_submodules")) not in (None, 1):
        raise UserError(
            f"{folder / ADAPTER_CONFIG}: num_transformer_submodules {modules}; expected 1"
        )
    said = config.get("num_virtual_tokens")
    if rows.ndim != 2 or rows.shape[1] != wanted or said not in (None, rows.shape[0]):
        raise UserError(
            f"{folder / ADAPTER_WEIGHTS}: prompt_embeddings is {list(rows.shape)}, expected "
            f"[{said or 'virtual tokens'}, {wanted}] for {model.path}"
        )
    return Adapter(SoftPrompt(jnp.asarray(rows), before_bos=True))


def _read_low_rank(
    folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray], model: PretrainedDecoder
) -> Adapter:
    family = FAMILIES[model.config.family]
    stored = family.tensor_layouts(model.config)
    shapes = {path: value.shape for path, value in get_parameters(model.decoder).items()}
    by_name = {name: stored[path] for path in shapes for name in stored[path].names}
    problems = _unknown_options(config)
    pairs: dict[str, dict[str, np.ndarray]] = {}
    whole: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        if found := FACTOR.fullmatch(name.removeprefix(BASE)):
            pairs.setdefault(found[1], {})[found[2]] = array
        else:
            module = name.removeprefix(BASE).replace(".base_layer.", ".")
            whole[module.replace(".modules_to_save.default.", ".")] = array
    factors: dict[ParameterPath, LoRAFactors] = {}
    stabilized = bool(config.get("use_rslora"))
    for module, pair in pairs.items():
        one = by_name.get(family.canonical_name(f"{module}.weight"))
        if one is None or len(one.names) > 1:
            problems.append(f"{module}: no module of {model.path}")
        elif pair.keys() != {"A", "B"}:
            problems.append(f"{module}: has lora_{next(iter(pair))} alone")
        elif not _targeted(module, config):
            problems.append(f"{module}: has factors, but target_modules does not name it")
        elif not _in_layers(module, config.get("layers_to_transform")):
            problems.append(f"{module}: has factors, but layers_to_transform leaves its layer out")
        else:
            rank = _by_pattern(config, "rank_pattern", module, config.get("r"))
            alpha = _by_pattern(config, "alpha_pattern", module, config.get("lora_alpha"))
            a, b = pair["A"], pair["B"]
            width, out = (
                shapes[one.parameters[0]][1],
                sum(shapes[part][0] for part in one.parameters),
            )
            if a.shape != (rank, width) or b.shape != (out, rank):
                found_shapes = f"lora_A is {list(a.shape)} and lora_B {list(b.shape)}"
                expected = f"expected {[rank, width]} and {[out, rank]}"
                problems.append(f"{module}: {found_shapes}, {expected}")
            elif not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
                problems.append(f"{module}: lora_alpha is {alpha!r}, expected a number")
            else:
                for path in one.parameters:
                    factors[path] = LoRAFactors(
                        a, one.slice_parameter(path, shapes, b), float(alpha)
                    )
    replaced = _replaced(whole, by_name, shapes, family, model, problems)
    if not pairs and not problems:
        problems.append("holds no lora_A and lora_B")
    if problems:
        raise UserError(f"{folder}: cannot be represented here: {join_names(problems)}")
    return Adapter(None, LoRAWeights(factors, model.fingerprint, stabilized), replaced)


def _unknown_options(config: Mapping[str, Any]) -> list[str]:
    """Options that are set and not known here."""
    problems = [
        f"{name} {value!r}" for name, value in config.items() if value and name not in KNOWN_OPTIONS
    ]
    if (init := config.get("init_lora_weights", True)) not in PLAIN_INITS:
        problems.append(f"init_lora_weights {init!r} changes the decoder's own kernels")
    return problems


def _targeted(module: str, config: Mapping[str, Any]) -> bool:
    """Whether PEFT gives this module factors, by the form that target_modules has."""

    def named(wanted: Any) -> bool:
        if isinstance(wanted, str):
            return re.fullmatch(wanted, module) is not None
        return any(module == end or module.endswith(f".{end}") for end in wanted or ())

    wanted = config.get("target_modules")
    if wanted is None or wanted == "all-linear":
        return True
    return named(wanted) and not named(config.get("exclude_modules"))


def _in_layers(module: str, layers: Any) -> bool:
    """Whether layers_to_transform, a number or a list of them, holds this module's layer."""
    number, wanted = (
        re.search(r"\.(\d+)\.", module),
        layers if isinstance(layers, list) else [layers],
    )
    return layers is None or (number is not None and int(number[1]) in wanted)


def _by_pattern(config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """The number that a pattern has for a module: of the first whose end of a name matches."""
    for pattern, number in (config.get(key) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return number
    return default


def _replaced(
    whole: Mapping[str, np.ndarray],
    by_name: Mapping[str, TensorLayout],
    shapes: Mapping[ParameterPath, Any],
    family: Family,
    model: PretrainedDecoder,
    problems: list[str],
) -> dict[ParameterPath, np.ndarray]:
    """Whole parameters (modules_to_save, bias), by path; what does not fit is noted."""
    replaced: dict[ParameterPath, np.ndarray] = {}
    held = get_parameters(model.decoder)
    for name, array in whole.items():
        one = by_name.get(family.canonical_name(name))
        if one is None or len(one.names) > 1:
            problems.append(f"{name}: no parameter of {model.path}")
        elif array.shape != one.tensor_shape(shapes):
            expected = list(one.tensor_shape(shapes))
            problems.append(f"{name}: is {list(array.shape)}, expected {expected}")
        elif one.parameters == (("embedding",),) and model.config.tie_embeddings:
            problems.append(f"{name}: was trained apart from the output that is tied to it")
        else:
            for path in one.parameters:
                index = tuple(slice(0, size) for size in shapes[path])
                read = one.read(path, shapes, {one.names[0]: array}, index)
                if not np.array_equal(read, np.asarray(held[path], np.float32)):
                    replaced[path] = read  # PEFT also writes parameters that stayed as they were
    return replaced
