"""What is known of a deep decoder from shallow ones, where its layers repeat."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.utils.errors import UserError

__all__ = ["MIN_DEPTH", "count_by_depth", "extrapolate", "find_period", "keep_first_layers"]

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
    period, kinds = find_period(config), config.layer_configs
    low = period * -(-MIN_DEPTH // period)
    high, layers = 2 * low, config.num_layers
    repeats = len(kinds) == 1 or kinds[period:] == kinds[:-period]
    if not repeats or layers <= 2 * high or (layers - high) % period:
        return dict(count(config))
    try:
        below, above = (count(keep_first_layers(config, depth)) for depth in (low, high))
    except UserError:  # a part that only the whole decoder has
        return dict(count(config))
    return {
        name: extrapolate({low: below.get(name, 0), high: above[name]}, layers) for name in above
    }


def find_period(config: DecoderConfig) -> int:
    """After how many layers their kinds repeat; 1 where all are alike."""
    kinds = config.layer_configs
    for length in range(1, len(kinds) // 4 + 1):
        if kinds[length:] == kinds[:-length]:
            return length
    return 1


def keep_first_layers(config: DecoderConfig, layers: int) -> DecoderConfig:
    """The same decoder with its first layers alone."""
    kinds = config.layer_configs
    return replace(
        config, num_layers=layers, layer_configs=kinds[:layers] if len(kinds) > 1 else kinds
    )
