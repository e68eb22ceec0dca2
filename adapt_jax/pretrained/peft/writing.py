"""Writes PEFT folders: soft prompts and LoRA weights as adapter_config.json with its tensors.

PEFT names a module where this decoder has kernels. A fused projection has several of them: their
factors are written as one block, A side by side and B block-diagonal.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapt_jax.decoders.families import FAMILIES
from adapt_jax.decoders.layout import ParameterPath, TensorLayout
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.pretrained.hf_folder import find_local_folder
from adapt_jax.pretrained.loading import PretrainedDecoder, get_parameters
from adapt_jax.pretrained.lora_factors import (
    EMBEDDING_TABLES,
    LoRAFactors,
    LoRAWeights,
    are_equal,
)
from adapt_jax.pretrained.peft.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROMPT_EMBEDDINGS
from adapt_jax.pretrained.peft.lora import BASE_PREFIX
from adapt_jax.pretrained.peft.modules import KERNELS, check_prompt_tuning, find_text_module
from adapt_jax.pretrained.safetensors_io import write_tensors
from adapt_jax.pretrained.tied_output import EMBEDDING, OUTPUT
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.files import write_text

__all__ = ["check_peft_modules", "write_lora", "write_soft_prompt"]

# Projections of experts in transformers 4. Where there are experts, PEFT takes a module of such a
# name for theirs, so that its factors belong to its parameter ``weight``.
EXPERT_MODULES = {"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}
# Model types in which PEFT refuses factors of out_proj, the output of Mamba layers: fast kernels
# read its weight themselves and would leave them out.
WITHOUT_OUT_PROJ = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
# Those in which transformers reads the weight of dt_proj itself, whatever factors it has.
WITHOUT_DT_PROJ = ("falcon_mamba", "mamba")


def write_soft_prompt(folder: Path, soft_prompt: SoftPrompt, model: PretrainedDecoder) -> None:
    """Writes PEFT's prompt tuning: one tensor ``prompt_embeddings``, [P, D], float32.

    Raises:
        UserError: the soft prompt is put after BOS, where PEFT has none, or is an ensemble; or
            the decoder needs tokens (``check_prompt_tuning``).
    """
    if soft_prompt.ensemble_size:
        raise UserError(
            f"an ensemble of {soft_prompt.ensemble_size} soft prompts votes on answers; PEFT's "
            "prompt tuning holds a single one"
        )
    if not soft_prompt.before_bos:
        raise UserError(
            "the soft prompt comes after BOS; PEFT puts every soft prompt before it, so the "
            "adapter would not generate the same"
        )
    check_prompt_tuning(model)
    embeddings = np.asarray(soft_prompt.embeddings[...], np.float32)
    config = {
        **_make_common_fields(model, "PROMPT_TUNING"),
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
    _write_folder(folder, config, {PROMPT_EMBEDDINGS: embeddings})


def check_peft_modules(weights: LoRAWeights, model: PretrainedDecoder) -> None:
    """Checks that PEFT allows factors of these kernels.

    Raises:
        UserError: it refuses those of a module in this family.
    """
    model_type = FAMILIES[model.config.family].model_type
    for model_types, hf_name, name in (
        (WITHOUT_OUT_PROJ, "out_proj", "output"),
        (WITHOUT_DT_PROJ, "dt_proj", "time_step"),
    ):
        has_factors = any(path[-3:-1] == ("mixer", name) for path in weights.factors)
        if has_factors and model_type in model_types:
            raise UserError(
                f"PEFT allows no LoRA on {hf_name}, the {name} of Mamba layers; export it with "
                f"format hf, or tune it with lora.modules that leave {name} out"
            )
    layouts = FAMILIES[model.config.family].fused_layouts(model.config)
    parameters = _sort_layouts(weights, layouts, get_parameters(model.decoder), model)[1]
    if weights.has_magnitudes and parameters:
        raise UserError(
            f"PEFT allows no DoRA of {next(iter(parameters))}, beside experts; export it with "
            "format hf, or tune it with lora.modules that leave gate, up and down out"
        )


def write_lora(folder: Path, weights: LoRAWeights, model: PretrainedDecoder) -> None:
    """Writes PEFT's LoRA, all float32: ``lora_A`` [R, in] and ``lora_B`` [out, R] of every module.

    An embedding of V tokens has ``lora_embedding_A`` [R, V] and ``lora_embedding_B`` [D, R]. DoRA
    adds ``lora_magnitude_vector``.

    Args:
        model: with the updates merged, or without them.

    Raises:
        UserError: an update belongs to a parameter that is no module of its own in PEFT.
    """
    layouts = FAMILIES[model.config.family].fused_layouts(model.config)
    arrays = get_parameters(model.decoder)
    if model.config.tie_embeddings:
        arrays[OUTPUT] = arrays[EMBEDDING]
    modules, parameters = _sort_layouts(weights, layouts, arrays, model)
    both = modules | parameters
    factors = {name: _fuse_factors(layout, weights, arrays) for name, layout in both.items()}
    tables = {name for name, one in modules.items() if one.parameters[0][-1] in EMBEDDING_TABLES}
    all_parameters = list(
        dict.fromkeys(layouts[path].names[0] for path in layouts if path in arrays)
    )
    wrappers = _name_wrappers([name for name in all_parameters if name in parameters])
    text_module = find_text_module(model.path)
    tensors: dict[str, np.ndarray] = {}
    for name, one in factors.items():
        module = _put_inside(text_module, wrappers.get(name, name))
        tensors |= _name_tensors(BASE_PREFIX + module, one, name in tables)
    # what most modules have is the default; the others are listed as patterns
    rank = _find_most_common([one.rank for one in factors.values()])
    alpha = _find_most_common([one.alpha for one in factors.values()])
    # PEFT compares patterns with the ends of names
    patterns = {name: name.removeprefix("model.") if text_module else name for name in factors}
    # experts are no modules
    own = (path for path in arrays if path[-1] in (*KERNELS, *EMBEDDING_TABLES))
    all_modules = {_name_module(path, layouts[path]) for path in own}
    config = {
        **_make_common_fields(model, "LORA"),
        "alpha_pattern": {
            patterns[n]: _simplify_number(f.alpha) for n, f in factors.items() if f.alpha != alpha
        },
        "bias": "none",
        "ensure_weight_tying": model.config.tie_embeddings and _ties_factors(weights),
        "fan_in_fan_out": any(layout.transposed for layout in modules.values()),
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": _simplify_number(alpha),
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "r": rank,
        "rank_pattern": {patterns[n]: f.rank for n, f in factors.items() if f.rank != rank},
        "target_modules": _list_targets(set(modules), all_modules, text_module),
        "target_parameters": _find_shortest_suffixes(set(parameters), set(all_parameters)) or None,
        "use_dora": weights.has_magnitudes,
        "use_rslora": weights.rank_stabilized,
    }
    _write_folder(folder, config, tensors)


def _sort_layouts(
    weights: LoRAWeights,
    layouts: Mapping[ParameterPath, TensorLayout],
    arrays: Mapping[ParameterPath, Any],
    model: PretrainedDecoder,
) -> tuple[dict[str, TensorLayout], dict[str, TensorLayout]]:
    """What has factors, by name: modules, and parameters that are no modules in transformers 5.

    Raises:
        UserError: something that is neither.
    """
    modules: dict[str, TensorLayout] = {}
    parameters: dict[str, TensorLayout] = {}
    has_only_experts = model.config.moe is not None and not model.config.dense_with_moe
    for path in weights.factors:
        layout, ndim = layouts[path], len(arrays[path].shape)
        if len(layout.names) > 1:
            raise UserError(f"PEFT has no module for {'.'.join(map(str, path))}")
        module = _name_module(path, layout)
        is_like_experts = module.rpartition(".")[2] in EXPERT_MODULES or path[-1] == "router"
        if ndim == 3 or (has_only_experts and "ffn" in path and is_like_experts):
            parameters[layout.names[0]] = layout
        else:
            modules[module] = layout
    return modules, parameters


def _name_tensors(module: str, factors: LoRAFactors, is_table: bool) -> dict[str, np.ndarray]:
    """The tensors of one module, as PEFT names and keeps them."""
    if is_table:
        named = {"lora_embedding_A": factors.b.T, "lora_embedding_B": factors.a.T}
    else:
        a, b = _flatten(factors)
        named = {"lora_A.weight": a, "lora_B.weight": b}
    if factors.magnitude is not None:
        named["lora_magnitude_vector"] = factors.magnitude
    return {f"{module}.{name}": np.ascontiguousarray(array) for name, array in named.items()}


def _name_wrappers(parameters: list[str]) -> dict[str, str]:
    """Where PEFT keeps the factors of parameters, given in the order of their definition.

    It wraps a module once for each of them; the last one is outermost.
    """
    wrappers: dict[str, str] = {}
    depths: Counter[str] = Counter()
    for name in reversed(parameters):
        module = name.rpartition(".")[0]
        wrappers[name] = module + ".base_layer" * depths[module]
        depths[module] += 1
    return wrappers


def _flatten(factors: LoRAFactors) -> tuple[np.ndarray, np.ndarray]:
    """A [R, I] and B [O, R] as PEFT keeps them; of experts, A [E·R, I] and B [O, R·E]."""
    if factors.a.ndim == 2:
        return factors.a, factors.b
    a = factors.a.reshape(-1, factors.a.shape[-1])
    return a, np.ascontiguousarray(factors.b.transpose(1, 2, 0)).reshape(factors.b.shape[1], -1)


def _name_module(path: ParameterPath, layout: TensorLayout) -> str:
    """The module of a kernel; whatever files call the output, transformers calls it lm_head."""
    return "lm_head" if path[0] == "output" else layout.names[0].removesuffix(".weight")


def _fuse_factors(
    layout: TensorLayout, weights: LoRAWeights, arrays: Mapping[ParameterPath, Any]
) -> LoRAFactors:
    """The factors of the parts of one tensor as those of the whole; a part without any is zero."""
    own = {part: weights.factors[part] for part in layout.parameters if part in weights.factors}
    first = next(iter(own.values()))
    if len(layout.parameters) == 1:
        return first
    # every part is scaled as the first, because the block has one alpha
    scale = first.scale(weights.rank_stabilized)
    scaled = {
        part: factors.b * np.float32(factors.scale(weights.rank_stabilized) / scale)
        for part, factors in own.items()
    }
    magnitude = _fuse_magnitudes(layout, own, arrays)
    if len(own) == len(layout.parameters) and all(
        np.array_equal(f.a, first.a) for f in own.values()
    ):  # it came in as one block
        return LoRAFactors(first.a, _fuse_b(layout, scaled), first.alpha, magnitude)
    rank = sum(factors.rank for factors in own.values())
    blocks = {}
    for part in layout.parameters:
        shape = arrays[part].shape
        *experts, outputs = shape[:1] + shape[2:]  # [O, I], or [E, I, O]
        blocks[part] = np.zeros((*experts, outputs, rank), np.float32)
    column = 0
    for part, factors in own.items():
        blocks[part][..., column : column + factors.rank] = scaled[part]
        column += factors.rank
    a = np.concatenate([factors.a for factors in own.values()], axis=-2)
    alpha = scale * (rank**0.5 if weights.rank_stabilized else rank)
    return LoRAFactors(a, _fuse_b(layout, blocks), alpha, magnitude)


def _fuse_magnitudes(
    layout: TensorLayout,
    own: Mapping[ParameterPath, LoRAFactors],
    arrays: Mapping[ParameterPath, Any],
) -> np.ndarray | None:
    """DoRA's magnitudes of the parts of one tensor; a part without factors stays as it is."""
    magnitudes = {part: one.magnitude for part, one in own.items() if one.magnitude is not None}
    if not magnitudes:
        return None
    for part in layout.parameters:
        if part not in magnitudes:
            magnitudes[part] = np.linalg.norm(np.asarray(arrays[part], np.float32), axis=1)
    return layout.fuse(magnitudes)


