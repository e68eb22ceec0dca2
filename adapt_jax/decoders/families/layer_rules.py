"""The layer configs of a decoder, read from ``config.json`` in its older and newer spelling.

transformers 5 keeps everything about rotary positions in ``rope_parameters`` (by layer type, where
layers differ) and lists full and sliding attention in ``layer_types``. Older files have
``rope_theta`` and ``rope_scaling``, and each family has a rule for which layers slide.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.rope import MAX_POSITIONS, ORIGINAL_MAX_POSITIONS, ROPE_TYPES, Rope

__all__ = ["FULL", "SLIDING", "HFConfig", "LayerRules", "check_layer_names", "find_rotated_share"]

HFConfig = Mapping[str, Any]  # a config.json, or fields of one
FULL, SLIDING = "full_attention", "sliding_attention"


def check_layer_names(
    names: Sequence[str],
    count: int | None,
    known: Collection[str],
    supported: Collection[str] = (),
    field: str = "layer_types",
) -> None:
    """Checks a list that names the type of each layer.

    Args:
        count: the number of layers; None where only the list says it.
        known: names that are read.
        supported: names that the message lists; by default all that are known.
        field: that holds the list.

    Raises:
        ValueError: a name is not known, or there are more or fewer names than layers.
    """
    if count not in (None, len(names)):
        raise ValueError(f"{field} has {len(names)} entries for {count} layers")
    if unknown := [name for name in names if name not in known]:
        listed = ", ".join(supported or known)
        raise ValueError(f"{field} {unknown[0]!r} is not supported; supported: {listed}")


def find_rotated_share(rotary_dim: int, head_dim: int) -> float:
    """The ``partial_rotary_factor`` with which this many features of a head are rotated.

    Raises:
        ValueError: that is more than a head has.
    """
    if rotary_dim > head_dim:
        raise ValueError(f"rotary_dim {rotary_dim}; expected {head_dim} at most")
    share = rotary_dim / head_dim
    # the quotient is rounded
    return math.nextafter(share, 1.0) if int(share * head_dim) < rotary_dim else share


@dataclass(frozen=True)
class LayerRules:
    """How a family's ``config.json`` describes its layers.

    Attributes:
        rope: the default rotary positions; None where the family has none.
        sliding_rope: those of sliding layers, where they differ.
        theta_field, sliding_theta_field: older fields of the thetas; "" where there was none.
        partial_rotary_field: the older field of the rotated share of a head; "" where the family
            always rotates whole heads.
        rope_type_aliases: older names of rope types.
        original_max_positions: the default pretrained length, for rope types that need it.
        window: how many tokens a sliding layer attends to.
        is_sliding: whether the layer of this index slides, where ``layer_types`` is absent. None:
            all layers slide where there is a window, and the family knows no ``layer_types``.
        adjust: changes the config of the layer of this index, for what is special in the family.
    """

    rope: Rope | None = Rope()
    sliding_rope: Rope | None = None
    theta_field: str = "rope_theta"
    sliding_theta_field: str = ""
    partial_rotary_field: str = ""
    rope_type_aliases: Mapping[str, str] = field(default_factory=dict)
    original_max_positions: int | None = None
    window: Callable[[HFConfig], int | None] = lambda hf: None
    is_sliding: Callable[[HFConfig, int], bool] | None = None
    adjust: Callable[[HFConfig, int, LayerConfig], LayerConfig] = lambda hf, index, layer: layer

    def to_layer_configs(
        self, hf: HFConfig, num_layers: int, max_positions: int
    ) -> tuple[LayerConfig, ...]:
        """The config of each layer, or a single one where all layers are alike.

        Args:
            max_positions: ``max_position_embeddings``.

        Raises:
            ValueError: a layer type or ``rope_type`` is unknown, or fields contradict each other.
        """
        window, layer_types = self.window(hf), self._read_layer_types(hf, num_layers)
        if SLIDING in layer_types and window is None:
            raise ValueError("layer_types has sliding_attention, but there is no sliding_window")
        ropes = self._read_ropes(hf, max_positions)
        layers = []
        for index, layer_type in enumerate(layer_types):
            layer = LayerConfig(ropes[layer_type], window if layer_type == SLIDING else None)
            layers.append(self.adjust(hf, index, layer))
        return (layers[0],) if len(set(layers)) == 1 else tuple(layers)

    def to_hf(self, config: DecoderConfig) -> dict[str, Any]:
        """The fields of ``config.json`` that describe the same layers, in both spellings."""
        layers = [config.layer_config(index) for index in range(config.num_layers)]
        hf = self._write_windows(layers)
        if self.rope is None:
            return hf
        full_ropes = [layer.rope for layer in layers if layer.rope and layer.window is None]
        sliding_ropes = [layer.rope for layer in layers if layer.rope and layer.window is not None]
        rope = (full_ropes or sliding_ropes or [self.rope])[0]
        # the older spelling
        if self.theta_field:
            hf[self.theta_field] = rope.theta
            hf["rope_scaling"] = None if rope.rope_type == "default" else self._write_rope(rope)
        if self.partial_rotary_field:
            hf[self.partial_rotary_field] = rope.partial_rotary_factor
        if ORIGINAL_MAX_POSITIONS in dict(rope.params):
            hf[ORIGINAL_MAX_POSITIONS] = dict(rope.params)[ORIGINAL_MAX_POSITIONS]
        # the newer one
        if self.sliding_rope is None:
            return hf | {"rope_parameters": self._write_rope(rope)}
        sliding = (sliding_ropes or [self.sliding_rope])[0]
        if self.sliding_theta_field:
            hf[self.sliding_theta_field] = sliding.theta
        by_type = {FULL: self._write_rope(rope), SLIDING: self._write_rope(sliding)}
        return hf | {"rope_parameters": by_type}

    def _read_layer_types(self, hf: HFConfig, num_layers: int) -> list[str]:
        if self.is_sliding is None:
            return [FULL if self.window(hf) is None else SLIDING] * num_layers
        if listed := hf.get("layer_types"):
            for name in listed:
                if name not in (FULL, SLIDING):
                    raise ValueError(
                        f"layer_types {name!r} is not supported; supported: {FULL}, {SLIDING}"
                    )
            if len(listed) != num_layers:
                raise ValueError(f"layer_types has {len(listed)} entries for {num_layers} layers")
            return list(listed)
        return [SLIDING if self.is_sliding(hf, index) else FULL for index in range(num_layers)]

    def _read_ropes(self, hf: HFConfig, max_positions: int) -> dict[str, Rope | None]:
        """The rotary positions of each layer type."""
        if self.rope is None:
            return {FULL: None, SLIDING: None}
        older, newer = hf.get("rope_scaling") or {}, hf.get("rope_parameters") or {}
        if self.sliding_rope is None:
            given = dict(older or newer)
            if FULL in given or SLIDING in given:
                raise ValueError("rope_parameters by layer type are not known in this family")
            rope = self._read_rope(hf, given, self.rope, self.theta_field, max_positions)
            return {FULL: rope, SLIDING: rope}
        full, sliding = {**(newer.get(FULL) or {}), **older}, dict(newer.get(SLIDING) or {})
        sliding_theta = self.sliding_theta_field
        return {
            FULL: self._read_rope(hf, full, self.rope, self.theta_field, max_positions),
            SLIDING: self._read_rope(hf, sliding, self.sliding_rope, sliding_theta, max_positions),
        }

    def _read_rope(
        self,
        hf: HFConfig,
        given: dict[str, Any],
        default: Rope,
        theta_field: str,
        max_positions: int,
    ) -> Rope:
        """Rotary positions from the fields ``given`` for them, and from older fields of ``hf``."""
        default_share = default.partial_rotary_factor
        if given and not self.partial_rotary_field:
            default_share = 1.0
        if not given:
            given = {"rope_type": default.rope_type, **dict(default.params)}
        rope_type = given.get("rope_type") or given.get("type") or "default"
        rope_type = self.rope_type_aliases.get(rope_type, rope_type)
        if rope_type not in ROPE_TYPES:
            raise ValueError(
                f"rope_type {rope_type!r} is not supported; supported: {', '.join(ROPE_TYPES)}"
            )
        params = self._read_rope_params(hf, given, rope_type, max_positions)
        share = _take_first_given(
            given.get("partial_rotary_factor"),
            hf.get(self.partial_rotary_field or "partial_rotary_factor"),
            default_share,
        )
        if not self.partial_rotary_field and share != 1 and rope_type != "proportional":
            raise ValueError(f"partial_rotary_factor {float(share)} is not known in this family")
        older_theta = hf.get(theta_field) if theta_field else None
        theta = _take_first_given(given.get("rope_theta"), older_theta, default.theta)
        return Rope(rope_type, float(theta), float(share), params, default.interleaved)

    def _read_rope_params(
        self, hf: HFConfig, given: dict[str, Any], rope_type: str, max_positions: int
    ) -> tuple[tuple[str, Any], ...]:
        """The parameters that a rope type needs or may have, sorted by name."""
        names = (*ROPE_TYPES[rope_type].required, *ROPE_TYPES[rope_type].optional)
        present = (n for n in names if n != MAX_POSITIONS and given.get(n) is not None)
        params = {name: given[name] for name in present}
        if ORIGINAL_MAX_POSITIONS in names:
            params[ORIGINAL_MAX_POSITIONS] = (
                hf.get(ORIGINAL_MAX_POSITIONS)
                or self.original_max_positions
                or params.get(ORIGINAL_MAX_POSITIONS)
                or max_positions
            )
        # YaRN needs the longest text only to find its factor
        if MAX_POSITIONS in names and not (rope_type == "yarn" and "factor" in params):
            params[MAX_POSITIONS] = max_positions
        hashable = ((k, tuple(v) if isinstance(v, list) else v) for k, v in params.items())
        return tuple(sorted(hashable))

    def _write_windows(self, layers: list[LayerConfig]) -> dict[str, Any]:
        windows = {layer.window for layer in layers if layer.window is not None}
        hf: dict[str, Any] = {"sliding_window": max(windows, default=None)}
        if self.is_sliding is None:
            return hf
        # without windows the field is left out: some models of transformers would make a mask of it
        hf = hf if windows else {}
        layer_types = [FULL if layer.window is None else SLIDING for layer in layers]
        return {**hf, "layer_types": layer_types}

    def _write_rope(self, rope: Rope) -> dict[str, Any]:
        params = {k: list(v) if isinstance(v, tuple) else v for k, v in rope.params}
        params.pop(MAX_POSITIONS, None)  # a field of its own
        if self.partial_rotary_field or rope.rope_type == "proportional":
            params["partial_rotary_factor"] = rope.partial_rotary_factor
        return {"rope_type": rope.rope_type, "rope_theta": rope.theta, **params}


def _take_first_given(*values: Any) -> Any:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)
