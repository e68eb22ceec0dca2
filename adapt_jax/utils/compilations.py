"""Counts the compilations of JAX."""

import functools
from typing import Any

from adapt_jax.utils.cpu import COMPILED

__all__ = ["count_compilations"]


@functools.cache
def count_compilations() -> list[float]:
    """A list that grows by the seconds of every compilation from now on."""
    import jax

    seconds: list[float] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seconds
