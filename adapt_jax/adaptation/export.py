"""Writes adaptations in formats that other tools load.

hf     a Hugging Face folder with full or merged weights
peft   a PEFT adapter: the soft prompt or the LoRA weights alone

Beside either, prompt.json holds the whole prompt, README.md the code that asks a question, and
export.json what was exported, so that the same export is not written twice.
"""

import logging
from pathlib import Path

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.adaptation.recipe import build_readme
from adapt_jax.adaptation.verification import is_installed, verify_export
from adapt_jax.pretrained.hf_config import read_quantization
from adapt_jax.pretrained.hf_folder import find_cached_folder
from adapt_jax.pretrained.peft.writing import check_peft_modules, write_lora, write_soft_prompt
from adapt_jax.pretrained.saving import (
    DEFAULT_SHARD_SIZE,
    parse_shard_size,
    read_source_dtype,
    save_pretrained,
)
from adapt_jax.prompting.thinking import describe_thinking
from adapt_jax.utils import files
from adapt_jax.utils.bucket import to_path
from adapt_jax.utils.errors import UserError, nearest
from adapt_jax.utils.hashing import identity
from adapt_jax.utils.text_files import read_json

__all__ = [
    "DTYPES",
    "FORMATS",
    "check_export_folder",
    "choose_export_dtype",
    "export_adaptation",
]

log = logging.getLogger("adapt_jax")

FORMATS = ("hf", "peft")
DTYPES = ("float32", "bfloat16", "float16")
EXPORTED = "export.json"
EXPORT_VERSION = 1  # raised when the same adaptation is written in another way
DEFAULT_VERIFY = 3  # questions that are replayed
QUANTIZED_NOTE = (
    "No text was compared: the decoder is quantised, and other tools may compute with its 4 or 8 "
    "bits where adapt_jax computes with floats."
)


def export_adaptation(
    adaptation: Adaptation,
    folder: str | Path,
    *,
    format: str | None = None,
    dtype: str | None = None,
    max_shard_size: int | str = DEFAULT_SHARD_SIZE,
    verify: int | None = None,
) -> Path:
    """Writes an adaptation in another tool's format, whole or not at all.

    The folder is verified before it appears: questions are asked through it with transformers or
    PEFT, by the very code of its README.md, and the texts have to be those of the adaptation.

    Args:
        folder: a new or empty one. One that holds the very same export is left as it is: a command
            that was killed after its last step can be given again.
        format: "hf" or "peft"; by default peft for a soft prompt, and otherwise hf.
        dtype: of the weights of an hf folder; see ``choose_export_dtype``.
        max_shard_size: of an hf folder's files, in bytes or such as "200MB".
        verify: how many questions are asked; by default 3 where torch, transformers and for an
            adapter PEFT are installed, otherwise none; none of an adapter of a quantised decoder.

    Raises:
        UserError: the folder holds something else, the format cannot hold this adaptation, or the
            other tool generates another text.
    """
    target = check_export_folder(folder)
    chosen = _check_options(adaptation, format, dtype, max_shard_size)
    num_questions, notes = _plan_verification(adaptation, chosen, verify)
    weights_dtype = choose_export_dtype(adaptation, dtype)
    exported = identity(
        EXPORT_VERSION,
        adaptation.identity,
        (adaptation.method, adaptation.model.path),
        (chosen, weights_dtype, parse_shard_size(max_shard_size)),
    )
    if _is_exported(target, exported):
        log.warning("%s: this export is there already, so nothing is written", folder)
        return Path(folder)

    def write(new: Path) -> None:
        if chosen == "hf":
            save_pretrained(
                adaptation.model, new, dtype=weights_dtype, max_shard_size=max_shard_size
            )
        else:
            _write_adapter(adaptation, new)
        files.write_json(new / "prompt.json", adaptation.prompt.to_dict())
        if num_questions:
            notes.extend(verify_export(adaptation, new, chosen, questions=num_questions))
        if thinking := describe_thinking(adaptation.model, adaptation.prompt.template):
            notes.append(thinking)
        for note in notes:
            log.warning("%s: %s", folder, note)
        files.write_text(new / "README.md", build_readme(adaptation, chosen, notes))
        files.write_json(new / EXPORTED, {"identity": exported, "bytes": _list_sizes(new)})

    files.replace_folder(target, write)
    return to_path(folder)


