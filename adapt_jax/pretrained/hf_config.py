"""``config.json`` and ``generation_config.json``: checked field by field, then the decoder's shape.

A received file may say anything, so types and ranges are checked before any shape is made of them.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families import FAMILIES, Family, find_family
from adapt_jax.decoders.families.multimodal import REFUSED, TEXT_DECODERS
from adapt_jax.pretrained.chat import find_end_of_turn
from adapt_jax.pretrained.config_checks import (
    TOKEN,
    TOKENS,
    find_size_problems,
    find_type_problems,
)
from adapt_jax.pretrained.gguf.config import read_gguf_config
from adapt_jax.pretrained.gguf.file import is_gguf
from adapt_jax.pretrained.hf_folder import read_json
from adapt_jax.pretrained.quantized import Quantization, find_quantization
from adapt_jax.utils.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["add_eos_ids", "read_config", "read_quantization"]

# Other names that files have for the ``model_type`` of an architecture.
MODEL_TYPE_ALIASES = {"kimi_k2": "deepseek_v3"}


def read_config(folder: Path, context_length: int | None = None) -> tuple[Family, DecoderConfig]:
    """The family of a Hugging Face folder or a GGUF file, and the decoder's shape.

    Token ids are those of ``generation_config.json`` first, then of ``config.json``; ``eos_ids``
    has those of both.

    Raises:
        UserError: no such file, not one of FAMILIES, quantised in a way that is
            not read, or not what the family computes.
    """
    file, hf = _read_hf_config(folder)
    if (generation := folder / "generation_config.json").is_file():
        hf |= _read_token_ids(generation, hf)
    problems = []
    if (quantization := find_quantization(hf)) and (problem := quantization.find_problem()):
        problems.append(problem)
    if problem := _find_architecture_problem(hf):
        problems.append(problem)
    problems += find_type_problems(hf)
    if not problems:
        try:
            family = find_family(hf["architectures"][0], hf)
            problems += find_size_problems(family, hf)
            config = None if problems else _to_config(family, hf, context_length)
        except KeyError as error:
            problems.append(f"no field {error}")
        except Exception as error:  # families compute with what the file says
            problems.append(str(error)[:300] or type(error).__name__)
    if problems or config is None:
        raise UserError(f"{file}: {'; '.join(problems)}")
    return family, config


def _read_hf_config(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file that says what the decoder is, and its fields."""
    if is_gguf(folder):
        return folder, read_gguf_config(folder)
    file = folder / "config.json"
    if not file.is_file():
        ggufs = sorted(one.name for one in folder.glob("*.gguf"))
        hint = f"; a GGUF file is named itself: {folder / ggufs[0]}" if ggufs else ""
        raise UserError(f"{folder}: no config.json; expected a Hugging Face model folder{hint}")
    return file, read_json(file)


def _to_config(family: Family, hf: Mapping[str, Any], context_length: int | None) -> DecoderConfig:
    config = family.to_config(hf)
    return config if context_length is None else config.with_context_length(context_length)


def _read_token_ids(generation: Path, hf: Mapping[str, Any]) -> dict[str, Any]:
    """BOS, EOS and padding of ``generation_config.json``; EOS also as ``hf`` has it."""
    said = read_json(generation)
    ids: dict[str, Any] = {}
    for name, check in (
        ("bos_token_id", TOKEN),
        ("pad_token_id", TOKEN),
        ("eos_token_id", TOKENS),
    ):
        if problem := check.find_problem(name, said.get(name)):
            raise UserError(f"{generation}: {problem}")
        if said.get(name) is not None:
            ids[name] = said[name]
    if "eos_token_id" in ids and TOKENS.test(hf.get("eos_token_id", [])):
        both = [*_as_list(ids["eos_token_id"]), *_as_list(hf.get("eos_token_id", []))]
        ids["eos_token_id"] = list(dict.fromkeys(both))
    return ids


def _as_list(ids: Any) -> list[int]:
    return list(ids) if isinstance(ids, list) else [ids]


def _find_architecture_problem(hf: Mapping[str, Any]) -> str:
    """Why no family is known for this file, or an empty string.

    No spelling is suggested: a decoder of another architecture has other weights.
    """
    named = hf.get("architectures")
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        named = []
    architecture = named[0][:80] if named else "none"
    if architecture in REFUSED:
        why = REFUSED[architecture]
        return f"architecture {architecture!r} is not supported: {why}; expected a text decoder"
    if architecture not in FAMILIES:
        own = "; its own code (auto_map) is never run" if "auto_map" in hf else ""
        known = f"the {len(FAMILIES)} architectures that docs/your_decoder.md lists"
        return f"architecture {architecture!r} is not supported{own}; supported: {known}"
    model_type = hf.get("model_type")
    if isinstance(model_type, str):
        model_type = MODEL_TYPE_ALIASES.get(model_type, model_type)
    expected, _ = TEXT_DECODERS.get(architecture, (FAMILIES[architecture].model_type, ""))
    if model_type is not None and model_type != expected:
        shown = repr(model_type)[:80]
        return (
            f"architectures says {architecture!r} and model_type says {shown}; "
            f"expected model_type {expected!r}"
        )
    return ""


def read_quantization(folder: Path) -> Quantization | None:
    """How the weights of a folder are quantised; None where they are not, or it does not say."""
    if is_gguf(folder) or not (folder / "config.json").is_file():
        return None
    return find_quantization(read_json(folder / "config.json"))


def add_eos_ids(
    folder: Path, config: DecoderConfig, tokenizer: "PreTrainedTokenizerBase"
) -> DecoderConfig:
    """The config with every token that ends an answer: those of the folder's config files, the
    tokenizer's EOS, and the end of turn of its chat template.

    The first of them is what tuning ends its targets with.
    """
    own, end_of_turn = config.eos_ids, find_end_of_turn(tokenizer)
    if tokenizer.eos_token_id is not None and not _names_eos(folder):
        own = ()  # the family's default, of which the files say nothing
    found = [*own, tokenizer.eos_token_id, end_of_turn]
    known = [one for one in found if one is not None and 0 <= one < config.vocab_size]
    return replace(config, eos_ids=tuple(dict.fromkeys(known)))


def _names_eos(folder: Path) -> bool:
    """Whether one of the config files names the tokens that end a text."""
    if is_gguf(folder):
        return read_gguf_config(folder)["eos_token_id"] is not None
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            said = read_json(folder / name)
            if "eos_token_id" in said or "eos_token_id" in (said.get("text_config") or {}):
                return True
    return False
