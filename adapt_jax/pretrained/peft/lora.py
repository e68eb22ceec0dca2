"""Reads the tensors of PEFT's LoRA: factors, DoRA's magnitudes, and whole modules beside them.

PEFT names a module where this decoder has kernels: the factors of a fused projection are sliced.
An embedding table [V, D] is a kernel of D inputs and V outputs.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adapt_jax.decoders.layout import ParameterPath, Shape, TensorLayout
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.lora_factors import LoRAFactors, LoRAWeights, are_equal
from adapt_jax.pretrained.peft.modules import PEFTModules
from adapt_jax.pretrained.peft.options import LoRAOptions
from adapt_jax.pretrained.peft.whole import read_replaced
from adapt_jax.pretrained.tied_output import EMBEDDING, OUTPUT

__all__ = ["BASE_PREFIX", "read_lora"]

log = logging.getLogger("adapt_jax")
BASE_PREFIX = "base_model.model."  # before every module's name
MAGNITUDE = "lora_magnitude_vector"  # of DoRA
# The name of a module, of what belongs to it, and of the adapter, where there is one.
_FACTOR = re.compile(r"(.+)\.(lora_[AB])(?:\.([^.]+))?\.weight")
_EMBEDDING_FACTOR = re.compile(r"(.+)\.(lora_embedding_[AB])(?:\.([^.]+))?")
_MAGNITUDE = re.compile(r"(.+)\.(lora_magnitude_vector)(?:\.(?!weight$)([^.]+))?(?:\.weight)?")
_SAVED_MODULE = re.compile(r"(.+)\.modules_to_save(?:\.([^.]+))?\.(weight|bias)")
_TOKENS = re.compile(r"(.+)\.token_adapter\.trainable_tokens_delta(?:\.([^.]+))?")

Pair = Mapping[str, np.ndarray]  # the tensors of one module, by such names as lora_A


@dataclass
class _Tensors:
    """The tensors of an adapter, sorted.

    Attributes:
        factors: what belongs to the factors of a module, by module.
        saved: whole tensors of modules that were trained beside the factors.
        plain: whole tensors of other modules, and of what is below the factors.
        tokens: the trained rows of an embedding or output, by module.
        originals: modules as they were before.
    """

    factors: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    saved: dict[str, np.ndarray] = field(default_factory=dict)
    plain: dict[str, np.ndarray] = field(default_factory=dict)
    tokens: dict[str, np.ndarray] = field(default_factory=dict)
    originals: dict[str, np.ndarray] = field(default_factory=dict)


def read_lora(
    file: Path,
    config: dict[str, Any],
    tensors: Mapping[str, np.ndarray],
    model: PretrainedDecoder,
    problems: list[str],
) -> tuple[LoRAWeights, dict[ParameterPath, np.ndarray]]:
    """The updates, and whole parameters that replace the decoder's own.

    Args:
        file: adapter_config.json, which messages name; ``config`` is its content.
        problems: what does not fit is added to them.
    """
    modules, options = PEFTModules(model), LoRAOptions(file, config)
    found = _sort_tensors(tensors, options, problems)
    # with what PEFT wraps, it can also save the module as it was: that must be the decoder's
    changed = modules.drop_unchanged(modules.read_whole(found.originals, problems))
    problems += [f"{'.'.join(map(str, path))}: differs from the decoder's" for path in changed]
    factors: dict[ParameterPath, LoRAFactors] = {}
    reader = _FactorReader(modules, options, problems)
    in_towers = [module for module in found.factors if modules.is_in_tower(module)]
    if in_towers:
        log.warning(
            "%s: factors of %d modules are left out, which read no text, such as %s",
            file.parent,
            len(in_towers),
            in_towers[0],
        )
    for module, pair in found.factors.items():
        if module not in in_towers:
            factors |= reader.read(module, pair)
    if modules.is_tied and options.ties_factors:
        _tie_factors(factors, problems)
    replaced = read_replaced(modules, options, found.plain, found.saved, found.tokens, problems)
    names = [name.rpartition(".")[0] for name in (*found.saved, *found.plain)]
    for end in options.saved_modules:
        if not any(name.endswith(end) or f".{end}." in f".{name}." for name in names):
            problems.append(f"modules_to_save names {end!r}, of which there is no tensor"[:200])
    if not factors and not problems:
        problems.append("holds no lora_A and lora_B")
    return LoRAWeights(factors, model.fingerprint, options.rank_stabilized), replaced


def _sort_tensors(
    tensors: Mapping[str, np.ndarray], options: LoRAOptions, problems: list[str]
) -> _Tensors:
    found, adapters = _Tensors(), set()
    for full_name, array in tensors.items():
        name = full_name.removeprefix(BASE_PREFIX)
        while name.startswith("module."):
            name = name.removeprefix("module.")
        patterns = (_FACTOR, _EMBEDDING_FACTOR, _MAGNITUDE)
        if match := next(filter(None, (one.fullmatch(name) for one in patterns)), None):
            found.factors.setdefault(match[1], {})[match[2]] = array
            adapters.add(match[3])
        elif match := _SAVED_MODULE.fullmatch(name):
            found.saved[f"{match[1]}.{match[3]}"] = array
            adapters.add(match[2])
        elif match := _TOKENS.fullmatch(name):
            found.tokens[match[1]] = array
            adapters.add(match[2])
        elif ".original_module." in name:
            found.originals[name.replace(".original_module.", ".")] = array
        elif options.is_saved_module(name.rpartition(".")[0]):
            found.saved[name] = array
        else:
            plain = name.replace(".token_adapter.base_layer.", ".").replace(".base_layer.", ".")
            found.plain[plain] = array
    if len(names := sorted(name for name in adapters if name is not None)) > 1:
        problems.append(f"holds several adapters ({', '.join(names[:5])}); save one alone"[:200])
    return found


@dataclass(frozen=True)
class _FactorReader:
    """Reads the factors of modules. What does not fit is added to the problems."""

    modules: PEFTModules
    options: LoRAOptions
    problems: list[str]

    def read(self, module: str, pair: Pair) -> dict[ParameterPath, LoRAFactors]:
        """The factors of one module, for each of the kernels that it holds."""
        modules, options = self.modules, self.options
        layout, table = modules.find_kernels(module), modules.find_embedding(module)
        experts = modules.find_experts(module, options) if layout is None else None
        if experts is not None:
            return self._split_experts(*experts, pair)
        if layout is None and table is None:
            self.problems.append(f"{module}: no module of {modules.model.path}")
            return {}
        path = table if layout is None else layout.parameters[0]
        kind = "lora_embedding" if layout is None else "lora"
        magnitude = [MAGNITUDE] * options.has_magnitudes
        is_tied = modules.is_tied and options.ties_factors and path == OUTPUT
        problem = options.find_problem(
            module,
            pair,
            [f"{kind}_A", f"{kind}_B", *magnitude],
            # PEFT takes a tied output out of the targets, and puts the embedding in
            target=modules.name_module(EMBEDDING) if is_tied else module,
            is_projection=layout is not None and path != OUTPUT,
        )
        if problem:
            self.problems.append(problem)
            return {}
        if layout is None:
            assert table is not None
            return self._read_embedding(module, table, pair)
        return self._slice(module, layout, pair)

    def _slice(
        self, module: str, layout: TensorLayout, pair: Pair
    ) -> dict[ParameterPath, LoRAFactors]:
        """The factors of a projection, which may hold several kernels."""
        shapes = self.modules.shapes
        # patterns name what the adapter targets: the module, or its parameter
        parameter = f"{module}.weight"
        target = parameter if self.options.is_target_parameter(parameter) else module
        rank, alpha = self.options.get_rank(target), self.options.get_alpha(target)
        inputs = shapes[layout.parameters[0]][1]
        outputs = sum(shapes[part][0] for part in layout.parameters)
        expected = {"lora_A": (rank, inputs), "lora_B": (outputs, rank)}
        if not self._has_shapes(module, pair, expected | {MAGNITUDE: (outputs,)}):
            return {}

        def slice_rows(path: ParameterPath, rows: np.ndarray) -> np.ndarray:
            return layout.slice_parameter(path, shapes, rows)

        magnitude = pair.get(MAGNITUDE)
        return {
            path: LoRAFactors(
                pair["lora_A"],
                slice_rows(path, pair["lora_B"]),
                alpha,
                None if magnitude is None else slice_rows(path, magnitude),
            )
            for path in layout.parameters
        }

    def _read_embedding(
        self, module: str, path: ParameterPath, pair: Pair
    ) -> dict[ParameterPath, LoRAFactors]:
        """The factors of a table [V, D]: PEFT adds (B A)^T, with A [R, V] and B [D, R]."""
        rank, alpha = self.options.get_rank(module), self.options.get_alpha(module)
        rows, size = self.modules.shapes[path]
        expected = {"lora_embedding_A": (rank, rows), "lora_embedding_B": (size, rank)}
        if not self._has_shapes(module, pair, expected | {MAGNITUDE: (size,)}):
            return {}
        a = np.ascontiguousarray(pair["lora_embedding_B"].T)
        b = np.ascontiguousarray(pair["lora_embedding_A"].T)
        return {path: LoRAFactors(a, b, alpha, pair.get(MAGNITUDE))}

    def _split_experts(
        self, name: str, layout: TensorLayout, pair: Pair
    ) -> dict[ParameterPath, LoRAFactors]:
        """The factors of all experts of one tensor, for each of the kernels that it holds.

        PEFT keeps A as [E·R, I], expert by expert, and B as [O, R·E], rank by rank (ParamWrapper).
        """
        shapes, rank = self.modules.shapes, self.options.get_rank(name)
        count, inputs, _ = shapes[layout.parameters[0]]
        outputs = sum(shapes[part][2] for part in layout.parameters)
        expected = {"lora_A": (count * rank, inputs), "lora_B": (outputs, rank * count)}
        if pair.keys() != expected.keys():
            found = " and ".join(pair)
            self.problems.append(f"{name}: has {found}, expected {' and '.join(expected)}")
            return {}
        if not self._has_shapes(name, pair, expected):
            return {}
        a = pair["lora_A"].reshape(count, rank, inputs)
        b = pair["lora_B"].reshape(outputs, rank, count)
        return {
            path: LoRAFactors(
                a,
                layout.slice_parameter(path, shapes, b).transpose(2, 0, 1),
                self.options.get_alpha(name),
            )
            for path in layout.parameters
        }

    def _has_shapes(self, module: str, pair: Pair, expected: Mapping[str, Shape]) -> bool:
        """Whether the tensors of a module have the shapes that they should have."""
        wrong = [name for name, array in pair.items() if array.shape != expected[name]]
        for name in wrong:
            found, right = list(pair[name].shape), list(expected[name])
            self.problems.append(f"{module}: {name} is {found}, expected {right}")
        return not wrong


def _tie_factors(factors: dict[ParameterPath, LoRAFactors], problems: list[str]) -> None:
    """Gives a tied embedding and output the same factors, as ``ensure_weight_tying`` asks for.

    DoRA's magnitudes are not tied: those of an embedding belong to its columns.
    """
    pair = [factors[path] for path in (EMBEDDING, OUTPUT) if path in factors]
    if len(pair) == 1 and pair[0].magnitude is None:
        factors[EMBEDDING] = factors[OUTPUT] = pair[0]
    elif len(pair) == 1:
        problems.append("ensure_weight_tying: embedding or output has no lora_magnitude_vector")
    elif pair and not are_equal(*(LoRAFactors(one.a, one.b, one.alpha) for one in pair)):
        problems.append("ensure_weight_tying: embedding and output have different factors")
