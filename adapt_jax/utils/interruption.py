"""Being asked to stop: the trainer saves and ends, and the same command continues later."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from adapt_jax.utils import distributed, preemption

__all__ = [
    "RESTART_EXIT_CODE",
    "STANDARD_ERROR",
    "STANDARD_OUTPUT",
    "Interrupted",
    "agree_to_stop",
    "end_at_once",
    "interruptible",
    "listen_for_stop",
]

RESTART_EXIT_CODE = 75  # says "start me again" (EX_TEMPFAIL of sysexits.h)
STANDARD_OUTPUT, STANDARD_ERROR = 1, 2  # their file descriptors
SHOW_CURSOR = b"\x1b[?25h"  # live progress hides it
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
ACKNOWLEDGED = (
    "\ninterrupted: saving after this step; the same command continues from there. "
    "Ctrl-C again stops without saving.\n"
)
ENDING = "\ninterrupted: ends as soon as what is being compiled or computed is done\n"
ASK_EVERY = 16  # steps of several processes
ENDING_DELAY = 0.5  # seconds after which it is said that the end takes longer


class Interrupted(BaseException):
    """A command was asked to stop and may be started again; it exits with RESTART_EXIT_CODE.

    It can be raised within any call, so it is no Exception: libraries catch those. JAX, which
    writes its compilation cache, would turn it into a warning, and the command would go on.

    Attributes:
        everywhere: all processes stop at this place, and have saved.
    """

    def __init__(self, message: str, *, everywhere: bool = False):
        super().__init__(message)
        self.everywhere = everywhere


@contextmanager
def listen_for_stop() -> Iterator[Callable[[], str | None]]:
    """Yields a function that returns the name of the signal that asked to stop, if one did.

    SIGTERM and Ctrl-C ask to stop, and are acknowledged on standard error at once, also while a
    compiled step runs. A second Ctrl-C raises KeyboardInterrupt.
    """
    received: list[str] = []

    def receive(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signal.Signals(number).name)

    acknowledge = _call_at_once(lambda number: _write_error(ACKNOWLEDGED))
    with acknowledge, _handle(receive, *STOP_SIGNALS):
        yield lambda: received[0] if received else None


@contextmanager
def end_at_once() -> Iterator[None]:
    """Lets SIGTERM and Ctrl-C end the process at once, also while something is compiled.

    For work that writes nothing: nothing is cleaned up.
    """
    with _call_at_once(_end), _handle(lambda number, frame: _end(number), *STOP_SIGNALS):
        yield


@contextmanager
def _call_at_once(act: Callable[[int], None], delay: float = 0) -> Iterator[None]:
    """Calls ``act(number)`` in a thread as soon as the first of STOP_SIGNALS comes.

    With a ``delay`` in seconds it is not called where the block ends before that.

    Python runs a signal's handler in the main thread, and only when that thread is back from
    compiled code: after a step, or after its compilation. The signal's number is written to a
    socket at once, though, and a thread waits there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    has_ended = threading.Event()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    earlier = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def wait() -> None:
        while numbers := reader.recv(1):
            if numbers[0] in STOP_SIGNALS:
                if not (delay and has_ended.wait(delay)):
                    act(numbers[0])
                return

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    try:
        yield
    finally:
        has_ended.set()
        signal.set_wakeup_fd(earlier)
        writer.close()  # ends the thread
        waiting.join()
        reader.close()


def _write_error(text: str) -> None:
    """Writes past ``sys.stderr``, whose lock the main thread may hold."""
    with suppress(OSError):  # standard error may be closed
        os.write(STANDARD_ERROR, text.encode())


def _end(number: int) -> None:
    """Ends the process with the exit code that a shell gives to one that the signal ended."""
    with suppress(OSError):
        if os.isatty(STANDARD_OUTPUT):
            os.write(STANDARD_OUTPUT, SHOW_CURSOR + b"\n")
    os._exit(128 + number)


def agree_to_stop(requested: Callable[[], str | None]) -> str | None:
    """The signal that asks to stop after this step, the same answer in all processes.

    A single process answers at once. Several hand the signal on to JAX, which finds the next step
    that all of them have before them, so that they save the same step and end. It does so once, and
    its notice can be lost (JAX 0.10 was seen to do so); so they also ask each other after every
    ASK_EVERY steps, and after every step once JAX has stopped them.
    """
    if distributed.num_processes() == 1:
        return requested()
    if not preemption.was_preempted():
        if requested():
            preemption.request_preemption()
        if preemption.reached_preemption():
            return signal.SIGTERM.name
        if preemption.count_stop_requests() % ASK_EVERY:
            return None
    asked = distributed.gather("asked to stop", requested())
    return next(filter(None, asked), None)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raises Interrupted on SIGTERM, where no ``listen_for_stop`` inside handles it.

    SIGTERM and Ctrl-C are acknowledged where the end takes longer than ENDING_DELAY, as it does
    while something is compiled.
    """

    def interrupt(number: int, frame: Any) -> None:
        raise Interrupted("stopped by SIGTERM; the same command starts again or continues")

    acknowledge = _call_at_once(lambda number: _write_error(ENDING), ENDING_DELAY)
    with acknowledge, _handle(interrupt, signal.SIGTERM):
        yield


@contextmanager
def _handle(handler: Callable[[int, Any], None], *numbers: int) -> Iterator[None]:
    """Installs a signal handler for a while. Only the main thread receives signals."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
