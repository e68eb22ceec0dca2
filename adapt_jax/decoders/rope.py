"""Rotary position embeddings (RoPE): every way in which checkpoints choose their frequencies.

Axes: B rows, T tokens, N heads, H head size, h pairs of features that are rotated.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

__all__ = ["MAX_POSITIONS", "ORIGINAL_MAX_POSITIONS", "ROPE_TYPES", "CosSin", "Rope", "apply_rope"]

Params = Mapping[str, Any]
CosSin = tuple[Array, Array]  # cosine and sine of each pair's angle, [B, T, h] each

# Fields of config.json: the longest text in tokens, and the longest one in pretraining.
MAX_POSITIONS = "max_position_embeddings"
ORIGINAL_MAX_POSITIONS = "original_max_position_embeddings"


@dataclass(frozen=True)
class Rope:
    """The rotary positions of a layer.

    Attributes:
        rope_type: a name in ROPE_TYPES, as in ``config.json``.
        theta: the wavelength of the slowest pair is about 2π·theta tokens.
        partial_rotary_factor: the share of each head that is rotated, its first features.
        params: what the rope type needs besides, named as in ``config.json`` and sorted by name.
        interleaved: whether neighbouring features form a pair (GPT-J). By default the pairs are
            features i and i + h (Llama).

    Raises:
        ValueError: the rope type is not implemented; there is no silent default.
        KeyError: a parameter that the rope type needs is missing.
    """

    rope_type: str = "default"
    theta: float = 10000.0
    partial_rotary_factor: float = 1.0
    params: tuple[tuple[str, Any], ...] = ()
    interleaved: bool = False

    def __post_init__(self) -> None:
        if self.rope_type not in ROPE_TYPES:
            raise ValueError(
                f"rope_type {self.rope_type!r} is not supported; supported: {', '.join(ROPE_TYPES)}"
            )
        given = dict(self.params)
        for name in ROPE_TYPES[self.rope_type].required:
            if given.get(name) is None:
                raise KeyError(f"{name} of rope_type {self.rope_type}")

    @property
    def original_max_positions(self) -> int | None:
        """The length in tokens beyond which the frequencies depend on the length of the text.

        None: the frequencies are the same for every length.
        """
        names = {"dynamic": MAX_POSITIONS, "longrope": ORIGINAL_MAX_POSITIONS}
        name = names.get(self.rope_type)
        return None if name is None else int(dict(self.params)[name])

    @property
    def max_positions(self) -> int | None:
        """The longest text in tokens, where the frequencies depend on the length of the text."""
        if self.original_max_positions is None:
            return None
        params = dict(self.params)
        stretch = params["factor"] if self.rope_type == "dynamic" else 1
        return int(params[MAX_POSITIONS] * stretch)

    def frequencies(
        self, head_dim: int, length: int | Int[Array, ""] | None = None
    ) -> np.ndarray | Float[Array, " h"]:
        """Radians per position of each rotated pair (2104.09864, section 3.4.2).

        Args:
            length: of the whole text in tokens, where the frequencies depend on it; by default
                ``original_max_positions``.

        Raises:
            ValueError: an odd number of features would be rotated, or a list of factors has the
                wrong length.
        """
        params = dict(self.params)
        params |= {"theta": self.theta, "partial_rotary_factor": self.partial_rotary_factor}
        # a proportional rope spaces its frequencies over the whole head
        whole_head = self.rope_type == "proportional"
        size = int(head_dim * (1.0 if whole_head else self.partial_rotary_factor))
        if size % 2:
            raise ValueError(f"{size} features of a head are rotated; rotary positions need pairs")
        length = self.original_max_positions if length is None else length
        return ROPE_TYPES[self.rope_type].frequencies(params, size, length)

    @property
    def attention_scaling(self) -> float:
        """The factor of cosine and sine (YaRN 2309.00071, section 3.4; LongRoPE 2402.13753)."""
        params = dict(self.params)
        if self.rope_type not in ("yarn", "longrope"):
            return 1.0
        if (given := params.get("attention_factor")) is not None:
            return float(given)
        factor, original = _stretch_factor(params), params[ORIGINAL_MAX_POSITIONS]
        if self.rope_type == "longrope":
            return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
        mscale, mscale_all_dim = params.get("mscale"), params.get("mscale_all_dim")
        if mscale and mscale_all_dim:
            return _yarn_scaling(factor, mscale) / _yarn_scaling(factor, mscale_all_dim)
        return _yarn_scaling(factor, 1.0)

    def cos_sin(
        self,
        positions: Int[Array, "B T"],
        head_dim: int,
        length: int | Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T h"], Float[Array, "B T h"]]:
        """Cosine and sine of each pair's angle, float32, times ``attention_scaling``."""
        frequencies = jnp.asarray(self.frequencies(head_dim, length))
        angles = positions[..., None].astype(jnp.float32) * frequencies
        # Both are written into one array, behind an optimization barrier. Otherwise XLA on a CPU
        # computes them again in every layer and for every head: until JAX 0.11 even behind a
        # barrier alone, from 0.12 on even out of one array alone.
        both = jnp.zeros((2, *angles.shape)).at[0].set(jnp.cos(angles)).at[1].set(jnp.sin(angles))
        both = jax.lax.optimization_barrier(both)
        return both[0] * self.attention_scaling, both[1] * self.attention_scaling


