"""The files with a decoder's weights: every tensor by name, and what is damaged."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from adapt_jax.pretrained import hf_config, hf_folder
from adapt_jax.pretrained.dequantized_tensor import Tensor
from adapt_jax.pretrained.gguf.file import is_gguf, read_gguf
from adapt_jax.pretrained.gguf.weights import open_gguf_tensors
from adapt_jax.pretrained.quantized import dequantize_tensors
from adapt_jax.pretrained.safetensors_io import CorruptFileError, FileTensor, read_header
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.text_files import check_is_no_pointer

__all__ = ["PICKLES", "describe_quantization", "join_names", "note_problem", "open_tensors"]

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")  # executable when opened, so never opened
T = TypeVar("T")


def note_problem(call: Callable[[], T], problems: list[str]) -> T | None:
    """The result of the call; a UserError is noted among the problems instead of raised."""
    try:
        return call()
    except UserError as mistake:
        problems.append(str(mistake))
        return None


def describe_quantization(folder: Path) -> str:
    """How the weights are quantised, such as "GGUF: Q4_K, F32" or "gptq, 4 bits"; empty: not.

    Raises:
        UserError: a file is damaged.
    """
    if is_gguf(folder):
        sizes: Counter[str] = Counter()
        for tensor in read_gguf(folder).tensors.values():
            sizes[tensor.kind] += tensor.nbytes
        return f"GGUF: {', '.join(kind for kind, _ in sizes.most_common())}"
    quantization = hf_config.read_quantization(folder)
    return "" if quantization is None else quantization.describe()


def open_tensors(folder: Path, stack: ExitStack) -> tuple[dict[str, Tensor], list[str]]:
    """Every tensor of a folder by name, none of them read yet; and all that is damaged.

    Args:
        stack: closes the files when it is left.
    """
    if is_gguf(folder):
        return _open_gguf(folder, stack)
    index, problems = folder / hf_folder.INDEX_FILE, list[str]()
    weight_map: dict[str, str] = {}
    files = [hf_folder.WEIGHTS_FILE]
    if not (folder / hf_folder.WEIGHTS_FILE).is_file():
        if not index.is_file():
            pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
            found = f" (pickled weights such as {pickles[0]} are never opened)" if pickles else ""
            expected = f"expected {hf_folder.WEIGHTS_FILE} or {hf_folder.INDEX_FILE}"
            return {}, [f"{folder}: no weights; {expected}{found}"]
        weight_map = note_problem(lambda: hf_folder.read_weight_map(index), problems) or {}
        files = sorted(set(weight_map.values()))
    tensors: dict[str, FileTensor] = {}
    for name in files:
        file = folder / name
        try:
            check_is_no_pointer(file)
            opened = stack.enter_context(file.open("rb", buffering=0))
            found_here = read_header(file, opened.fileno())
        except UserError as mistake:
            problems.append(str(mistake))
        except OSError as error:
            problems.append(f"{file}: cannot be read ({error.strerror})")
        except CorruptFileError as damage:
            problems.append(f"{file}: not readable as safetensors: {join_names(damage.problems)}")
        else:
            twice = [f"{n} (also in {tensors[n].file.name})" for n in found_here if n in tensors]
            absent = [n for n, where in weight_map.items() if where == name and n not in found_here]
            if twice:
                problems.append(f"{file}: holds again {join_names(twice)}")
            if absent:
                problems.append(f"{file}: lacks what {index.name} says: {join_names(absent)}")
            tensors |= found_here
    return _dequantize(folder, tensors, problems)


def _dequantize(
    folder: Path, tensors: dict[str, FileTensor], problems: list[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors with those that are quantised as floats, and all problems."""
    quantization = note_problem(lambda: hf_config.read_quantization(folder), problems)
    if quantization is None or quantization.find_problem():  # which the config's reader reports
        return dict(tensors), problems
    floats, damages = dequantize_tensors(quantization, tensors)
    return floats, [*problems, *(f"{folder}: {join_names(damages)}" for _ in damages[:1])]


def _open_gguf(path: Path, stack: ExitStack) -> tuple[dict[str, Tensor], list[str]]:
    try:
        family, config = hf_config.read_config(path)
        return open_gguf_tensors(path, family, config, stack), []
    except UserError as mistake:
        return {}, [str(mistake)]


def join_names(names: Sequence[str], shown: int = 20) -> str:
    """The first few of a list, each cut to a line, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(name[:200] for name in names[:shown]) + more
