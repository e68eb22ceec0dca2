"""A family: tables that translate ``config.json`` and the names of tensors, both ways."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import Any

from adapt_jax.decoders.config import DecoderConfig, MoEConfig
from adapt_jax.decoders.families.layer_rules import HFConfig, LayerRules
from adapt_jax.decoders.layout import ParameterPath, TensorLayout
from adapt_jax.decoders.rope import MAX_POSITIONS

__all__ = ["BARE_PREFIXES", "REQUIRED", "Family", "TensorRow"]

TensorRow = tuple[Any, ...]
REQUIRED = object()  # the default of a field of config.json that has none
# Checkpoints of the base model (without its output matrix) have names without "model.".
BARE_PREFIXES = tuple((part, f"model.{part}") for part in ("embed_tokens.", "layers.", "norm."))


@dataclass(frozen=True)
class Family:
    """A decoder family. Absent fields of ``config.json`` have transformers' defaults.

    Attributes:
        architecture: what ``architectures`` of ``config.json`` names.
        model_type: its name in transformers.
        tensors: one row per tensor, (name, parameter, transposed). In the names ``{n}`` stands for
            the layer, and ``{e}`` for the expert: the tensors of all experts are stacked in the
            parameter. A tensor of several fused parameters names them all, in order; with groups
            (TensorLayout.groups) a fourth entry names the field of DecoderConfig that counts them,
            such as ``num_heads`` or ``mixer.num_key_heads``.
            Rows of parameters that a decoder lacks, such as biases, are not used.
        tensors_for: more of these rows, for a decoder of this config; they replace earlier ones of
            the same parameter.
        other_tensors: rows that stand in for those of the same parameters in checkpoints that have
            a tensor of that name. They are read and never written.
        has_other_tensors: whether a checkpoint with these tensors has those, where their names are
            the same and only shapes tell them apart.
        fields: field of DecoderConfig -> (field of ``config.json``, default). A default that is a
            function of ``config.json`` also replaces null.
        fixed_fields: fields of DecoderConfig that have one value in the whole family.
        computed_fields: fields of DecoderConfig that are computed from ``config.json``.
        moe_fields: as ``fields``, of MoEConfig, where the family has experts. A field of
            ``config.json`` may have several names; the first one is written.
        fixed_moe_fields, computed_moe_fields: as for DecoderConfig.
        extra_hf_fields: the fields of ``config.json`` from which ``computed_fields`` and
            ``layer_rules`` read them again.
        supported_values: field of ``config.json`` -> its supported values, the default first.
        allows_per_layer_config: whether the field ``per_layer_config`` is read, or refused.
        layer_rules: how ``config.json`` describes the layers.
        ignored_tensors: patterns of tensor names that are not loaded.
        ignored_tensors_for: more of these patterns, for a decoder of this config.
        needs_tokens: whether transformers computes something else from embeddings than from the
            tokens that they belong to. PEFT's prompt tuning gives it embeddings.
        text_sizes: fields that the text part of a multimodal ``config.json`` may leave out.
        prefix_aliases: (prefix of tensor names in some checkpoints, prefix in ``tensors``).
    """

    architecture: str
    model_type: str
    tensors: tuple[TensorRow, ...]
    fields: Mapping[str, tuple[str, Any]]
    tensors_for: Callable[[DecoderConfig], tuple[TensorRow, ...]] = lambda config: ()
    other_tensors: tuple[TensorRow, ...] = ()
    has_other_tensors: Callable[[DecoderConfig, Mapping[str, Any]], bool] | None = None
    fixed_fields: Mapping[str, Any] = field(default_factory=dict)
    computed_fields: Callable[[HFConfig], Mapping[str, Any]] = lambda hf: {}
    moe_fields: Mapping[str, tuple[str | tuple[str, ...], Any]] = field(default_factory=dict)
    fixed_moe_fields: Mapping[str, Any] = field(default_factory=dict)
    computed_moe_fields: Callable[[HFConfig], Mapping[str, Any]] = lambda hf: {}
    extra_hf_fields: Callable[[DecoderConfig], Mapping[str, Any]] = lambda config: {}
    supported_values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    allows_per_layer_config: bool = False
    layer_rules: LayerRules = LayerRules()
    ignored_tensors: tuple[str, ...] = ("*rotary_emb.inv_freq",)
    ignored_tensors_for: Callable[[DecoderConfig], tuple[str, ...]] = lambda config: ()
    needs_tokens: Callable[[DecoderConfig], bool] = lambda config: False
    text_sizes: Mapping[str, Any] = field(default_factory=dict)
    prefix_aliases: tuple[tuple[str, str], ...] = BARE_PREFIXES

    def to_config(self, hf: HFConfig) -> DecoderConfig:
        """Translates a ``config.json``; of a multimodal one, its text part.

        Raises:
            KeyError: a field without a default is absent.
            ValueError: a field has a value that this decoder does not implement.
        """
        hf = _select_text_config(hf, self.text_sizes)
        self._check_supported(hf)
        values = {**self.fixed_fields, **self._read_fields(hf)}
        eos = values["eos_ids"]
        values["eos_ids"] = () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,)
        max_positions = values["context_length"]
        layers = self.layer_rules.to_layer_configs(hf, values["num_layers"], max_positions)
        # ropes that depend on the length of the text are set up for the pretrained length
        ropes = [layer.rope for layer in layers if layer.rope is not None]
        lengths = [r.original_max_positions for r in ropes if r.original_max_positions is not None]
        values["context_length"] = min([max_positions, *lengths])
        if self.moe_fields:
            values["moe"] = self._read_moe(hf)
        values |= self.computed_fields(hf)
        return DecoderConfig(family=self.architecture, layer_configs=layers, **values)

    def to_hf(self, config: DecoderConfig) -> dict[str, Any]:
        """The ``config.json`` of this decoder, for transformers 4 and 5 alike."""
        hf = {name: getattr(config, key) for key, (name, _) in self.fields.items()}
        eos = list(config.eos_ids)
        hf[self.fields["eos_ids"][0]] = eos[0] if len(eos) == 1 else eos or None
        # the context length may be shorter than the longest text of a rope
        for index in range(config.num_layers):
            rope = config.layer_config(index).rope
            max_positions = None if rope is None else dict(rope.params).get(MAX_POSITIONS)
            if max_positions is not None:
                hf[self.fields["context_length"][0]] = max_positions
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            **hf,
            **self._write_moe(config.moe),
            **self.layer_rules.to_hf(config),
            **self.extra_hf_fields(config),
        }

    def tensor_layouts(
        self, config: DecoderConfig, present: Collection[str] = ()
    ) -> dict[ParameterPath, TensorLayout]:
        """The path of each parameter -> where it lies in a checkpoint.

        The table holds all parameters that the family may have. A decoder without biases, for
        instance, has only some of them.

        Args:
            present: the checkpoint's tensors by their names, as ``canonical_name`` gives them, or
                these names alone; none for a checkpoint that is written.
        """
        others = [row for row in self.other_tensors if self._has_row(row, config, present)]
        if self.has_other_tensors is not None:
            is_other = isinstance(present, Mapping) and self.has_other_tensors(config, present)
            others = others if is_other else []
        return self._make_layouts(config, others)

    def fused_layouts(self, config: DecoderConfig) -> dict[ParameterPath, TensorLayout]:
        """Where parameters lie in transformers 5, whose tensors hold all experts of a layer."""
        return self._make_layouts(config, self.other_tensors)

    def _make_layouts(
        self, config: DecoderConfig, others: Collection[TensorRow]
    ) -> dict[ParameterPath, TensorLayout]:
        """The layouts of the family's rows, the later ones instead of earlier ones."""
        num_experts = 0 if config.moe is None else config.moe.num_experts
        layouts: dict[ParameterPath, TensorLayout] = {}
        rows = (*self.tensors, *self.tensors_for(config), *others)
        for name, parameters, transposed, *groups_field in rows:
            groups = attrgetter(groups_field[0])(config) if groups_field else 1
            fused = (parameters,) if isinstance(parameters, str) else parameters
            for layer in range(config.num_layers) if "{n}" in name else (0,):
                of_layer = name.replace("{n}", str(layer))
                experts = range(num_experts) if "{e}" in name else (0,)
                names = tuple(of_layer.replace("{e}", str(expert)) for expert in experts)
                paths = tuple(_parse_path(text, layer) for text in fused)
                layout = TensorLayout(names, transposed, paths, groups)
                layouts |= dict.fromkeys(paths, layout)
        return layouts

    def canonical_name(self, name: str) -> str:
        """The name that ``tensors`` has for a tensor, whatever the checkpoint calls it."""
        for alias, prefix in self.prefix_aliases:
            if name.startswith(alias):
                return prefix + name.removeprefix(alias)
        return name

    def ignores_tensor(self, name: str, config: DecoderConfig) -> bool:
        """Whether a tensor of this name is known, and not loaded."""
        patterns = (*self.ignored_tensors, *self.ignored_tensors_for(config))
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    @staticmethod
    def _has_row(row: TensorRow, config: DecoderConfig, present: Collection[str]) -> bool:
        """Whether a tensor of this row is among those present, in any layer."""
        first_expert = row[0].replace("{e}", "0")
        layers = range(config.num_layers)
        return any(first_expert.replace("{n}", str(layer)) in present for layer in layers)

    def _check_supported(self, hf: HFConfig) -> None:
        for name, supported in self.supported_values.items():
            if hf.get(name, supported[0]) not in supported:
                raise ValueError(f"{name} {hf[name]!r} is not supported; expected {supported[0]!r}")
        if hf.get("per_layer_config") and not self.allows_per_layer_config:
            raise ValueError(f"per_layer_config is not supported in {self.model_type}")

    def _read_fields(self, hf: HFConfig) -> dict[str, Any]:
        return {key: _read_field(hf, *row) for key, row in self.fields.items()}

    def _read_moe(self, hf: HFConfig) -> MoEConfig | None:
        """The mixture of experts; None where ``config.json`` says that there are no experts."""
        values = {key: _read_field(hf, *row) for key, row in self.moe_fields.items()}
        if values["num_experts"] == 0:
            return None
        return MoEConfig(**values | {**self.fixed_moe_fields, **self.computed_moe_fields(hf)})

    def _write_moe(self, moe: MoEConfig | None) -> dict[str, Any]:
        """The fields of ``config.json`` from which ``_read_moe`` reads this mixture again."""
        hf: dict[str, Any] = {}
        for key, (names, default) in self.moe_fields.items():
            name = names if isinstance(names, str) else names[0]
            if moe is not None:
                hf[name] = getattr(moe, key)
            elif key == "num_experts" or not (callable(default) or default is REQUIRED):
                hf[name] = 0 if key == "num_experts" else default
        return hf


def _read_field(hf: HFConfig, names: str | tuple[str, ...], default: Any) -> Any:
    """The value of a field by the first of its names that is given.

    Raises:
        KeyError: it is absent, and REQUIRED.
    """
    names = (names,) if isinstance(names, str) else names
    name = next((name for name in names if name in hf), names[0])
    value = hf.get(name, default)
    if value is REQUIRED:
        raise KeyError(name)
    return default(hf) if callable(default) and hf.get(name) is None else value


def _select_text_config(hf: HFConfig, sizes: HFConfig) -> HFConfig:
    """The text part of a multimodal ``config.json``, where it is one, with the fields around it.

    Args:
        sizes: of the text part, where it leaves them out.
    """
    if not isinstance(text := hf.get("text_config"), Mapping):
        return hf
    outer = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
    return {**sizes, **text, **{name: hf[name] for name in outer if hf.get(name) is not None}}


def _parse_path(text: str, layer: int) -> ParameterPath:
    """``layers.{n}.ffn.up.kernel`` as the path of a parameter of this layer."""
    steps = text.replace("{n}", str(layer)).split(".")
    return tuple(int(step) if step.isdigit() else step for step in steps)
