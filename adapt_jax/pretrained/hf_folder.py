"""Hugging Face folders: where they lie (a path, or a name on the hub), their config and tokenizer.

Code in a folder is never run, and pickled weights are never opened.
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families import FAMILIES, Family, find_family
from adapt_jax.utils.errors import UserError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EMBEDDED = Path(__file__).resolve().parents[1] / "assets" / "arithmetic"  # named "embedded"
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# All but the weights that is fetched from the hub: no code, no pickles.
SMALL_FILES = (
    *("config.json", "generation_config.json", INDEX_FILE),
    *("tokenizer*.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"),
)
ON_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")


def find_folder(path: str | Path, revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder that a path, "embedded" or the name of a model on the hub stands for.

    Args:
        path: a folder; "embedded"; or ``owner/name`` or ``owner/name@revision`` on the hub.
        revision: a branch, tag or commit of the hub's model, where the path names none.
        weights: whether they are fetched too.

    Raises:
        UserError: there is no such folder, nor such a model that can be fetched or was before.
    """
    if str(path) == "embedded":
        path = EMBEDDED
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(f"{path}: is a file; expected a Hugging Face folder with config.json")
    name, _, pinned = str(path).partition("@")
    if ON_HUB.fullmatch(name):
        return download_from_hub(name, pinned or revision, weights)
    raise UserError(
        f"{path}: no such folder; expected a Hugging Face folder, a name on the hub such as "
        "owner/name@revision, or 'embedded'"
    )


def download_from_hub(name: str, revision: str | None, weights: bool = True) -> Path:
    """The local snapshot of a model on the hub; what is missing of it is fetched.

    A commit that was fetched before is not asked for again; offline, neither is a branch or tag.
    """
    from huggingface_hub import snapshot_download

    if revision is not None and COMMIT.fullmatch(revision):
        try:
            folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
            needed = ("config.json", *(list_weight_files(folder) if weights else ()))
            if all((folder / file).is_file() for file in needed):
                return folder
        except (OSError, ValueError):
            pass
    try:
        fetched = snapshot_download(name, revision=revision, allow_patterns=list(SMALL_FILES))
        if not weights:
            return Path(fetched)
        files = list_weight_files(Path(fetched))
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except (OSError, ValueError) as error:  # all of the hub's errors are one of the two
        said = str(error).strip().splitlines() or [type(error).__name__]
        at = f" at revision {revision!r}" if revision else ""
        raise UserError(
            f"{name}: no such folder, nor a model{at} that can be fetched from the hub or was "
            f"fetched before ({said[0]})"
        ) from None


def list_weight_files(folder: Path) -> list[str]:
    """The names of the files with a folder's weights."""
    if not (folder / INDEX_FILE).is_file() or (folder / WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
    return sorted(set(read_weight_map(folder / INDEX_FILE).values()))


def read_weight_map(index: Path) -> dict[str, str]:
    """The file that an index names for each tensor.

    Raises:
        UserError: the index is no such list, or names files that are not beside it or pickled.
    """
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise UserError(f"{index}: expected a weight_map from tensors to files")
    for file in named.values():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith("safetensors"):
            raise UserError(f"{index}: expected safetensors files beside it, found {file!r}")
    return named


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file whose top level is an object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content


def read_config(folder: Path, context_length: int | None = None) -> tuple[Family, DecoderConfig]:
    """The family and the shape that ``config.json`` tells.

    ``generation_config.json``, where it is there, has the last word on BOS, EOS and padding.

    Raises:
        UserError: no such file, not one of FAMILIES, quantised, or not what the family computes.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"{folder}: no config.json; expected a Hugging Face model folder")
    hf = read_json(file)
    generation = folder / "generation_config.json"
    if generation.is_file():
        said = read_json(generation)
        hf |= {name: said[name] for name in SPECIAL_IDS if said.get(name) is not None}
    problems = []
    if quantised := find_quantization(hf):
        problems.append(f"its weights are quantised ({quantised}); expected full-precision ones")
    named = hf.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else "none"
    if architecture not in FAMILIES:
        own = "; its own code (auto_map) is never run" if "auto_map" in hf else ""
        problems.append(
            f"architecture {architecture!r} is not supported{own}; "
            f"supported: {', '.join(FAMILIES)}{nearest(architecture, FAMILIES)}"
        )
    else:
        try:
            family = find_family(architecture, hf)
            config = family.to_config(hf)
            config = (
                config if context_length is None else config.with_context_length(context_length)
            )
        except KeyError as error:
            problems.append(f"no field {error}")
        except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
            problems.append(str(error))
    if problems:
        raise UserError(f"{file}: {'; '.join(problems)}")
    return family, config


def find_quantization(hf: dict[str, Any]) -> str:
    """How ``config.json`` says that the weights are quantised; an empty string if it does not."""
    text = hf.get("text_config")
    for said in (hf, text if isinstance(text, dict) else {}):
        for key in ("quantization_config", "compression_config"):
            if isinstance(how := said.get(key), dict):
                return str(how.get("quant_method") or how.get("quant_algo") or key)
            if how:
                return key
    return ""


def read_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The folder's tokenizer, through transformers; code in the folder is never run."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever the file at fault leads it to
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{folder}: no usable tokenizer ({reason[0]})") from None
