"""Being asked to stop: the trainer saves and leaves, so that the same command goes on later."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

AGREE = 10  # steps after which processes ask each other whether one was asked to stop
RESTART = 75  # the exit code that says "start me again" (EX_TEMPFAIL of sysexits.h)


class Interrupted(Exception):
    """A command was asked to stop and may be started again; it leaves with RESTART."""


@contextmanager
def stop_signals() -> Iterator[Callable[[], str | None]]:
    """Yields a function that says which signal has asked to stop, if any: SIGTERM or Ctrl-C.

    A second Ctrl-C does not wait.
    """
    heard: list[str] = []

    def hear(number: int, frame: Any) -> None:
        if heard and number == signal.SIGINT:
            raise KeyboardInterrupt
        heard.append(signal.Signals(number).name)

    with _handled(hear, signal.SIGTERM, signal.SIGINT):
        yield lambda: heard[0] if heard else None


def asked_to_stop(heard: Callable[[], str | None], step: int) -> str | None:
    """Which signal has asked any process to stop, the same answer in all of them after a step.

    One process answers at once. Several gather what they heard every AGREE steps, so that all of
    them save the same step and leave.
    """
    import jax  # here, because the command line imports this file and its help is quick
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return heard()
    if step % AGREE:
        return None
    mine = heard()
    number = np.int32(signal.Signals[mine] if mine else 0)
    most = int(np.max(multihost_utils.process_allgather(number)))
    return signal.Signals(most).name if most else None


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM raises Interrupted, where nobody inside listens with ``stop_signals``."""

    def interrupt(number: int, frame: Any) -> None:
        raise Interrupted("stopped by SIGTERM; the same command begins again or goes on")

    with _handled(interrupt, signal.SIGTERM):
        yield


@contextmanager
def _handled(handler: Callable[[int, Any], None], *numbers: int) -> Iterator[None]:
    """Installs a handler for a while. Outside of the main thread there are no signals to hear."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
