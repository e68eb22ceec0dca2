"""Whole parameters that PEFT trains beside factors: modules_to_save, biases, single tokens.

Where the output is tied to the embedding, PEFT gives each of the two a copy of its own, unless
``ensure_weight_tying`` asks for one; trained tokens are tied by themselves.
"""

from collections.abc import Mapping

import numpy as np

from adapt_jax.decoders.layout import ParameterPath
from adapt_jax.pretrained.peft.modules import PEFTModules
from adapt_jax.pretrained.peft.options import LoRAOptions
from adapt_jax.pretrained.tied_output import EMBEDDING, OUTPUT

__all__ = ["read_replaced"]


def read_replaced(
    modules: PEFTModules,
    options: LoRAOptions,
    plain: Mapping[str, np.ndarray],
    saved: Mapping[str, np.ndarray],
    tokens: Mapping[str, np.ndarray],
    problems: list[str],
) -> dict[ParameterPath, np.ndarray]:
    """The parameters that differ from the decoder's own.

    Args:
        plain: tensors that replace the decoder's own, by name.
        saved: tensors of modules_to_save, which are copies of their own.
        tokens: trained rows by module.
        problems: what does not fit is added to them.
    """
    replaced = modules.read_shared(plain, problems)
    read = modules.read_shared if options.ties_saved_modules else modules.read_whole
    replaced |= read(saved, problems)
    replaced |= _read_tokens(modules, options, tokens, replaced, problems)
    return modules.drop_unchanged(replaced)


def _read_tokens(
    modules: PEFTModules,
    options: LoRAOptions,
    tokens: Mapping[str, np.ndarray],
    replaced: Mapping[ParameterPath, np.ndarray],
    problems: list[str],
) -> dict[ParameterPath, np.ndarray]:
    """The matrices of which single rows were trained (``trainable_token_indices``)."""
    found: dict[ParameterPath, np.ndarray] = {}
    chosen = _choose_tokens(modules, options)
    for module, rows in tokens.items():
        layout = modules.find_layout(f"{module}.weight")
        path = None if layout is None else layout.parameters[0]
        if path not in (EMBEDDING, OUTPUT):
            problems.append(f"{module}: has trained tokens, but is no embedding or output")
            continue
        ids = chosen.get(path, [])
        count, size = modules.shapes[path]
        if rows.shape != (len(ids), size) or max(ids, default=0) >= count:
            problems.append(
                f"{module}: trained tokens are {list(rows.shape)}, expected {[len(ids), size]} for "
                f"trainable_token_indices below {count}"
            )
            continue
        own = replaced.get(path)
        matrix = np.array(modules.parameters[path] if own is None else own, np.float32)
        matrix[ids] = rows
        found[path] = matrix
    # PEFT ties the output to an embedding of which the same tokens were trained
    shared = chosen.get(EMBEDDING)
    if modules.is_tied and EMBEDDING in found and chosen.get(OUTPUT, shared) == shared:
        found.setdefault(OUTPUT, found[EMBEDDING])
    if not problems and chosen.keys() - found.keys():
        problems.append("trainable_token_indices names a module of which there is no tensor")
    return found


def _choose_tokens(modules: PEFTModules, options: LoRAOptions) -> dict[ParameterPath, list[int]]:
    """The ids of the trained tokens, by the parameter that has them as rows."""
    chosen = options.config.get("trainable_token_indices") or {}
    if isinstance(chosen, list):
        return {EMBEDDING: chosen}
    # whatever files call the output, transformers calls it lm_head
    names = {EMBEDDING: modules.name_module(EMBEDDING), OUTPUT: "lm_head"}
    return {
        path: ids
        for end, ids in chosen.items()
        for path, name in names.items()
        if name.endswith(end)
    }
