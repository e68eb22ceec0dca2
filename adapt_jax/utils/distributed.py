"""Several processes that run one command together, on one machine or on many.

``start`` meets the other processes and starts JAX's distributed runtime, before any device is
touched. After that JAX sees the devices of all of them. Each process runs the same program, and
they call the functions of this file, and whatever computes on arrays that span processes, in the
same order. With one process every function here returns at once and imports nothing.

A mistake or a signal in one process ends all of them: see ``finish``.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from adapt_jax.utils.control_channel import CONTINUES, LOST, ControlChannel, Failure, end_process
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.jax_runtime import start_jax
from adapt_jax.utils.preemption import set_preemption_handler
from adapt_jax.utils.process_meeting import MeetingError, meet
from adapt_jax.utils.process_options import ProcessOptions, ProcessPlace, find_place, read_limits

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "ProcessOptions",
    "barrier",
    "before_leaving",
    "fetch_array",
    "finish",
    "from_main",
    "gather",
    "is_main_process",
    "leave_all_to_main",
    "num_processes",
    "process_index",
    "read_notes",
    "send_note",
    "share_questions",
    "shares_questions",
    "start",
    "take_share",
]

log = logging.getLogger("adapt_jax")

T = TypeVar("T")
# Seconds in which all processes may come to the same mistake. Then process 0 tells its own.
SAME_MISTAKE = 1.0
LEAVING = 5.0  # seconds that process 0 waits for the others to leave
LAST_WORK = 20.0  # seconds for what process 0 does when another process has failed
LOSS_IS_KNOWN = 3.0  # seconds after which a killed process has been named
LOST_COLLECTIVE = ("JaxRuntimeError", "XlaRuntimeError")
CAUSES = (
    "usual causes: the command was started on one worker only; a firewall closes the port; a proxy "
    "variable (http_proxy, https_proxy) sends the connection elsewhere"
)


class _State:
    """Of this process; as it is here, it is alone."""

    channel: ControlChannel | None = None
    place: ProcessPlace | None = None
    works_alone = False  # process 0 works and the others wait
    shares_questions = False  # each process answers its share, on its own devices
    is_leaving = False
    last_work: tuple[Callable[[], None], ...] = ()  # see ``before_leaving``


_state = _State()


# Who is there


def num_processes() -> int:
    """How many processes run this command together."""
    return 1 if _state.place is None or _state.works_alone else _state.place.num_processes


def process_index() -> int:
    """Which of them this is, from 0."""
    return 0 if _state.place is None else _state.place.process_id


def is_main_process() -> bool:
    """Whether this is process 0, which prints and writes what only one should write."""
    return process_index() == 0


# Starting


def start(options: ProcessOptions | None = None) -> bool:
    """Connects to the other processes and starts JAX's distributed runtime, where there are any.

    They are given by ``options`` or the environment, or detected: Cloud TPU, GKE, SLURM, Open MPI,
    Kubernetes, by JAX itself. Has to be called before JAX touches a device. A second call does
    nothing.

    Returns:
        whether there are several processes.

    Raises:
        UserError: the options are incomplete or wrong, or not all processes come in time: it names
            the missing ones, the coordinator and the usual causes.
    """
    if _state.place is not None:
        return True
    options = options or ProcessOptions()
    limit, silence = read_limits(options)
    place = find_place(options, limit)
    if place is None or place.num_processes == 1:
        return False
    import jax

    if jax.distributed.is_initialized():
        raise UserError(
            "jax.distributed was started already; start it with "
            "adapt_jax.utils.distributed.start() instead"
        )
    connections = _meet_others(place, limit)
    _state.channel = ControlChannel(
        connections,
        place.process_id,
        place.num_processes,
        silence=silence,
        on_failure=_leave_after,
    )
    set_preemption_handler(start_jax(place, limit, silence, _abort))
    _state.place = place
    _report_crashes()
    if place.process_id:
        log.setLevel(logging.ERROR)  # process 0 warns for all
    return True


def _meet_others(place: ProcessPlace, limit: float) -> Any:
    """The connections to the other processes.

    Raises:
        UserError: not all of them came in time.
    """
    began = time.monotonic()
    try:
        return meet(place.coordinator, place.num_processes, place.process_id, limit)
    except MeetingError as problem:
        raise UserError(
            f"{problem} (coordinator {place.coordinator}, waited "
            f"{time.monotonic() - began:.0f} of {limit:.0f} seconds: start-timeout); {CAUSES}"
        ) from None


def _abort() -> None:
    """JAX's runtime ends the process, because the coordinator or another process is gone."""
    count, coordinator = num_processes(), _state.place.coordinator if _state.place else ""
    end_process(
        f"error: process 0 of {count} (coordinator {coordinator}) has ended or cannot be reached; "
        f"{CONTINUES}",
        LOST,
    )


def _report_crashes() -> None:
    """Tells the others when this program ends, by an exception or in good order."""
    import atexit

    before = sys.excepthook

    def report(kind: Any, problem: Any, trace: Any) -> None:
        if kind.__name__ in LOST_COLLECTIVE:  # then another process is gone, which is found out
            time.sleep(LOSS_IS_KNOWN)
        before(kind, problem, trace)
        finish(1, f"{kind.__name__}: {problem}", is_printed=True)

    sys.excepthook = report
    atexit.register(_close_channel)


def _close_channel() -> None:
    if _state.channel is not None:
        _state.channel.close()


