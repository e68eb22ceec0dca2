"""Rotary positions: every way in which checkpoints choose their frequencies.

Axes: B rows, T tokens, N heads, H head size, h rotated pairs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class Rope:
    """How one kind of layer turns its queries and keys.

    Attributes:
        kind: a name in KINDS (``rope_type`` in ``config.json``).
        theta: the wavelength of the slowest pair is about 2π·theta tokens.
        fraction: the share of a head that is turned, its first features.
        numbers: what the kind needs, named as in ``config.json``, and sorted.
        interleaved: neighbours form a pair (GPT-J), rather than the two halves of a head.

    Raises:
        ValueError: for a ``rope_type`` that is not implemented (never a silent default).
        KeyError: a number that the kind needs is missing.
    """

    kind: str = "default"
    theta: float = 10000.0
    fraction: float = 1.0
    numbers: tuple[tuple[str, Any], ...] = ()
    interleaved: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"rope_type {self.kind!r} is not supported; supported: {', '.join(KINDS)}"
            )
        given = dict(self.numbers)
        for name in KINDS[self.kind].needs:
            if given.get(name) is None:
                raise KeyError(f"{name} of rope_type {self.kind}")

    @property
    def limit(self) -> int | None:
        """The total length, in tokens, past which the frequencies depend on it; None: on none."""
        name = {"dynamic": LONGEST, "longrope": ORIGINAL}.get(self.kind)
        return None if name is None else int(dict(self.numbers)[name])

    def frequencies(
        self, head_dim: int, length: int | Int[Array, ""] | None = None
    ) -> np.ndarray | Float[Array, " h"]:
        """Radians per position of each turned pair (2104.09864, section 3.4.2).

        Args:
            length: of the whole sequence, in tokens, where it matters; ``limit`` if not given.
        """
        numbers = dict(self.numbers)
        numbers |= {"theta": self.theta, "fraction": self.fraction}
        size = int(head_dim * (1.0 if self.kind == "proportional" else self.fraction))
        if size % 2:
            raise ValueError(f"{size} features of a head are turned; rotary positions need pairs")
        return KINDS[self.kind].frequencies(numbers, size, self.limit if length is None else length)

    @property
    def magnitude(self) -> float:
        """What cosine and sine are multiplied by (YaRN 2309.00071, section 3.4; LongRoPE)."""
        numbers = dict(self.numbers)
        if self.kind not in ("yarn", "longrope"):
            return 1.0
        if (given := numbers.get("attention_factor")) is not None:
            return float(given)
        factor, original = _factor(numbers), numbers[ORIGINAL]
        if self.kind == "longrope":
            return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
        one, all_dim = numbers.get("mscale"), numbers.get("mscale_all_dim")
        if one and all_dim:
            return _magnitude(factor, one) / _magnitude(factor, all_dim)
        return _magnitude(factor, 1.0)

    def turns(
        self,
        positions: Int[Array, "B T"],
        head_dim: int,
        length: int | Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T h"], Float[Array, "B T h"]]:
        """Cosine and sine of each pair's angle, float32, times the magnitude.

        They are written to one array, as XLA would compute them anew in every layer on a CPU, for
        each head, even past an optimization barrier.
        """
        frequencies = jnp.asarray(self.frequencies(head_dim, length))
        angles = positions[..., None].astype(jnp.float32) * frequencies
        turns = jnp.zeros((2, *angles.shape)).at[0].set(jnp.cos(angles)).at[1].set(jnp.sin(angles))
        return turns[0] * self.magnitude, turns[1] * self.magnitude


def rotate(
    x: Float[Array, "B T N H"],
    turns: tuple[Float[Array, "B T h"], Float[Array, "B T h"]],
    interleaved: bool = False,
) -> Float[Array, "B T N H"]:
    """Turns the first 2·h features of each head; the others stay."""
    cos, sin = (turn[:, :, None] for turn in turns)
    size = 2 * cos.shape[-1]
    turned, kept = x[..., :size].astype(jnp.float32), x[..., size:]
    if interleaved:
        first, second = turned[..., ::2], turned[..., 1::2]
    else:
        first, second = jnp.split(turned, 2, axis=-1)
    halves = [first * cos - second * sin, second * cos + first * sin]
    if interleaved:
        turned = jnp.stack(halves, axis=-1).reshape(turned.shape)
    else:
        turned = jnp.concatenate(halves, axis=-1)
    turned = turned.astype(x.dtype)
    return turned if kept.shape[-1] == 0 else jnp.concatenate([turned, kept], axis=-1)


# The kinds. ``numbers`` also holds theta; ``size`` features are turned; ``length`` is in tokens.

ORIGINAL = "original_max_position_embeddings"  # the length that was pretrained on
LONGEST = "max_position_embeddings"


def _factor(numbers: Numbers) -> float:
    """How many times longer than pretrained; some checkpoints say so by the two lengths only."""
    factor = numbers.get("factor")
    return numbers[LONGEST] / numbers[ORIGINAL] if factor is None else factor


def _magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _default(numbers: Numbers, size: int, length: Any) -> np.ndarray:
    """In float32 as PyTorch has them, whose powers are rounded right and NumPy's are not: behind
    thousands of tokens the last bit of a frequency is seen in the logits.
    """
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    powers = np.float64(numbers["theta"]) ** exponents.astype(np.float64)
    return np.float32(1) / powers.astype(np.float32)


def _linear(numbers: Numbers, size: int, length: Any) -> np.ndarray:
    """Position interpolation (2306.15595)."""
    return _default(numbers, size, length) / np.float32(numbers["factor"])


def _llama3(numbers: Numbers, size: int, length: Any) -> np.ndarray:
    """Stretches long wavelengths only (Llama 3.1 model card)."""
    frequencies = _default(numbers, size, length)
    factor, original = numbers["factor"], numbers[ORIGINAL]
    low, high = numbers["low_freq_factor"], numbers["high_freq_factor"]
    wavelength = 2 * np.pi / frequencies
    smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    return ((1 - smooth) * frequencies / factor + smooth * frequencies).astype(np.float32)


def _yarn(numbers: Numbers, size: int, length: Any) -> np.ndarray:
    """Interpolates slow pairs, keeps fast ones, and blends between (2309.00071, section 3.2)."""
    frequencies, theta = _default(numbers, size, length), numbers["theta"]

    def pair_that_turns(times: float) -> float:
        turning = math.log(numbers[ORIGINAL] / (times * 2 * math.pi))
        return size * turning / (2 * math.log(theta))

    low = pair_that_turns(numbers.get("beta_fast") or 32)
    high = pair_that_turns(numbers.get("beta_slow") or 1)
    if numbers.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    high += 0.001 if low == high else 0
    slow = np.clip((np.arange(size // 2, dtype=np.float32) - low) / (high - low), 0, 1)
    stretched = frequencies / np.float32(_factor(numbers))
    return (stretched * slow + frequencies * (1 - slow)).astype(np.float32)


def _dynamic(numbers: Numbers, size: int, length: Any) -> Any:
    """Theta grows with the length of the sequence (NTK-aware scaling, 2309.00071, appendix A.1)."""
    xp: Any = jnp if isinstance(length, jax.Array) else np
    pretrained, factor = numbers[LONGEST], numbers["factor"]
    longer = xp.maximum(length, pretrained) * (factor / pretrained) - (factor - 1)
    theta = numbers["theta"] * longer ** (size / (size - 2))
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    return (1.0 / xp.asarray(theta, np.float32) ** exponents).astype(np.float32)


def _longrope(numbers: Numbers, size: int, length: Any) -> Any:
    """One stretch per pair, another past the pretrained length (2402.13753)."""
    frequencies = _default(numbers, size, length)
    stretches = [np.asarray(numbers[name], np.float32) for name in ("short_factor", "long_factor")]
    for stretch in stretches:
        if stretch.shape != frequencies.shape:
            raise ValueError(
                f"short_factor and long_factor need {len(frequencies)} numbers; "
                f"found {len(stretch)}"
            )
    short, long = (frequencies / stretch for stretch in stretches)
    xp: Any = jnp if isinstance(length, jax.Array) else np
    return xp.where(length > numbers[ORIGINAL], long, short)


def _proportional(numbers: Numbers, size: int, length: Any) -> np.ndarray:
    """Of all pairs the fastest share turns, the others stand still (Gemma 4)."""
    frequencies = _default(numbers, size, length) / np.float32(numbers.get("factor", 1.0))
    turning = int(numbers["fraction"] * size // 2)
    return np.where(np.arange(size // 2) < turning, frequencies, 0).astype(np.float32)


@dataclass(frozen=True)
class Kind:
    """A way to choose frequencies, the numbers it cannot do without, and those it may be given."""

    frequencies: Callable[[Numbers, int, Any], Any]
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


KINDS = {
    "default": Kind(_default),
    "linear": Kind(_linear, ("factor",)),
    "llama3": Kind(_llama3, ("factor", "low_freq_factor", "high_freq_factor", ORIGINAL)),
    "yarn": Kind(
        _yarn,
        (ORIGINAL,),
        (
            *("factor", "attention_factor", "mscale", "mscale_all_dim", LONGEST),
            *("beta_fast", "beta_slow", "truncate"),
        ),
    ),
    "dynamic": Kind(_dynamic, ("factor", LONGEST)),
    "longrope": Kind(
        _longrope,
        ("short_factor", "long_factor", ORIGINAL),
        ("factor", "attention_factor", LONGEST),
    ),
    "proportional": Kind(_proportional, (), ("factor",)),
}
