"""JAX's runtime of several processes: it is started, and its signals are taken over."""

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from adapt_jax.utils.process_options import ProcessPlace

__all__ = ["start_jax"]

# Times the heartbeat limit. JAX aborts without a reason, so it acts last.
JAX_PATIENCE = 10

_handlers: list[Any] = []  # ours, which must not be collected


def start_jax(
    place: ProcessPlace, limit: float, silence: float, on_abort: Callable[[], None]
) -> Callable[[], None] | None:
    """``jax.distributed.initialize``, when all processes are there already.

    Args:
        limit: seconds that the start may take.
        silence: seconds that a process may be silent.
        on_abort: called when JAX ends the process, because it has lost the coordinator.

    Returns:
        what tells JAX that this process was asked to stop; None where JAX listens for no signal.
    """
    import jax

    # gRPC would ask a proxy for the coordinator
    host = place.coordinator.rpartition(":")[0]
    exempt = [os.environ[name] for name in ("no_grpc_proxy", "no_proxy") if name in os.environ]
    os.environ["no_grpc_proxy"] = ",".join([*exempt, host])
    with suppress(AttributeError):
        jax.config.update("jax_check_proxy_envs", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", True)
    jax.distributed.initialize(
        place.coordinator,
        place.num_processes,
        place.process_id,
        cluster_detection_method=None if place.detected else "deactivate",
        initialization_timeout=max(1, round(limit)),
        heartbeat_timeout_seconds=round(silence * JAX_PATIENCE),
    )
    return _take_over_signals(on_abort)


def _take_over_signals(on_abort: Callable[[], None]) -> Callable[[], None] | None:
    """JAX has installed a handler of SIGTERM, and aborts when it loses the coordinator.

    Its handler is returned, to be called: from then on Python's handlers receive the signal, as in
    a single process. On SIGABRT the process ends with a reason.
    """
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        return None
    system = ctypes.CDLL(None)
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
    system.signal.restype, system.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    theirs = system.signal(signal.SIGTERM, None)  # SIG_DFL
    if callable(before := signal.getsignal(signal.SIGTERM)):  # a script's own, which JAX replaced
        signal.signal(signal.SIGTERM, before)
    _handlers.append(handler(lambda number: on_abort()))
    system.signal(signal.SIGABRT, ctypes.cast(_handlers[-1], ctypes.c_void_p))
    return None if theirs in (None, 0, 1) else partial(handler(theirs), signal.SIGTERM)