def _fuse_b(layout: TensorLayout, parts: Mapping[ParameterPath, np.ndarray]) -> np.ndarray:
    """The factors B of the parts of one tensor along their outputs, [O, R] or [E, O, R]."""
    if next(iter(parts.values())).ndim == 2:
        return layout.fuse(parts)
    return layout.fuse({part: b.swapaxes(1, 2) for part, b in parts.items()}).swapaxes(1, 2)


def _ties_factors(weights: LoRAWeights) -> bool:
    """Whether embedding and output have factors, and the same."""
    pair = [weights.factors.get(path) for path in (EMBEDDING, OUTPUT)]
    return pair[0] is not None and are_equal(*pair)


def _list_targets(chosen: set[str], all_modules: set[str], text_module: str) -> list[str]:
    """Ends of module names by which PEFT finds the chosen ones and no others.

    Beside a text decoder inside of a multimodal model, towers have modules of the same names.
    """
    if not text_module:
        return _find_shortest_suffixes(chosen, all_modules)
    return sorted(_put_inside(text_module, name).removeprefix("model.") for name in chosen)


def _put_inside(text_module: str, name: str) -> str:
    """The name of a module or parameter inside of a multimodal model, where there is one."""
    if not text_module or not name.startswith("model."):
        return name
    return text_module + name.removeprefix("model.")


