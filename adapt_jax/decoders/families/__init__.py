"""One short file per decoder family; the key is the architecture that ``config.json`` names.

A family module has ``TENSORS`` (a row per tensor: its Hugging Face name, the parameter's path, and
whether its two axes are swapped; ``{n}`` stands for the layer), ``IGNORED`` (ends of names that are
knowingly left unread), ``to_config`` and ``to_hf``.
"""

from typing import Any, Protocol

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families import llama

ParameterPath = tuple[str | int, ...]


class Family(Protocol):
    """What a family module offers."""

    TENSORS: tuple[tuple[str, str, bool], ...]
    IGNORED: tuple[str, ...]

    def to_config(self, hf: dict[str, Any]) -> DecoderConfig: ...

    def to_hf(self, config: DecoderConfig) -> dict[str, Any]: ...


FAMILIES: dict[str, Family] = {"LlamaForCausalLM": llama}


def tensor_names(family: Family, num_layers: int) -> dict[ParameterPath, tuple[str, bool]]:
    """Each parameter's path -> its Hugging Face name, and whether its two axes are swapped there.

    The table holds all that the family may have; a decoder without biases lacks some of the paths.
    """
    names: dict[ParameterPath, tuple[str, bool]] = {}
    for name, path, swapped in family.TENSORS:
        for layer in range(num_layers) if "{n}" in name else (0,):
            steps = path.replace("{n}", str(layer)).split(".")
            key = tuple(int(step) if step.isdigit() else step for step in steps)
            names[key] = (name.replace("{n}", str(layer)), swapped)
    return names