# Ending


def finish(
    code: int, line: str | None = None, *, everywhere: bool = False, is_printed: bool = False
) -> int:
    """The end of a command: in good order, or all processes leave because one failed.

    A single process prints the line and returns the code. Of several, process 0 alone prints: its
    own line, or that of the process that failed. Then all of them end with the code.

    Args:
        code: the exit code of this process; 0 is no failure.
        line: what the user is told.
        everywhere: all processes end in this way, and wait for each other.
        is_printed: the line stands on standard error already.
    """
    channel = _state.channel
    if channel is None:
        if line is not None and not is_printed:
            print(line, file=sys.stderr)
        return code
    _flush()
    if code == 0 or everywhere:
        channel.exchange("end", code)
        if line is not None and channel.index == 0:
            print(line, file=sys.stderr)
        _stop_jax()
        return code
    _state.is_leaving = True
    channel.tell(Failure(channel.index, line or "", code))
    if channel.index:
        time.sleep(LEAVING)  # process 0 answers, and a thread ends this process before
        end_process(line if not is_printed else None, code)
    _end_last(None if is_printed else line, code)
    return code


def _stop_jax() -> None:
    """Ends JAX's runtime in all processes, where none has failed."""
    import jax

    channel, _state.channel, _state.place = _state.channel, None, None
    assert channel is not None
    channel.close()
    with suppress(Exception):
        jax.distributed.shutdown()


def _end_last(line: str | None, code: int) -> None:
    """Process 0: prints, waits for the others to leave, and ends."""
    assert _state.channel is not None
    if line is not None:
        with suppress(OSError):
            os.write(2, f"{line}\n".encode())
    _state.channel.wait_until_others_left(LEAVING)
    end_process(None, code)


def _leave_after(failure: Failure) -> None:
    """Called in a thread, when another process has failed or is gone."""
    channel = _state.channel
    if channel is None:
        return
    if channel.index == 0:
        # this process may come to the same mistake; then that line is its own
        time.sleep(SAME_MISTAKE)
        if not _state.is_leaving:
            _do_last_work()
            _end_last(_describe(failure, channel.count), failure.code)
        return
    main_is_lost = failure.is_lost and failure.process == 0  # then nobody else says so
    end_process(_describe(failure, channel.count) if main_is_lost else None, failure.code)


@contextmanager
def before_leaving(work: Callable[[], None]) -> Iterator[None]:
    """What process 0 does, in a thread, when another process fails meanwhile: it ends afterwards.

    It has LAST_WORK seconds.
    """
    before, _state.last_work = _state.last_work, (*_state.last_work, work)
    try:
        yield
    finally:
        _state.last_work = before


def _do_last_work() -> None:
    for work in _state.last_work:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(LAST_WORK)


def _describe(failure: Failure, count: int) -> str:
    if failure.is_lost:
        return f"error: {failure.line}"
    return f"error: process {failure.process} of {count}: {failure.line.removeprefix('error: ')}"


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


# Agreeing


def gather(name: str, value: T) -> list[T]:
    """A plain value (JSON) of every process, in their order."""
    if num_processes() == 1:
        return [value]
    assert _state.channel is not None
    return _state.channel.exchange(name, value)


def from_main(name: str, value: T) -> T:
    """Process 0's value (plain JSON), in all processes."""
    if num_processes() == 1:
        return value
    assert _state.channel is not None
    return _state.channel.exchange(name, value, from_main=True)[0]  # type: ignore[no-any-return]


def barrier(name: str) -> None:
    """Returns when all processes are there."""
    gather(name, None)


def send_note(topic: str, content: Any) -> None:
    """Sends a plain value (JSON) to process 0, which reads it in a thread of its own."""
    assert _state.channel is not None
    _state.channel.send_note(topic, content)


@contextmanager
def read_notes(topic: str, read: Callable[[Any], None]) -> Iterator[None]:
    """Process 0 calls ``read``, in a thread, with each note that the others send."""
    if (channel := _state.channel) is None:
        yield
        return
    channel.read_notes(topic, read)
    try:
        yield
    finally:
        channel.read_notes(topic, None)


# Work for one, and arrays


@contextmanager
def leave_all_to_main() -> Iterator[bool]:
    """For a command that one process does best: yields whether this process does it.

    The others make their devices known, without which process 0 could not use its own, and wait.
    """
    if num_processes() == 1:
        yield True
        return
    import jax

    jax.local_devices()
    _state.works_alone = True
    try:
        yield is_main_process()
    finally:
        _state.works_alone = False


@contextmanager
def share_questions() -> Iterator[None]:
    """While each process answers its share of the same questions, on its own devices.

    Decisions about shapes are then made together, so that answers do not depend on the processes.
    """
    before, _state.shares_questions = _state.shares_questions, num_processes() > 1
    try:
        yield
    finally:
        _state.shares_questions = before


def shares_questions() -> bool:
    """Whether each process answers its share of the same questions."""
    return _state.shares_questions


def take_share(indices: Iterable[int]) -> set[int]:
    """Those of all indices that this process answers: one after the other goes to the next one."""
    return set(list(indices)[process_index() :: num_processes()])


def fetch_array(array: Any) -> "np.ndarray":
    """An array on the host. Of one that spans processes, all of it, and in all of them.

    Then every process calls it, in the same order.
    """
    import jax
    import numpy as np

    if isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    ):
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(jax.device_get(array))