def _find_shortest_suffixes(chosen: set[str], all_modules: set[str]) -> list[str]:
    """The shortest ends of module names by which PEFT finds the chosen ones and no others.

    It also looks at the modules that hold these, such as the layers, whose names are numbers.
    """
    holders = {module.rpartition(".")[0] for module in all_modules}
    while holders:
        all_modules = all_modules | holders
        holders = {module.rpartition(".")[0] for module in holders} - {""}
    suffixes = set()
    for module in chosen:
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            end = ".".join(parts[-count:])
            if {m for m in all_modules if m == end or m.endswith(f".{end}")} <= chosen:
                suffixes.add(end)
                break
    return sorted(suffixes)


def _find_most_common(numbers: list[Any]) -> Any:
    return Counter(numbers).most_common(1)[0][0]


def _simplify_number(number: float) -> float:
    """Whole numbers without a point, as people write them."""
    return int(number) if number == int(number) else number


def _make_common_fields(model: PretrainedDecoder, peft_type: str) -> dict[str, Any]:
    """The fields that every adapter_config.json has."""
    name, revision = _name_base_decoder(model.path)
    return {
        "auto_mapping": None,
        "base_model_name_or_path": name,
        "inference_mode": True,
        "peft_type": peft_type,
        "revision": revision,
        "task_type": "CAUSAL_LM",
    }


def _name_base_decoder(path: str) -> tuple[str, str | None]:
    """The folder, or the name on the hub and the revision, as other tools find the decoder."""
    try:
        folder = find_local_folder(path)  # also that of "embedded", a name which is ours alone
    except UserError:  # a file, which is no decoder
        folder = None
    if folder is not None:
        return str(folder.resolve()), None
    name, _, revision = path.partition("@")
    return name, revision or None


def _write_folder(folder: Path, config: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {name: array.shape for name, array in tensors.items()}
    write_tensors(folder / ADAPTER_WEIGHTS, shapes, np.float32, iter(tensors.items()))
    # the form that PEFT itself writes
    write_text(folder / ADAPTER_CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
