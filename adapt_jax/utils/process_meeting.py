"""How several processes meet: each connects to process 0, which waits for all of them."""

import json
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Any

__all__ = ["Connection", "MeetingError", "Message", "meet", "name_processes"]

GREETING = "adapt_jax 1"  # and the version of the messages
LENGTH = struct.Struct(">I")
MAX_MESSAGE = 1 << 30  # bytes
MAX_GREETING = 1 << 16  # bytes of a stranger's message
CONNECT_INTERVAL = 0.25  # seconds between two attempts
MAX_NAMED = 10  # processes in a message

Message = dict[str, Any]


class MeetingError(Exception):
    """Not all processes have come together; says who is missing, or what is wrong."""


class Connection:
    """Messages over a socket: four bytes of length, then JSON."""

    def __init__(self, link: socket.socket):
        self.link = link
        self.heard = time.monotonic()  # when the last message came
        self.has_left = False
        self._sending = threading.Lock()
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, message: Message) -> None:
        """Raises OSError when the other side is gone."""
        content = json.dumps(message).encode()
        with self._sending:
            self.link.sendall(LENGTH.pack(len(content)) + content)

    def receive(self, limit: int = MAX_MESSAGE) -> Message:
        """Raises OSError when the other side is gone, ValueError for what is no message."""
        (length,) = LENGTH.unpack(self._read(LENGTH.size))
        if length > limit:
            raise ValueError(f"a message of {length} bytes")
        message = json.loads(self._read(length))
        if not isinstance(message, dict):
            raise ValueError("a message that is no object")
        self.heard = time.monotonic()
        return message

    def _read(self, length: int) -> bytes:
        parts: list[bytes] = []
        while length:
            part = self.link.recv(min(length, 1 << 20))
            if not part:
                raise ConnectionError("closed")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        with suppress(OSError):
            self.link.shutdown(socket.SHUT_RDWR)
        self.link.close()


def meet(coordinator: str, count: int, index: int, limit: float) -> dict[int, Connection]:
    """Waits until all processes have come.

    Args:
        coordinator: HOST:PORT of process 0, which JAX's coordinator takes afterwards.
        limit: seconds.

    Returns:
        by process, the connections: of process 0 those to all others, of another that to process 0.

    Raises:
        MeetingError: some did not come in time, or do not belong together.
    """
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + limit
    if index == 0:
        return _wait_for_others(int(port), count, deadline)
    return {0: _join(host.strip("[]"), int(port), count, index, deadline)}


def _wait_for_others(port: int, count: int, deadline: float) -> dict[int, Connection]:
    """Process 0: takes the connections of all others, then tells them to go on."""
    come: dict[int, Connection] = {}
    try:
        # dual-stack where the system has IPv6
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        server = socket.create_server(
            ("", port), family=family, backlog=count, dualstack_ipv6=family == socket.AF_INET6
        )
    except OSError as problem:
        reason = problem.strerror or problem
        raise MeetingError(
            f"port {port} cannot be opened on this machine ({reason}); does another job use it?"
        ) from None
    with server:
        while len(come) < count - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                link, _ = server.accept()
            except TimeoutError:
                missing = [other for other in range(1, count) if other not in come]
                _refuse(come, f"{name_processes(missing)} of {count} did not come")
                raise MeetingError(f"{name_processes(missing)} of {count} did not come") from None
            link.settimeout(5)
            connection = Connection(link)
            try:
                hello = connection.receive(MAX_GREETING)
            except (OSError, ValueError):  # a stranger, such as a port scanner
                connection.close()
                continue
            if hello.get("hello") != GREETING:
                connection.close()
                continue
            wrong = _find_mismatch(hello, come, count)
            if wrong:
                come[-1] = connection
                _refuse(come, wrong)
                raise MeetingError(wrong)
            come[int(hello["index"])] = connection
    for connection in come.values():
        connection.link.settimeout(None)
        connection.send({"go": True})
    return come


def _find_mismatch(hello: Message, come: dict[int, Connection], count: int) -> str | None:
    """Why a process that says hello does not belong here."""
    index, theirs = hello.get("index"), hello.get("count")
    if theirs != count:
        return (
            f"process 0 was started as one of {count} processes (num-processes), process {index} "
            f"as one of {theirs}"
        )
    if not isinstance(index, int) or not 0 < index < count:
        return f"a process has the process-id {index}; expected 0 to {count - 1}"
    if index in come:
        return f"two processes have the process-id {index}; each needs its own"
    return None


def _refuse(come: dict[int, Connection], why: str) -> None:
    """Sends the others away."""
    for connection in come.values():
        with suppress(OSError):
            connection.send({"refused": why})
        connection.close()


def _join(host: str, port: int, count: int, index: int, deadline: float) -> Connection:
    """Another process: connects to process 0 and waits until it says go."""
    reason: object = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            link = socket.create_connection((host, port), timeout=min(left, 10))
            connection = Connection(link)
            connection.send({"hello": GREETING, "index": index, "count": count})
            # process 0 waits for the others, and refuses when its own time is up
            link.settimeout(max(deadline - time.monotonic(), 0) + 10)
            answer = connection.receive(MAX_GREETING)
        except (OSError, ValueError) as problem:
            reason = getattr(problem, "strerror", None) or problem
            time.sleep(min(CONNECT_INTERVAL, max(left, 0)))
            continue
        if "refused" in answer:
            raise MeetingError(str(answer["refused"]))
        link.settimeout(None)
        return connection
    raise MeetingError(f"process 0 of {count} cannot be reached ({reason})")


def name_processes(processes: list[int]) -> str:
    """Names processes in a message: "process 3", or "processes 1, 2 and 7"."""
    names = list(map(str, processes[:MAX_NAMED]))
    if len(processes) > MAX_NAMED:
        names.append(f"{len(processes) - MAX_NAMED} more")
    if len(names) == 1:
        return f"process {names[0]}"
    return f"processes {', '.join(names[:-1])} and {names[-1]}"
