"""Several processes that run one command together, on one machine or on many.

``start`` meets the other processes and starts JAX's distributed runtime, before any device is
touched. After that JAX sees the devices of all of them. Each process runs the same program, and
they call the functions of this file, and whatever computes on arrays that span processes, in the
same order. With one process every function here returns at once and imports nothing.

A mistake or a signal in one process ends all of them: see ``finish``.
"""

import ctypes
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adapt_jax.utils.control_channel import (
    CONTINUES,
    LOST,
    ControlChannel,
    Failure,
    MeetingError,
    end_process,
    meet,
)
from adapt_jax.utils.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

__all__ = [
    "ProcessOptions",
    "agree",
    "barrier",
    "check_shared_folder",
    "fetch_array",
    "finish",
    "from_main",
    "gather",
    "is_main_process",
    "leave_all_to_main",
    "num_processes",
    "on_main",
    "process_index",
    "reached_preemption",
    "request_preemption",
    "run_on_main",
    "share_questions",
    "shares_questions",
    "start",
    "take_share",
]

log = logging.getLogger("adapt_jax")

T = TypeVar("T")
DEFAULT_START_TIMEOUT = 300.0  # seconds, as JAX's own
DEFAULT_HEARTBEAT_TIMEOUT = 60.0
MIN_HEARTBEAT_TIMEOUT = 5.0
JAX_PATIENCE = (
    10  # times the heartbeat limit: JAX, which aborts without a reason, is the last to act
)
# Seconds in which all processes may come to the same mistake. Then process 0 tells its own.
SAME_MISTAKE = 1.0
LEAVING = 5.0  # seconds that process 0 waits for the others to leave
LOSS_IS_KNOWN = 3.0  # seconds after which a killed process has been named
LOST_COLLECTIVE = ("JaxRuntimeError", "XlaRuntimeError")
MAX_SHOWN = 60  # letters of a value in a message
# One of these is there wherever JAX can detect a cluster; so nothing is imported elsewhere.
CLUSTER_SIGNS = (
    *("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"),
    *("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES", "MEGASCALE_COORDINATOR_ADDRESS"),
)
TPU_DEVICES = ("accel[0-9]*", "vfio/[0-9]*")  # in /dev of a Cloud TPU machine
CAUSES = (
    "usual causes: the command was started on one worker only; a firewall closes the port; a proxy "
    "variable (http_proxy, https_proxy) sends the connection elsewhere"
)


@dataclass(frozen=True)
class ProcessOptions:
    """How the processes find each other, as the user says it. None: from the environment.

    Attributes:
        coordinator: HOST:PORT of process 0 (JAX_COORDINATOR_ADDRESS).
        num_processes: how many there are (JAX_NUM_PROCESSES).
        process_id: which one this is, from 0 (JAX_PROCESS_ID).
        start_timeout: seconds in which all have to come (ADAPT_JAX_START_TIMEOUT).
        heartbeat_timeout: seconds after which a silent process counts as dead
            (ADAPT_JAX_HEARTBEAT_TIMEOUT).
    """

    coordinator: str | None = None
    num_processes: int | str | None = None
    process_id: int | str | None = None
    start_timeout: float | str | None = None
    heartbeat_timeout: float | str | None = None


@dataclass(frozen=True)
class _Place:
    """Where a process stands among the others."""

    coordinator: str
    num_processes: int
    process_id: int
    detected: bool


