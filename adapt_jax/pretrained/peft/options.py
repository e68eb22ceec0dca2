"""The options of adapter_config.json: their types, which are known, and what they say of a module.

Whatever an adapter asks for is either computed here exactly as PEFT computes it (peft/tuners), or
refused by its name.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from adapt_jax.pretrained.field_checks import (
    FLAG,
    Check,
    find_problems,
    is_number,
    is_whole,
    list_of,
    number,
    whole,
)
from adapt_jax.utils.patterns import BoundedPatterns

__all__ = ["PEFT_TYPES", "LoRAOptions", "find_option_problems"]

MAX_PATTERN_SECONDS = 2.0  # for all regular expressions of an adapter together
# Options that every adapter may have, and that change nothing in a trained one.
COMMON_OPTIONS = {
    *("peft_type", "task_type", "peft_version", "auto_mapping", "inference_mode"),
    *("base_model_name_or_path", "revision", "modules_to_save"),
}
# Options that are computed here, or change nothing in a trained adapter. Any other that is set is
# refused by its name.
LORA_OPTIONS = COMMON_OPTIONS | {
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern"),
    *("target_modules", "target_parameters", "exclude_modules"),
    *("layers_to_transform", "layers_pattern"),
    *("fan_in_fan_out", "bias", "init_lora_weights", "eva_config", "megatron_core"),
    *("qalora_group_size", "runtime_config", "ensure_weight_tying"),
    *("use_dora", "trainable_token_indices"),
}
PROMPT_TUNING_OPTIONS = COMMON_OPTIONS | {
    *("num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads"),
    *("num_layers", "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_kwargs"),
    "tokenizer_name_or_path",
}
# PEFT ties the adapters of a tied pair of embedding and output only where it knows their names.
TIED_NAMES = ("embed_tokens", "lm_head")
# Ways to begin a training that leave the decoder's own kernels as they were.
PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_names(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, list) and all(map(_is_text, value)))


def _is_layer(value: Any) -> bool:
    return is_whole(value, 0, 10**6)


def _is_layers(value: Any) -> bool:
    return _is_layer(value) or (isinstance(value, list) and all(map(_is_layer, value)))


def _is_token_ids(value: Any) -> bool:
    lists = value.values() if isinstance(value, dict) else (value,)
    return all(
        isinstance(ids, list)
        and all(is_whole(one, 0, 2**31) for one in ids)
        and len(set(ids)) == len(ids)
        for ids in lists
    )


_NAMES = Check("a text or a list of texts", _is_names, nullable=True)
LORA_CHECKS = {
    "r": whole(1, 2**16),
    "lora_alpha": number(-1e9, 1e9),
    "use_rslora": FLAG,
    "use_dora": FLAG,
    "ensure_weight_tying": FLAG,
    "trainable_token_indices": Check(
        "different token ids, or such lists by module", _is_token_ids, nullable=True
    ),
    "fan_in_fan_out": FLAG,
    "rank_pattern": Check(
        "ranks by module",
        lambda value: (
            isinstance(value, dict) and all(is_whole(one, 1, 2**16) for one in value.values())
        ),
        nullable=True,
    ),
    "alpha_pattern": Check(
        "numbers by module",
        lambda value: (
            isinstance(value, dict) and all(is_number(one, -1e9, 1e9) for one in value.values())
        ),
        nullable=True,
    ),
    "target_modules": _NAMES,
    "exclude_modules": _NAMES,
    "target_parameters": list_of("texts", _is_text),
    "layers_pattern": _NAMES,
    "layers_to_transform": Check("layers", _is_layers, nullable=True),
    "modules_to_save": list_of("texts", _is_text),
    "bias": Check("none, all or lora_only", lambda value: value in ("none", "all", "lora_only")),
}
PROMPT_TUNING_CHECKS = {
    "num_virtual_tokens": whole(1, 2**20, nullable=True),
    "token_dim": whole(1, 2**22, nullable=True),
    "num_transformer_submodules": whole(1, 1, nullable=True),
    "modules_to_save": Check("null", lambda value: value == [], nullable=True),
}
PEFT_TYPES = {
    "PROMPT_TUNING": (PROMPT_TUNING_OPTIONS, PROMPT_TUNING_CHECKS),
    "LORA": (LORA_OPTIONS, LORA_CHECKS),
}


def find_option_problems(config: Mapping[str, Any]) -> list[str]:
    """The options that are of a wrong type, or set and not known, one text each.

    Args:
        config: an adapter_config.json whose ``peft_type`` is one of PEFT_TYPES.
    """
    known, checks = PEFT_TYPES[config["peft_type"]]
    problems = find_problems(config, checks)
    problems += [
        f"{name} {value!r}"[:100] for name, value in config.items() if value and name not in known
    ]
    if (init := config.get("init_lora_weights", True)) not in PLAIN_INITS:
        problems.append(f"init_lora_weights {init!r} changes the decoder's own kernels"[:200])
    if config.get("use_dora") and config.get("target_parameters"):
        problems.append("use_dora together with target_parameters, which PEFT refuses")
    return problems


class LoRAOptions:
    """The options of single modules in adapter_config.json, as PEFT reads them.

    ``file`` is named in messages.
    """

    def __init__(self, file: Path, config: Mapping[str, Any]):
        self.config = config
        self.patterns = BoundedPatterns(str(file), MAX_PATTERN_SECONDS)

    @property
    def has_magnitudes(self) -> bool:
        """Whether the adapter is one of DoRA."""
        return bool(self.config.get("use_dora"))

    @property
    def rank_stabilized(self) -> bool:
        """Whether updates are scaled as in rsLoRA."""
        return bool(self.config.get("use_rslora"))

    @property
    def saved_modules(self) -> list[str]:
        """The ends of names of modules that are trained as a whole."""
        return list(self.config.get("modules_to_save") or ())

    def is_saved_module(self, module: str) -> bool:
        """Whether ``modules_to_save`` names this module; PEFT compares the ends of names."""
        return any(module.endswith(name) for name in self.saved_modules)

    @property
    def ties_saved_modules(self) -> bool:
        """Whether one copy of a tied embedding and output is trained, and not one of each."""
        is_asked = bool(self.config.get("ensure_weight_tying"))
        return is_asked and any(name.split(".")[-1] in TIED_NAMES for name in self.saved_modules)

    @property
    def ties_factors(self) -> bool:
        """Whether a tied embedding and output have the same factors."""
        if not self.config.get("ensure_weight_tying") or self.ties_saved_modules:
            return False
        targets = self.config.get("target_modules")
        if isinstance(targets, str):
            return any(self.patterns.fullmatch(targets, name) is not None for name in TIED_NAMES)
        return any(name.split(".")[-1] in TIED_NAMES for name in targets or ())

    def find_problem(
        self,
        module: str,
        tensors: Collection[str],
        needed: Collection[str],
        *,
        target: str,
        is_projection: bool,
    ) -> str:
        """Why PEFT would not give this module these tensors, or an empty string.

        Args:
            tensors: what the file holds of the module, such as "lora_A".
            needed: what PEFT gives such a module.
            target: the module that has to be named by the options; mostly it is the same.
            is_projection: it is neither an embedding nor the output.
        """
        if surplus := [name for name in tensors if name not in needed]:
            why = " without use_dora" if surplus[0] == "lora_magnitude_vector" else ""
            return f"{module}.{surplus[0]}: no parameter of such a module{why}"
        if lacking := [name for name in needed if name not in tensors]:
            found = " and ".join(tensors)
            return f"{module}: has {found} alone; {lacking[0]} is missing"
        if not self._is_target(target, is_projection=is_projection):
            return f"{module}: has factors, but target_modules does not name it"
        if not self._is_in_layers(target):
            return f"{module}: has factors, but layers_to_transform leaves its layer out"
        return ""

    def get_rank(self, module: str) -> int:
        """R of a module."""
        return int(self._find_by_pattern("rank_pattern", module, self.config.get("r", 8)))

    def get_alpha(self, module: str) -> float:
        """alpha of a module."""
        return float(
            self._find_by_pattern("alpha_pattern", module, self.config.get("lora_alpha", 8))
        )

    def is_target_parameter(self, name: str) -> bool:
        """Whether ``target_parameters`` names this parameter."""
        return self._is_named(name, self.config.get("target_parameters"))

    def _is_target(self, module: str, *, is_projection: bool) -> bool:
        """Whether the options name this module.

        Args:
            is_projection: it is neither an embedding nor the output.
        """
        if self.is_target_parameter(f"{module}.weight"):
            return True
        targets = self.config.get("target_modules")
        if targets is None or targets == "all-linear":
            return is_projection
        excluded = self.config.get("exclude_modules")
        return self._is_named(module, targets) and not self._is_named(module, excluded)

    def _is_named(self, module: str, names: Any) -> bool:
        if isinstance(names, str):
            return self.patterns.fullmatch(names, module) is not None
        return any(module == end or module.endswith(f".{end}") for end in names or ())

    def _is_in_layers(self, module: str) -> bool:
        layers = self.config.get("layers_to_transform")
        if layers is None or layers == []:
            return True
        found = re.search(r"\.(\d+)\.", module)
        if patterns := self.config.get("layers_pattern"):
            patterns = [patterns] if isinstance(patterns, str) else patterns
            layer_number = next((n for p in patterns if (n := self._find_layer(p, module))), None)
        else:
            layer_number = found[1] if found else None
        wanted = layers if isinstance(layers, list) else [layers]
        return layer_number is not None and int(layer_number) in wanted

    def _find_by_pattern(self, key: str, module: str, default: Any) -> Any:
        """The number that a pattern has for a module: the first whose end of a name matches."""
        for pattern, value in (self.config.get(key) or {}).items():
            if self.patterns.fullmatch(rf"(.*\.)?({pattern})", module):
                return value
        return default

    def _find_layer(self, pattern: str, module: str) -> str | None:
        """The number that follows the pattern in a module's name."""
        found = self.patterns.fullmatch(rf"(?:^|.*?\.){pattern}\.(?P<layer>\d+)\..*", module)
        return None if found is None else found["layer"]