def apply_rope(
    x: Float[Array, "B T N H"],
    cos_sin: tuple[Float[Array, "B T h"], Float[Array, "B T h"]],
    interleaved: bool = False,
) -> Float[Array, "B T N H"]:
    """Rotates the first 2·h features of each head; the others stay as they are."""
    # one angle for all heads of a token
    cos, sin = (values[:, :, None] for values in cos_sin)
    size = 2 * cos.shape[-1]
    rotated, unrotated = x[..., :size].astype(jnp.float32), x[..., size:]
    # the two features of each pair
    if interleaved:
        first, second = rotated[..., ::2], rotated[..., 1::2]
    else:
        first, second = jnp.split(rotated, 2, axis=-1)
    # rotate in the plane of the pair
    pairs = [first * cos - second * sin, second * cos + first * sin]
    if interleaved:
        rotated = jnp.stack(pairs, axis=-1).reshape(rotated.shape)
    else:
        rotated = jnp.concatenate(pairs, axis=-1)
    rotated = rotated.astype(x.dtype)
    return rotated if unrotated.shape[-1] == 0 else jnp.concatenate([rotated, unrotated], axis=-1)


# One function per rope type: (params with theta and partial_rotary_factor, number of rotated
# features, length of the text in tokens) -> radians per position of each pair.


def _stretch_factor(params: Params) -> float:
    """How many times longer texts are than in pretraining.

    Some checkpoints have no ``factor`` and say it by the two lengths alone.
    """
    factor = params.get("factor")
    return params[MAX_POSITIONS] / params[ORIGINAL_MAX_POSITIONS] if factor is None else factor


