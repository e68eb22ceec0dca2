"""How several processes find each other: by options, by the environment, or detected."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt_jax.utils.errors import UserError

__all__ = ["CLUSTER_SIGNS", "ProcessOptions", "ProcessPlace", "find_place", "read_limits"]

# One of these is there wherever JAX can detect a cluster; so nothing is imported elsewhere.
CLUSTER_SIGNS = (
    *("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"),
    *("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES", "MEGASCALE_COORDINATOR_ADDRESS"),
)
DEFAULT_START_TIMEOUT = 300.0  # seconds, as JAX's own
DEFAULT_HEARTBEAT_TIMEOUT = 60.0
MIN_HEARTBEAT_TIMEOUT = 5.0
TPU_DEVICES = ("accel[0-9]*", "vfio/[0-9]*")  # in /dev of a Cloud TPU machine


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
class ProcessPlace:
    """Where a process stands among the others."""

    coordinator: str
    num_processes: int
    process_id: int
    detected: bool


def read_limits(options: ProcessOptions) -> tuple[float, float]:
    """Seconds that the start may take, and that a process may be silent.

    Raises:
        UserError: one is no number, or too small.
    """
    start = _read_number(options.start_timeout, "--start-timeout", "ADAPT_JAX_START_TIMEOUT", 1)
    silence = _read_number(
        options.heartbeat_timeout,
        "--heartbeat-timeout",
        "ADAPT_JAX_HEARTBEAT_TIMEOUT",
        MIN_HEARTBEAT_TIMEOUT,
    )
    return start or DEFAULT_START_TIMEOUT, silence or DEFAULT_HEARTBEAT_TIMEOUT


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


def find_place(options: ProcessOptions, limit: float) -> ProcessPlace | None:
    """Coordinator, number and id, as given or else detected; None for a single process.

    Raises:
        UserError: some are given, and the others are neither given nor detected.
    """
    given = coordinator, count, index = (
        options.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS") or None,
        _read_count(options.num_processes, "--num-processes", "JAX_NUM_PROCESSES", 1),
        _read_count(options.process_id, "--process-id", "JAX_PROCESS_ID", 0),
    )
    if count == 1:
        return None
    detected = None
    if None in given:
        detected = _detect(coordinator, limit)
        if detected is None and given == (None, None, None):
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
    return ProcessPlace(coordinator, count, index, detected is not None)


def _detect(given: str | None, limit: float) -> tuple[str, int, int] | None:
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
            coordinator = given or cluster.get_coordinator_address(
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