def _write_adapter(adaptation: Adaptation, folder: Path) -> None:
    """Writes the soft prompt or the LoRA weights as PEFT reads them."""
    if adaptation.soft_prompt is not None:
        write_soft_prompt(folder, adaptation.soft_prompt, adaptation.model)
    elif adaptation.lora_weights is not None:
        write_lora(folder, adaptation.lora_weights, adaptation.model)


def _plan_verification(
    adaptation: Adaptation, format: str, verify: int | None
) -> tuple[int, list[str]]:
    """How many questions are replayed, by default as ``export_adaptation`` says; and a note."""
    if verify is not None:
        return verify, []
    if format == "peft" and _runs_quantized(adaptation.model.path):
        return 0, [QUANTIZED_NOTE]
    return DEFAULT_VERIFY if is_installed(format) else 0, []


def _runs_quantized(path: str) -> bool:
    """Whether other tools compute with this decoder's quantised weights, without floats.

    transformers de-quantises a GGUF file, as adapt_jax does.
    """
    folder = find_cached_folder(path)
    return folder is not None and read_quantization(folder) is not None


def check_export_folder(folder: str | Path) -> Path:
    """The folder that an export is written to, or that holds one.

    Raises:
        UserError: it holds something else, or cannot be written.
    """
    marker = EXPORTED if (Path(folder) / EXPORTED).is_file() else None
    return files.check_target_folder(folder, marker)


def _is_exported(folder: Path, exported: str) -> bool:
    """Whether the folder holds the export of this identity, whole.

    Raises:
        UserError: it holds another one, or files of it have changed.
    """
    description = folder / EXPORTED
    if not description.exists():
        return False
    found = read_json(description)
    if not isinstance(found, dict) or found.get("identity") != exported:
        raise UserError(f"{folder}: holds another export; choose a new folder")
    if found.get("bytes") != _list_sizes(folder):
        raise UserError(
            f"{folder}: holds this export, but files of it have changed; choose a new folder"
        )
    return True


def _list_sizes(folder: Path) -> dict[str, int]:
    """The files of an exported folder and their bytes, without its description."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    sizes.pop(EXPORTED, None)
    return sizes


def _check_options(
    adaptation: Adaptation, format: str | None, dtype: str | None, max_shard_size: int | str
) -> str:
    """The format, if it and all options suit the adaptation."""
    chosen = format or ("hf" if adaptation.soft_prompt is None else "peft")
    for name, value, known in (("format", chosen, FORMATS), ("dtype", dtype, DTYPES)):
        if value is not None and value not in known:
            hint = nearest(str(value), known)
            raise UserError(f"{name} {value!r}: expected one of {', '.join(known)}{hint}")
    parse_shard_size(max_shard_size)
    if adaptation.prompt.retrieval is not None:
        raise UserError(
            "its demonstrations are chosen for each question, which no exported folder can do; "
            "adapt with another `demonstrations.select`, such as varied"
        )
    if chosen == "hf" and adaptation.soft_prompt is not None:
        raise UserError("weights cannot hold a soft prompt; export it with format peft")
    if chosen == "peft" and adaptation.soft_prompt is None and adaptation.lora_weights is None:
        trained = adaptation.has_full_weights
        what = "all its weights were trained" if trained else "nothing of it was trained"
        raise UserError(f"there is no adapter to write: {what}; export it with format hf")
    if chosen == "peft" and adaptation.lora_weights is not None:
        check_peft_modules(adaptation.lora_weights, adaptation.model)
    return chosen


def choose_export_dtype(adaptation: Adaptation, dtype: str | None = None) -> str:
    """The dtype of exported weights: the one given, or that of the adapted decoder's own files.

    So a decoder leaves as it came, bitwise identical, whatever it was computed in. Where its files
    are gone or in no dtype of DTYPES, it is the dtype of the weights in memory.
    """
    chosen = dtype or adaptation.source_dtype or read_source_dtype(adaptation.model.path)
    return chosen if chosen in DTYPES else str(adaptation.model.decoder.embedding[...].dtype)
