"""What a family is: tables that translate ``config.json`` and the tensors' names, both ways."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.families.layers import HF, Layers
from adapt_jax.decoders.layout import ParameterPath, TensorLayout
from adapt_jax.decoders.rope import LONGEST

Row = tuple[Any, ...]
REQUIRED = object()
# As files of the decoder without its output name what stands in front of it.
BARE = tuple((part, f"model.{part}") for part in ("embed_tokens.", "layers.", "norm."))


@dataclass(frozen=True)
class Family:
    """A decoder family; absent fields of ``config.json`` mean what transformers takes them to mean.

    Attributes:
        architecture: what ``architectures`` of ``config.json`` names.
        model_type: as transformers calls it.
        tensors: a row per tensor: (Hugging Face name, parameter, swapped). ``{n}`` stands for the
            layer; swapped says that the last two axes stand the other way round there. Where a
            tensor holds several parameters the row names them all, in order, with a fourth entry
            if they alternate: the field of DecoderConfig that says how many times. A name with
            ``{e}`` is one tensor for each expert, stacked in the parameter. What a decoder lacks
            (biases, for most) is left out.
        fields: field of DecoderConfig -> (field of ``config.json``, default). A default that is a
            function of ``config.json`` also stands for null.
        fixed: fields of DecoderConfig that are the same in all of the family.
        derived: fields of DecoderConfig that no single field tells.
        spelled: what ``config.json`` says of them, and of what ``layers`` cannot spell.
        must_be: fields of ``config.json`` -> the values that are supported, the default first.
        told_by_layer: whether ``per_layer_config`` is read; elsewhere it is refused.
        layers: how the kinds of layers are told.
        ignored: patterns of names of tensors that are knowingly left unread. ``unread``: those of
            a decoder of this config.
        renamed: (beginning of a name that some checkpoints have, what ``tensors`` has instead).
    """

    architecture: str
    model_type: str
    tensors: tuple[Row, ...]
    fields: Mapping[str, tuple[str, Any]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    derived: Callable[[HF], Mapping[str, Any]] = lambda hf: {}
    spelled: Callable[[DecoderConfig], Mapping[str, Any]] = lambda config: {}
    must_be: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    allows_per_layer_config: bool = False
    layers: Layers = Layers()
    ignored: tuple[str, ...] = ("*rotary_emb.inv_freq",)
    unread: Callable[[DecoderConfig], tuple[str, ...]] = lambda config: ()
    renamed: tuple[tuple[str, str], ...] = BARE

    def to_config(self, hf: HF) -> DecoderConfig:
        """Translates a ``config.json``; of a multimodal one, its text part.

        Raises:
            KeyError: a field that has no default is absent.
            ValueError: a field asks for what this decoder does not compute.
        """
        if isinstance(text := hf.get("text_config"), Mapping):
            outer = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
            hf = {**text, **{name: hf[name] for name in outer if hf.get(name) is not None}}
        for name, supported in self.must_be.items():
            if hf.get(name, supported[0]) not in supported:
                raise ValueError(f"{name} {hf[name]!r} is not supported; expected {supported[0]!r}")
        if hf.get("per_layer_config") and not self.allows_per_layer_config:
            raise ValueError(f"per_layer_config is not supported in {self.model_type}")
        values: dict[str, Any] = dict(self.fixed)
        for key, (name, default) in self.fields.items():
            value = hf.get(name, default)
            if value is REQUIRED:
                raise KeyError(name)
            values[key] = default(hf) if callable(default) and name_is_silent(hf, name) else value
        eos = values["eos_ids"]
        values["eos_ids"] = () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,)
        longest = values["context_length"]
        kinds = self.layers.read(hf, values["num_layers"], longest)
        limits = [kind.rope.limit for kind in kinds if kind.rope and kind.rope.limit]
        values["context_length"] = min([longest, *limits])
        return DecoderConfig(
            family=self.architecture, layer_configs=kinds, **{**values, **self.derived(hf)}
        )

    def to_hf(self, config: DecoderConfig) -> dict[str, Any]:
        """The ``config.json`` of this decoder, for transformers 4 and 5 alike."""
        eos = list(config.eos_ids)
        values = {name: getattr(config, key) for key, (name, _) in self.fields.items()}
        values |= {self.fields["eos_ids"][0]: eos[0] if len(eos) == 1 else eos or None}
        for index in range(config.num_layers):
            rope = config.layer_config(index).rope
            longest = None if rope is None else dict(rope.numbers).get(LONGEST)
            values |= {} if longest is None else {self.fields["context_length"][0]: longest}
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            **values,
            **self.layers.write(config),
            **self.spelled(config),
        }

    def tensor_layouts(self, config: DecoderConfig) -> dict[ParameterPath, TensorLayout]:
        """Each parameter's path -> where it lies in a checkpoint, for all the family may have."""
        stored: dict[ParameterPath, TensorLayout] = {}
        for name, paths, swapped, *alternating in self.tensors:
            groups = getattr(config, alternating[0]) if alternating else 1
            for layer in range(config.num_layers) if "{n}" in name else (0,):
                named = name.replace("{n}", str(layer))
                count = config.moe.num_experts if config.moe is not None else 0
                experts = range(count) if "{e}" in name else (0,)
                names = tuple(named.replace("{e}", str(expert)) for expert in experts)
                paths = (paths,) if isinstance(paths, str) else paths
                parts = tuple(parameter_path(path, layer) for path in paths)
                for part in parts:
                    stored[part] = TensorLayout(names, swapped, parts, groups)
        return stored

    def canonical_name(self, name: str) -> str:
        """The name that ``tensors`` has for a tensor which some checkpoints name otherwise."""
        for old, new in self.renamed:
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    def ignores_tensor(self, name: str, config: DecoderConfig) -> bool:
        """Whether a tensor of this name is knowingly left unread."""
        return any(fnmatchcase(name, one) for one in (*self.ignored, *self.unread(config)))


def name_is_silent(hf: HF, name: str) -> bool:
    """Whether ``config.json`` leaves a field out, or says null."""
    return hf.get(name) is None


def parameter_path(text: str, layer: int) -> ParameterPath:
    """``layers.{n}.ffn.up.kernel`` as the path of a parameter."""
    steps = text.replace("{n}", str(layer)).split(".")
    return tuple(int(step) if step.isdigit() else step for step in steps)
