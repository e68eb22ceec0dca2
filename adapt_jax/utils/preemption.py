"""Several processes are asked to stop: JAX finds a step at which all of them do."""

from collections.abc import Callable

__all__ = [
    "count_stop_requests",
    "reached_preemption",
    "request_preemption",
    "set_preemption_handler",
    "was_preempted",
]


class _State:
    """Of this process."""

    preempt: Callable[[], None] | None = None  # hands a signal on to JAX
    was_preempted = False
    steps = 0  # of all trainings, after which the processes may stop together


_state = _State()


def set_preemption_handler(preempt: Callable[[], None] | None) -> None:
    """Says what hands a signal on to JAX; see ``jax_runtime.start_jax``."""
    _state.preempt = preempt


def request_preemption() -> None:
    """Hands a signal on to JAX, which finds a step at which all processes stop."""
    if _state.preempt is not None:
        _state.preempt()


def reached_preemption() -> bool:
    """Whether a process was asked to stop, and all of them stop after this call.

    Every process calls it after every step. JAX chooses the call: one that no process has made yet.
    """
    from jax.experimental import multihost_utils

    _state.steps += 1
    _state.was_preempted = bool(multihost_utils.reached_preemption_sync_point(_state.steps))
    return _state.was_preempted


def count_stop_requests() -> int:
    """How often ``reached_preemption`` was called, the same number in all processes."""
    return _state.steps


def was_preempted() -> bool:
    """Whether JAX has found a step to stop after; it finds one in the life of a process."""
    return _state.was_preempted