class _State:
    """Of this process; as it is here, it is alone."""

    channel: ControlChannel | None = None
    place: _Place | None = None
    works_alone = False  # process 0 works and the others wait
    shares_questions = False  # each process answers its share, on its own devices
    is_leaving = False
    preempt: Callable[[int], None] | None = None  # JAX's handler of SIGTERM
    steps = 0  # of all trainings, after which the processes may stop together
    on_abort: Any = None  # our handler of SIGABRT, which must not be collected


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
    """Meets the other processes and starts JAX's distributed runtime, where there are any.

    They are told by ``options`` or the environment, or detected: Cloud TPU, GKE, SLURM, Open MPI,
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
    limit = (
        _read_number(options.start_timeout, "--start-timeout", "ADAPT_JAX_START_TIMEOUT", 1)
        or DEFAULT_START_TIMEOUT
    )
    silence = (
        _read_number(
            options.heartbeat_timeout,
            "--heartbeat-timeout",
            "ADAPT_JAX_HEARTBEAT_TIMEOUT",
            MIN_HEARTBEAT_TIMEOUT,
        )
        or DEFAULT_HEARTBEAT_TIMEOUT
    )
    place = _find_place(options, limit)
    if place is None or place.num_processes == 1:
        return False
    import jax

    if jax.distributed.is_initialized():
        raise UserError(
            "jax.distributed was started already; start it with "
            "adapt_jax.utils.distributed.start() instead"
        )
    began = time.monotonic()
    try:
        connections = meet(place.coordinator, place.num_processes, place.process_id, limit)
    except MeetingError as problem:
        raise UserError(
            f"{problem} (coordinator {place.coordinator}, waited "
            f"{time.monotonic() - began:.0f} of {limit:.0f} seconds: start-timeout); {CAUSES}"
        ) from None
    _state.channel = ControlChannel(
        connections,
        place.process_id,
        place.num_processes,
        silence=silence,
        on_failure=_leave_after,
    )
    _start_jax(place, limit, silence)
    _state.place = place
    _report_crashes()
    if place.process_id:
        log.setLevel(logging.ERROR)  # process 0 warns for all
    return True


def _read_number(value: Any, name: str, variable: str, least: float) -> float | None:
    """A number that is given, or else in the environment.

    Raises:
        UserError: it is none, or too small.
    """
    if value is None:
        value, name = os.environ.get(variable) or None, variable
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= least):
        raise UserError(f"{name}: expected a number from {least:g}, found {str(value)!r:.60}")
    return number


def _read_count(value: Any, name: str, variable: str, least: int) -> int | None:
    number = _read_number(value, name, variable, least)
    if number is not None and number != int(number):
        raise UserError(f"{name}: expected a whole number, found {number:g}")
    return None if number is None else int(number)


def _find_place(options: ProcessOptions, limit: float) -> _Place | None:
    """Coordinator, number and id, as they are told or else detected; None for a single process.

    Raises:
        UserError: some are told, and the others neither told nor detected.
    """
    told = coordinator, count, index = (
        options.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS") or None,
        _read_count(options.num_processes, "--num-processes", "JAX_NUM_PROCESSES", 1),
        _read_count(options.process_id, "--process-id", "JAX_PROCESS_ID", 0),
    )
    if count == 1:
        return None
    detected = None
    if None in told:
        detected = _detect(coordinator, limit)
        if detected is None and told == (None, None, None):
            return None
    if detected is not None:
        coordinator = detected[0] if coordinator is None else coordinator
        count = detected[1] if count is None else count
        index = detected[2] if index is None else index
    lacking = [
        f"{flag} (or {variable})"
        for value, flag, variable in (
            (coordinator, "--coordinator HOST:PORT", "JAX_COORDINATOR_ADDRESS"),
            (count, "--num-processes", "JAX_NUM_PROCESSES"),
            (index, "--process-id", "JAX_PROCESS_ID"),
        )
        if value is None
    ]
    if coordinator is None or count is None or index is None:
        raise UserError(f"several processes: {' and '.join(lacking)} is missing")
    if count == 1:
        return None
    if not 0 <= index < count:
        raise UserError(f"--process-id {index}: expected 0 to {count - 1}, of {count} processes")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator {coordinator!r:.100}: expected HOST:PORT, as in node1:8476")
    return _Place(coordinator, count, index, detected is not None)


def _detect(told: str | None, limit: float) -> tuple[str, int, int] | None:
    """What JAX finds out about the cluster; None where there is none, or a single process.

    Raises:
        UserError: there is a cluster, and its coordinator or this process's place is not found.
    """
    is_tpu = any(any(Path("/dev").glob(pattern)) for pattern in TPU_DEVICES)
    if not is_tpu and not any(sign in os.environ for sign in CLUSTER_SIGNS):
        return None
    from jax._src.clusters import ClusterEnv

    for cluster in ClusterEnv._cluster_types:
        if cluster.opt_in_only_method or not _is_present(cluster):
            continue
        try:
            count = int(cluster.get_process_count())
            if count == 1:
                return None
            coordinator = told or cluster.get_coordinator_address(
                timeout_secs=int(limit),
                override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT"),
            )
            return coordinator, count, cluster.get_process_id()
        except Exception as problem:  # whatever its metadata leads to
            reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            raise UserError(
                f"several processes, started by {cluster.name}: {reason:.200}; say it by "
                "--coordinator, --num-processes and --process-id"
            ) from None
    return None


def _is_present(cluster: Any) -> bool:
    """Whether JAX finds this kind of cluster."""
    if cluster.name == "k8s" and "JOB_COMPLETION_INDEX" not in os.environ:
        return False  # a pod that is no worker of a job, such as a notebook's
    try:
        return bool(cluster.is_env_present())
    except Exception:  # such as a TPU machine without a metadata server
        return False


def _start_jax(place: _Place, limit: float, silence: float) -> None:
    """``jax.distributed.initialize``, when all processes are there already."""
    import jax

    # gRPC would ask a proxy for the coordinator
    host = place.coordinator.rpartition(":")[0]
    exempt = [os.environ[name] for name in ("no_grpc_proxy", "no_proxy") if name in os.environ]
    os.environ["no_grpc_proxy"] = ",".join([*exempt, host])
    with suppress(AttributeError):
        jax.config.update("jax_check_proxy_envs", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        place.coordinator,
        place.num_processes,
        place.process_id,
        cluster_detection_method=None if place.detected else "deactivate",
        initialization_timeout=max(1, round(limit)),
        heartbeat_timeout_seconds=round(silence * JAX_PATIENCE),
    )
    _take_over_signals()


def _take_over_signals() -> None:
    """JAX has installed a handler of SIGTERM, and aborts when it loses the coordinator.

    Its handler is kept, so that ``request_preemption`` can call it: from then on Python's handlers
    receive the signal, as in a single process. On SIGABRT the process ends with a reason.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform != "linux":
        return
    system = ctypes.CDLL(None)
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
    system.signal.restype, system.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    theirs = system.signal(signal.SIGTERM, None)  # SIG_DFL
    if theirs not in (None, 0, 1):
        _state.preempt = handler(theirs)
    _state.on_abort = handler(_abort)
    system.signal(signal.SIGABRT, ctypes.cast(_state.on_abort, ctypes.c_void_p))


