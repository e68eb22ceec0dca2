"""Compilations of JAX: how many there are, how long they take, and their cache on disk."""

import functools
import os
import time
from pathlib import Path
from typing import Any

from adapt_jax.utils.cpu import COMPILED, trim_memory_after_compilation

__all__ = ["Stopwatch", "compile_seconds", "count_compilations", "use_compilation_cache"]

COMPILE_EVENTS = "/jax/core/compile/"  # tracing, lowering and compiling begin with this


def use_compilation_cache() -> None:
    """Keeps compiled functions on disk, so that a second run starts at once.

    JAX_COMPILATION_CACHE_DIR chooses the folder (default ~/.cache/adapt_jax); empty turns it off.
    What compiling took of the memory is given back after each compilation.
    """
    import jax

    trim_memory_after_compilation()
    default = Path.home() / ".cache" / "adapt_jax"
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(default))
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            # small functions, too: reading one takes 5 ms, compiling it 30
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


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


def compile_seconds() -> float:
    """Seconds spent tracing, lowering and compiling since the first call of this function.

    A pace of work leaves them out: they do not come again with the next piece of it.
    """
    return _find_clock().seconds()


class Stopwatch:
    """Measures pieces of work, one after the other, without what is compiled for them.

    Compiling happens once, so it says nothing about what a piece costs.
    """

    def __init__(self) -> None:
        self._read = time.perf_counter(), compile_seconds()

    def read_seconds(self) -> float:
        """Seconds since the last reading, or since the beginning."""
        (began, compiled), self._read = self._read, (time.perf_counter(), compile_seconds())
        return max(0.0, self._read[0] - began - (self._read[1] - compiled))


@functools.cache
def _find_clock() -> "_CompileClock":
    import jax

    clock = _CompileClock()
    jax.monitoring.register_event_duration_secs_listener(clock.record)
    return clock


class _CompileClock:
    """Adds up the time that JAX reports for its pieces of work."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []  # beginnings and ends, none within another
        self._total = 0.0

    def record(self, event: str, duration_secs: float, **_: Any) -> None:
        """JAX calls it at the end of each piece of work."""
        if event.startswith(COMPILE_EVENTS):
            end = time.perf_counter()
            start = end - duration_secs
            # A function is traced while another one is: the outer span holds the inner ones.
            while self._spans and self._spans[-1][0] >= start:
                inner_start, inner_end = self._spans.pop()
                self._total -= inner_end - inner_start
            self._spans.append((start, end))
            self._total += duration_secs

    def seconds(self) -> float:
        """In all."""
        return self._total
