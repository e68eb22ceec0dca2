"""What is known of a deep decoder from shallow ones, where its layers repeat."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.utils.errors import UserError

__all__ = ["MIN_DEPTH", "count_by_depth", "extrapolate", "find_pattern", "keep_first_layers"]

MIN_DEPTH = 2  # layers of the shallower of the two decoders


def extrapolate(by_depth: dict[int, int], layers: int) -> int:
    """The value at ``layers`` of the straight line through what was found at other depths."""
    if layers in by_depth:
        return by_depth[layers]
    (low, below), (high, above) = sorted(by_depth.items())
    return max(0, above + round((above - below) / (high - low) * (layers - high)))


def count_by_depth(
    count: Callable[[DecoderConfig], Mapping[str, int]], config: DecoderConfig
) -> dict[str, int]:
    """What ``count`` gives for a decoder, found from two shallow ones where its layers repeat.

    Args:
        count: counts things that are a constant and as many in each period of layers.

    Raises:
        UserError: as ``count`` does for the whole decoder.
    """
    (lead, period), layers = find_pattern(config), config.num_layers
    kinds = config.layer_configs
    low = lead + period * -(-MIN_DEPTH // period)
    high = 2 * low - lead
    repeats = len(kinds) == 1 or kinds[lead + period :] == kinds[lead:-period]
    if not repeats or layers <= 2 * high or (layers - high) % period:
        return dict(count(config))
    try:
        below, above = (count(keep_first_layers(config, depth)) for depth in (low, high))
    except UserError:  # a part that only the whole decoder has
        return dict(count(config))
    return {
        name: extrapolate({low: below.get(name, 0), high: above[name]}, layers) for name in above
    }


def find_pattern(config: DecoderConfig) -> tuple[int, int]:
    """How many layers precede those whose kinds repeat, and after how many these repeat.

    Some decoders with experts begin with dense layers. (0, 1) where all layers are alike, and where
    none repeat.
    """
    kinds = config.layer_configs
    for lead in range(len(kinds) // 4 + 1):
        rest = kinds[lead:]
        for period in range(1, len(rest) // 4 + 1):
            if rest[period:] == rest[:-period]:
                return lead, period
    return 0, 1


def keep_first_layers(config: DecoderConfig, layers: int) -> DecoderConfig:
    """The same decoder with its first layers alone."""
    kinds = config.layer_configs
    return replace(
        config, num_layers=layers, layer_configs=kinds[:layers] if len(kinds) > 1 else kinds
    )
