"""Reads PEFT folders: prompt tuning and LoRA, as adapter_config.json with its tensors.

Whatever an adapter asks for is either computed here exactly as PEFT computes it, or refused by its
name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from adapt_jax.decoders.layout import ParameterPath
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.pretrained.hf_folder import find_local_folder, read_json
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.lora_factors import LoRAWeights
from adapt_jax.pretrained.peft.lora import read_lora
from adapt_jax.pretrained.peft.modules import PEFTModules, check_prompt_tuning
from adapt_jax.pretrained.peft.options import PEFT_TYPES, find_option_problems
from adapt_jax.pretrained.safetensors_io import read_tensors
from adapt_jax.pretrained.weight_files import join_names
from adapt_jax.utils.bucket import localize
from adapt_jax.utils.errors import UserError

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "PROMPT_EMBEDDINGS",
    "Adapter",
    "read_adapter",
    "read_base_decoder",
]

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PROMPT_EMBEDDINGS = "prompt_embeddings"  # the tensor of a soft prompt


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
    check_prompt_tuning(model)
    problems: list[str] = []
    tensors = _strip_wrapper_names(tensors, problems)
    rows, embed_dim = tensors.pop(PROMPT_EMBEDDINGS, None), model.config.input_dim
    if rows is None or problems:
        found = join_names([*problems, *sorted(tensors)])
        raise UserError(f"{folder / ADAPTER_WEIGHTS}: expected {PROMPT_EMBEDDINGS}; found {found}")
    count = config.get("num_virtual_tokens")
    if rows.ndim != 2 or rows.shape[1] != embed_dim or count not in (None, rows.shape[0]):
        raise UserError(
            f"{folder / ADAPTER_WEIGHTS}: {PROMPT_EMBEDDINGS} is {list(rows.shape)}, expected "
            f"[{count or 'virtual tokens'}, {embed_dim}] for {model.path}"
        )
    if config.get("token_dim") not in (None, embed_dim):
        raise UserError(
            f"{folder / ADAPTER_CONFIG}: token_dim is {config['token_dim']}; expected {embed_dim}"
        )
    # PEFT can save the decoder's embeddings too; they must be the decoder's own
    whole_tensors = {name.removeprefix("base_model."): array for name, array in tensors.items()}
    modules = PEFTModules(model)
    replaced = modules.drop_unchanged(modules.read_shared(whole_tensors, problems))
    problems += [f"{'.'.join(map(str, path))}: differs from the decoder's" for path in replaced]
    if problems:
        raise UserError(f"{folder}: cannot be represented here: {join_names(problems)}")
    return Adapter(SoftPrompt(jnp.asarray(rows), before_bos=True))


def _read_lora(
    folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray], model: PretrainedDecoder
) -> Adapter:
    problems: list[str] = []
    plain = _strip_wrapper_names(tensors, problems)
    weights, replaced = read_lora(folder / ADAPTER_CONFIG, config, plain, model, problems)
    if problems:
        raise UserError(f"{folder}: cannot be represented here: {join_names(problems)}")
    return Adapter(None, weights, replaced)