def _yarn_scaling(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _default_frequencies(params: Params, size: int, length: Any) -> np.ndarray:
    """theta to the power of -2i/size, rounded to float32 as PyTorch rounds it.

    NumPy's float32 powers are not correctly rounded, so the power is taken in float64: after
    thousands of tokens the last bit of a frequency shows in the logits.
    """
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    powers = np.float64(params["theta"]) ** exponents.astype(np.float64)
    return np.float32(1) / powers.astype(np.float32)


def _linear_frequencies(params: Params, size: int, length: Any) -> np.ndarray:
    """Position interpolation (2306.15595)."""
    return _default_frequencies(params, size, length) / np.float32(params["factor"])


def _llama3_frequencies(params: Params, size: int, length: Any) -> np.ndarray:
    """Stretches long wavelengths only (Llama 3.1 model card)."""
    frequencies = _default_frequencies(params, size, length)
    factor, original = params["factor"], params[ORIGINAL_MAX_POSITIONS]
    low, high = params["low_freq_factor"], params["high_freq_factor"]
    wavelength = 2 * np.pi / frequencies
    # 0: stretched by the factor; 1: as it was
    with np.errstate(divide="ignore"):  # Llama 4 Scout has no range between both
        smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    return ((1 - smooth) * frequencies / factor + smooth * frequencies).astype(np.float32)


def _yarn_frequencies(params: Params, size: int, length: Any) -> np.ndarray:
    """Stretches slow pairs, keeps fast ones, and blends between (2309.00071, section 3.2)."""
    frequencies, theta = _default_frequencies(params, size, length), params["theta"]

    def find_pair(rotations: float) -> float:
        """The pair that rotates this many times over the pretrained length."""
        turning = math.log(params[ORIGINAL_MAX_POSITIONS] / (rotations * 2 * math.pi))
        return size * turning / (2 * math.log(theta))

    # the range of pairs that are blended
    low = find_pair(params.get("beta_fast") or 32)
    high = find_pair(params.get("beta_slow") or 1)
    if params.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    high += 0.001 if low == high else 0
    # 0: kept; 1: stretched by the factor
    slow = np.clip((np.arange(size // 2, dtype=np.float32) - low) / (high - low), 0, 1)
    stretched = frequencies / np.float32(_stretch_factor(params))
    return (stretched * slow + frequencies * (1 - slow)).astype(np.float32)


def _dynamic_frequencies(params: Params, size: int, length: Any) -> Any:
    """Theta grows with the length of the text (NTK-aware scaling, 2309.00071, appendix A.1)."""
    xp: Any = jnp if isinstance(length, jax.Array) else np
    pretrained, factor = params[MAX_POSITIONS], params["factor"]
    longer = xp.maximum(length, pretrained) * (factor / pretrained) - (factor - 1)
    theta = params["theta"] * longer ** (size / (size - 2))
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    return (1.0 / xp.asarray(theta, np.float32) ** exponents).astype(np.float32)


def _longrope_frequencies(params: Params, size: int, length: Any) -> Any:
    """One factor per pair, other ones beyond the pretrained length (2402.13753)."""
    frequencies = _default_frequencies(params, size, length)
    factors = [np.asarray(params[name], np.float32) for name in ("short_factor", "long_factor")]
    for factor in factors:
        if factor.shape != frequencies.shape:
            raise ValueError(
                f"short_factor and long_factor need {len(frequencies)} numbers; found {len(factor)}"
            )
    short, long = (frequencies / factor for factor in factors)
    xp: Any = jnp if isinstance(length, jax.Array) else np
    return xp.where(length > params[ORIGINAL_MAX_POSITIONS], long, short)


def _proportional_frequencies(params: Params, size: int, length: Any) -> np.ndarray:
    """The fastest share of all pairs is rotated, the others are not (Gemma 4)."""
    frequencies = _default_frequencies(params, size, length) / np.float32(params.get("factor", 1.0))
    num_rotated = int(params["partial_rotary_factor"] * size // 2)
    return np.where(np.arange(size // 2) < num_rotated, frequencies, 0).astype(np.float32)


@dataclass(frozen=True)
class _RopeType:
    """A rope type: its frequencies, and the parameters it needs and may have."""

    frequencies: Callable[[Params, int, Any], Any]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


ROPE_TYPES = {
    "default": _RopeType(_default_frequencies),
    "linear": _RopeType(_linear_frequencies, ("factor",)),
    "llama3": _RopeType(
        _llama3_frequencies,
        ("factor", "low_freq_factor", "high_freq_factor", ORIGINAL_MAX_POSITIONS),
    ),
    "yarn": _RopeType(
        _yarn_frequencies,
        (ORIGINAL_MAX_POSITIONS,),
        (
            *("factor", "attention_factor", "mscale", "mscale_all_dim", MAX_POSITIONS),
            *("beta_fast", "beta_slow", "truncate"),
        ),
    ),
    "dynamic": _RopeType(_dynamic_frequencies, ("factor", MAX_POSITIONS)),
    "longrope": _RopeType(
        _longrope_frequencies,
        ("short_factor", "long_factor", ORIGINAL_MAX_POSITIONS),
        ("factor", "attention_factor", MAX_POSITIONS),
    ),
    "proportional": _RopeType(_proportional_frequencies, (), ("factor",)),
}
