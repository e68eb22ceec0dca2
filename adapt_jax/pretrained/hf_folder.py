"""Hugging Face folders: where they lie (a path, or a name on the hub), and which files they have.

Code in a folder is never run, and pickled weights are never opened.
"""

import math
import re
from pathlib import Path
from typing import Any

from adapt_jax.pretrained.gguf.file import is_gguf
from adapt_jax.utils import text_files
from adapt_jax.utils.bucket import fetch, find_fetched, is_address
from adapt_jax.utils.errors import UserError

__all__ = [
    "EMBEDDED",
    "INDEX_FILE",
    "WEIGHTS_FILE",
    "find_cached_folder",
    "find_folder",
    "find_local_folder",
    "list_weight_files",
    "read_json",
    "read_weight_map",
]

EMBEDDED = Path(__file__).resolve().parents[1] / "assets" / "arithmetic"  # named "embedded"
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
# What is fetched from the hub besides the weights: no code, no pickles.
SMALL_FILES = (
    *("config.json", "generation_config.json", INDEX_FILE),
    *("tokenizer*.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"),
)
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
PYTHON_CONSTANTS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
MAX_NAME = 200  # letters of a file's name; file systems hold 255 bytes
COMMIT = re.compile(r"[0-9a-f]{40}")


def find_folder(path: str | Path, revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder that a path, "embedded" or the name of a model on the hub stands for.

    Args:
        path: a folder, also in a bucket; a GGUF file; "embedded"; or ``owner/name`` or
            ``owner/name@revision`` on the hub.
        revision: a branch, tag or commit of the hub's model, where the path names none.
        weights: whether they are fetched too.

    Raises:
        UserError: there is no such folder, nor such a model that can be fetched or was before.
    """
    if is_address(path):
        return fetch(path, skip=None if weights else r"\.safetensors$")
    if (folder := find_local_folder(path)) is not None:
        return folder
    name, _, pinned = str(path).partition("@")
    if HUB_NAME.fullmatch(name):
        return _download_from_hub(name, pinned or revision, weights)
    raise UserError(
        f"{path}: no such folder; expected a Hugging Face folder, a GGUF file, a name on the hub "
        "such as owner/name@revision, or 'embedded'"
    )


def find_local_folder(path: str | Path) -> Path | None:
    """The folder or GGUF file that a path or "embedded" names; None if it is not on this machine.

    Raises:
        UserError: the path is another file.
    """
    try:
        folder = EMBEDDED if str(path) == "embedded" else Path(path).expanduser()
        if folder.is_dir() or (is_gguf(folder) and folder.is_file()):
            return folder
        is_file = folder.exists()
    except (OSError, RuntimeError, ValueError):  # no path of this system: too long, or with a NUL
        return None
    if is_file:
        raise UserError(
            f"{path}: is a file; expected a Hugging Face folder with config.json, or a GGUF file"
        )
    return None


def find_cached_folder(path: str | Path) -> Path | None:
    """The folder of a path, or of a name or address that was fetched before; nothing is fetched."""
    if is_address(path):
        return find_fetched(path)
    try:
        if (folder := find_local_folder(path)) is not None:
            return folder
    except UserError:  # a file
        return None
    name, _, revision = str(path).partition("@")
    if not HUB_NAME.fullmatch(name):
        return None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except (OSError, ValueError):
        return None


def _download_from_hub(name: str, revision: str | None, weights: bool = True) -> Path:
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
        lines = str(error).strip().splitlines() or [type(error).__name__]
        at = f" at revision {revision!r}" if revision else ""
        raise UserError(
            f"{name}: no such folder, nor a model{at} that can be fetched from the hub or was "
            f"fetched before ({lines[0][:200]})"
        ) from None


def list_weight_files(folder: Path) -> list[str]:
    """The names of the files with a folder's weights, whether they are there or not.

    Of a GGUF file it is its own name.
    """
    if is_gguf(folder):
        return [folder.name]
    if not (folder / INDEX_FILE).is_file() or (folder / WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
    return sorted(set(read_weight_map(folder / INDEX_FILE).values()))


def read_weight_map(index: Path) -> dict[str, str]:
    """The file that an index names for each tensor.

    Raises:
        UserError: the index is no such list, or names files that are not beside it or pickled.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: expected a weight_map from tensors to files")
    for file in weight_map.values():
        is_name = isinstance(file, str) and Path(file).name == file and len(file) <= MAX_NAME
        if not is_name or not file.endswith("safetensors"):
            shown = repr(file)[:80]
            raise UserError(f"{index}: expected safetensors files beside it, found {shown}")
    return weight_map


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file whose top level is an object. NaN and Infinity are read, as Python writes them.

    Raises:
        UserError: the file is absent, damaged, hostile, or a Git LFS pointer.
    """
    content = text_files.read_json(file, constants=PYTHON_CONSTANTS)
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content
