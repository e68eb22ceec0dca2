"""One short file per decoder family; the key is the architecture that ``config.json`` names.

A family module has ``TENSORS`` (a row per tensor), ``IGNORED`` (ends of names that are knowingly
left unread), ``to_config`` and ``to_hf``.

A row is (Hugging Face name, parameter, swapped): ``{n}`` stands for the layer; swapped says that
the last two axes stand the other way round there. Where a tensor holds several parameters the row
names them all, in order, with a fourth entry if they alternate: the field of DecoderConfig that
says how many times. A name with ``{e}`` is one tensor for each expert, stacked in the parameter.
"""

from typing import Any, Protocol

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families import llama
from adapt_jax.decoders.tensors import ParameterPath, Stored

Row = tuple[Any, ...]


class Family(Protocol):
    """What a family module offers."""

    TENSORS: tuple[Row, ...]
    IGNORED: tuple[str, ...]

    def to_config(self, hf: dict[str, Any]) -> DecoderConfig: ...

    def to_hf(self, config: DecoderConfig) -> dict[str, Any]: ...


FAMILIES: dict[str, Family] = {"LlamaForCausalLM": llama}


def tensor_names(family: Family, config: DecoderConfig) -> dict[ParameterPath, Stored]:
    """Each parameter's path -> where it lies in a checkpoint.

    The table holds all that the family may have; a decoder without biases lacks some of the paths.
    """
    stored: dict[ParameterPath, Stored] = {}
    for name, paths, swapped, *alternating in family.TENSORS:
        groups = getattr(config, alternating[0]) if alternating else 1
        for layer in range(config.num_layers) if "{n}" in name else (0,):
            named = name.replace("{n}", str(layer))
            experts = range(config.num_experts) if "{e}" in name else (0,)
            names = tuple(named.replace("{e}", str(expert)) for expert in experts)
            parts = tuple(
                parameter_path(path, layer)
                for path in ((paths,) if isinstance(paths, str) else paths)
            )
            for part in parts:
                stored[part] = Stored(names, swapped, parts, groups)
    return stored


def parameter_path(text: str, layer: int) -> ParameterPath:
    """``layers.{n}.ffn.up.kernel`` as the path of a parameter."""
    steps = text.replace("{n}", str(layer)).split(".")
    return tuple(int(step) if step.isdigit() else step for step in steps)
