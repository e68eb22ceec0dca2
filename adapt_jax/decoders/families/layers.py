"""Kinds of layers and rotary positions, read from ``config.json`` in its older and newer spelling.

transformers 5 keeps all that is rotary in ``rope_parameters`` (by layer type, where layers differ)
and tells sliding from full attention in ``layer_types``. Older files have ``rope_theta``,
``rope_scaling`` and a rule of each family's own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from adapt_jax.decoders.config import DecoderConfig, LayerConfig
from adapt_jax.decoders.rope import KINDS, LONGEST, ORIGINAL, Rope

HF = Mapping[str, Any]  # a config.json
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Layers:
    """How a family's ``config.json`` tells the kinds of its layers.

    Attributes:
        rope: the rotary positions where the file is silent; None: the family has none.
        theta, fraction: the older names of theta and of the turned share of a head; no name: the
            family knows no older spelling, or always turns whole heads.
        rope_types: older names of kinds of rotary positions.
        original: the pretrained length where the file is silent and the kind needs it.
        sliding_rope: rotary positions of sliding layers, where they have their own.
        sliding_theta: the older name of their theta.
        window: how many tokens a sliding layer sees.
        slides: whether a layer slides, where ``layer_types`` does not tell. None: all do that have
            a window, and the family knows no ``layer_types``.
        change: what is special about a layer, by its number.
    """

    rope: Rope | None = Rope()
    theta: str = "rope_theta"
    fraction: str = ""
    rope_types: Mapping[str, str] = field(default_factory=dict)
    original: int | None = None
    sliding_rope: Rope | None = None
    sliding_theta: str = ""
    window: Callable[[HF], int | None] = lambda hf: None
    slides: Callable[[HF, int], bool] | None = None
    change: Callable[[HF, int, LayerConfig], LayerConfig] = lambda hf, layer, kind: kind

    def read(self, hf: HF, count: int, longest: int) -> tuple[LayerConfig, ...]:
        """The kind of each of ``count`` layers, or one that all are of.

        Args:
            longest: ``max_position_embeddings``.

        Raises:
            ValueError: for a layer type or ``rope_type`` that is not known, and what contradicts.
        """
        window, types = self.window(hf), self._types(hf, count)
        if SLIDING in types and window is None:
            raise ValueError("layer_types has sliding_attention, but there is no sliding_window")
        ropes = self._ropes(hf, longest)
        kinds = []
        for layer, name in enumerate(types):
            kind = LayerConfig(ropes[name], window if name == SLIDING else None)
            kinds.append(self.change(hf, layer, kind))
        return (kinds[0],) if len(set(kinds)) == 1 else tuple(kinds)

    def _types(self, hf: HF, count: int) -> list[str]:
        if self.slides is None:
            return [FULL if self.window(hf) is None else SLIDING] * count
        if listed := hf.get("layer_types"):
            for name in listed:
                if name not in (FULL, SLIDING):
                    raise ValueError(
                        f"layer_types {name!r} is not supported; supported: {FULL}, {SLIDING}"
                    )
            if len(listed) != count:
                raise ValueError(f"layer_types has {len(listed)} entries for {count} layers")
            return list(listed)
        return [SLIDING if self.slides(hf, layer) else FULL for layer in range(count)]

    def _ropes(self, hf: HF, longest: int) -> dict[str, Rope | None]:
        if self.rope is None:
            return {FULL: None, SLIDING: None}
        older, newer = hf.get("rope_scaling") or {}, hf.get("rope_parameters") or {}
        if self.sliding_rope is None:
            given = dict(older or newer)
            if FULL in given or SLIDING in given:
                raise ValueError("rope_parameters by layer type are not known in this family")
            rope = self._rope(hf, given, self.rope, self.theta, longest)
            return {FULL: rope, SLIDING: rope}
        full = {**(newer.get(FULL) or {}), **older}
        sliding = dict(newer.get(SLIDING) or {})
        return {
            FULL: self._rope(hf, full, self.rope, self.theta, longest),
            SLIDING: self._rope(hf, sliding, self.sliding_rope, self.sliding_theta, longest),
        }

    def _rope(self, hf: HF, given: dict[str, Any], default: Rope, theta: str, longest: int) -> Rope:
        whole = 1.0 if given and not self.fraction else default.fraction
        if not given:
            given = {"rope_type": default.kind, **dict(default.numbers)}
        kind = given.get("rope_type") or given.get("type") or "default"
        kind = self.rope_types.get(kind, kind)
        if kind not in KINDS:
            raise ValueError(f"rope_type {kind!r} is not supported; supported: {', '.join(KINDS)}")
        taken = (*KINDS[kind].needs, *KINDS[kind].takes)
        said = (name for name in taken if name != LONGEST and given.get(name) is not None)
        numbers = {name: given[name] for name in said}
        if ORIGINAL in taken:
            original = hf.get(ORIGINAL) or self.original or numbers.get(ORIGINAL) or longest
            numbers[ORIGINAL] = original
        if LONGEST in taken and not (kind == "yarn" and "factor" in numbers):
            numbers[LONGEST] = longest
        share = self.fraction or "partial_rotary_factor"
        fraction = float(_first(given.get("partial_rotary_factor"), hf.get(share), whole))
        if not self.fraction and fraction != 1 and kind != "proportional":
            raise ValueError(f"partial_rotary_factor {fraction} is not known in this family")
        return Rope(
            kind,
            float(_first(given.get("rope_theta"), hf.get(theta or "-"), default.theta)),
            fraction,
            tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in numbers.items())),
            default.interleaved,
        )

    def write(self, config: DecoderConfig) -> dict[str, Any]:
        """The fields of ``config.json`` that tell the same, in both spellings."""
        kinds = [config.layer_config(index) for index in range(config.num_layers)]
        windows = {kind.window for kind in kinds if kind.window is not None}
        told: dict[str, Any] = {"sliding_window": max(windows, default=None)}
        if self.slides is not None:
            told = told if windows else {}  # some models make the mask of it though no layer slides
            told["layer_types"] = [FULL if kind.window is None else SLIDING for kind in kinds]
        if self.rope is None:
            return told
        ropes = {
            name: next((k.rope for k in kinds if k.rope and slides == (k.window is not None)), None)
            for name, slides in ((FULL, False), (SLIDING, True))
        }
        rope = ropes[FULL] or ropes[SLIDING] or self.rope
        if self.theta:
            told[self.theta] = rope.theta
            told["rope_scaling"] = None if rope.kind == "default" else self._spelled(rope)
        told |= {self.fraction: rope.fraction} if self.fraction else {}
        if ORIGINAL in dict(rope.numbers):
            told[ORIGINAL] = dict(rope.numbers)[ORIGINAL]
        if self.sliding_rope is None:
            return told | {"rope_parameters": self._spelled(rope)}
        sliding = ropes[SLIDING] or self.sliding_rope
        if self.sliding_theta:
            told[self.sliding_theta] = sliding.theta
        nested = {FULL: self._spelled(rope), SLIDING: self._spelled(sliding)}
        return told | {"rope_parameters": nested}

    def _spelled(self, rope: Rope) -> dict[str, Any]:
        numbers = {k: list(v) if isinstance(v, tuple) else v for k, v in rope.numbers}
        numbers.pop(LONGEST, None)
        part = self.fraction or rope.kind == "proportional"
        numbers |= {"partial_rotary_factor": rope.fraction} if part else {}
        return {"rope_type": rope.kind, "rope_theta": rope.theta, **numbers}


def _first(*values: Any) -> Any:
    """The first that is there."""
    return next((value for value in values if value is not None), None)