def _abort(number: int) -> None:
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
            _end_last(_describe(failure, channel.count), failure.code)
        return
    main_is_lost = failure.is_lost and failure.process == 0  # then nobody else says so
    end_process(_describe(failure, channel.count) if main_is_lost else None, failure.code)


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


def agree(name: str, values: Mapping[str, Any]) -> None:
    """Compares plain values by their keys.

    Raises:
        UserError: a process has another value than process 0; the keys are named.
    """
    if num_processes() == 1:
        return
    own = _flatten(values)
    first, *others = gather(name, own)
    for index, theirs in enumerate(others, 1):
        differing = [
            f"{key} is {_shorten(theirs.get(key))} in process {index}, {_shorten(first.get(key))} "
            "in process 0"
            for key in sorted(first.keys() | theirs.keys())
            if theirs.get(key) != first.get(key)
        ]
        if differing:
            more = f"; and {len(differing) - 3} more keys" if len(differing) > 3 else ""
            raise UserError(
                f"the processes were started with different {name}s: {'; '.join(differing[:3])}"
                f"{more}"
            )


def _flatten(nested: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}, plain JSON."""
    import json

    found: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            found |= _flatten(value, f"{path}{key}.")
        else:
            found[path + key] = json.loads(json.dumps(value, default=str))
    return found


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def run_on_main(name: str, function: Callable[[], T]) -> T:
    """Runs a function on process 0, and gives what it returns (plain JSON) to all processes.

    Raises:
        UserError: the one that it raised, in all processes.
    """
    if num_processes() == 1:
        return function()
    found: Any = None
    if is_main_process():
        try:
            found = {"value": function()}
        except UserError as mistake:
            found = {"mistake": str(mistake)}
    found = from_main(name, found)
    if "mistake" in found:
        raise UserError(found["mistake"])
    return found["value"]  # type: ignore[no-any-return]


@contextmanager
def on_main(name: str, manager: Callable[[], Any]) -> "Iterator[None]":
    """Enters a context manager on process 0 alone, such as a lock that it holds for all.

    Raises:
        UserError: entering it failed, in all processes.
    """
    entered = None

    def enter() -> None:
        nonlocal entered
        entered = manager()
        entered.__enter__()

    run_on_main(name, enter)
    try:
        yield
    except BaseException:
        if entered is not None and not entered.__exit__(*sys.exc_info()):
            raise
        if entered is None:
            raise
    else:
        if entered is not None:
            entered.__exit__(None, None, None)


def check_shared_folder(folder: Path) -> None:
    """Checks that all processes see the same folder.

    Raises:
        UserError: a process does not see what process 0 writes there.
    """
    if num_processes() == 1:
        return
    import secrets

    token = secrets.token_hex(8)
    file = folder / f".adapt_jax-shared-{token}"

    def write() -> str:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(token)
        return file.name

    name = run_on_main("shared folder", write)
    sees = _appears(folder / name)
    blind = [index for index, one in enumerate(gather("sees the folder", sees)) if not one]
    if is_main_process():
        file.unlink(missing_ok=True)
    if blind:
        raise UserError(
            f"{folder}: process {blind[0]} does not see what process 0 writes there; several "
            "processes need one folder that all of them share, such as a network file system or "
            "a mounted bucket"
        )


def _appears(file: Path) -> bool:
    """Whether a file is there; a network file system may show it a little later."""
    for _ in range(10):
        if file.exists():
            return True
        with suppress(OSError):
            os.listdir(file.parent)  # has a network file system look anew
        time.sleep(0.2)
    return False


# Work for one, and arrays


@contextmanager
def leave_all_to_main() -> "Iterator[bool]":
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
def share_questions() -> "Iterator[None]":
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


# Being asked to stop


def request_preemption() -> None:
    """Hands a signal on to JAX, which finds a step at which all processes stop."""
    if _state.preempt is not None:
        _state.preempt(signal.SIGTERM)


def reached_preemption() -> bool:
    """Whether a process was asked to stop, and all of them stop after this call.

    Every process calls it after every step. JAX chooses the call: one that no process has made yet.
    """
    from jax.experimental import multihost_utils

    _state.steps += 1
    return bool(multihost_utils.reached_preemption_sync_point(_state.steps))
