"""What several processes tell each other besides arrays: one connection from each to process 0.

JAX moves arrays between processes. It has no word for a plain value, a mistake or a process that
was killed: the others wait in a collective, or are aborted. So each process also holds a TCP
connection to process 0, made before JAX starts, on the coordinator's own port. It tells who has
not come, carries plain values (JSON), and closes at once when a process is killed.
"""

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["CONTINUES", "LOST", "ControlChannel", "Failure", "MeetingError", "end_process", "meet"]

GREETING = "adapt_jax 1"  # and the version of the messages
LENGTH = struct.Struct(">I")
MAX_MESSAGE = 1 << 30  # bytes
MAX_GREETING = 1 << 16  # bytes of a stranger's message
CONNECT_INTERVAL = 0.25  # seconds between two attempts
LOST = 75  # exit code where a process was lost: the same command may be started again
NUM_BEATS = 5  # that are sent in the time after which a silent process counts as dead
CONTINUES = "all processes leave, and the same command continues"
SAME_END = 10.0  # seconds
MAX_NAMED = 10  # processes in a message

Message = dict[str, Any]


class MeetingError(Exception):
    """Not all processes have come together; says who is missing, or what is wrong."""


@dataclass(frozen=True)
class Failure:
    """Why the processes leave.

    Attributes:
        process: the one that failed.
        line: for the user.
        code: with which all of them exit.
        is_lost: the others found out; it has not said so itself.
    """

    process: int
    line: str
    code: int
    is_lost: bool = False


class _Connection:
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


def meet(coordinator: str, count: int, index: int, limit: float) -> dict[int, _Connection]:
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


def _wait_for_others(port: int, count: int, deadline: float) -> dict[int, _Connection]:
    """Process 0: takes the connections of all others, then tells them to go on."""
    come: dict[int, _Connection] = {}
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
                _refuse(come, f"{_name(missing)} of {count} did not come")
                raise MeetingError(f"{_name(missing)} of {count} did not come") from None
            link.settimeout(5)
            connection = _Connection(link)
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


def _find_mismatch(hello: Message, come: dict[int, _Connection], count: int) -> str | None:
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


def _refuse(come: dict[int, _Connection], why: str) -> None:
    """Sends the others away."""
    for connection in come.values():
        with suppress(OSError):
            connection.send({"refused": why})
        connection.close()


def _join(host: str, port: int, count: int, index: int, deadline: float) -> _Connection:
    """Another process: connects to process 0 and waits until it says go."""
    reason: object = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            link = socket.create_connection((host, port), timeout=min(left, 10))
            connection = _Connection(link)
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


def _name(processes: list[int]) -> str:
    """Names processes in a message: "process 3", or "processes 1, 2 and 7"."""
    names = list(map(str, processes[:MAX_NAMED]))
    if len(processes) > MAX_NAMED:
        names.append(f"{len(processes) - MAX_NAMED} more")
    if len(names) == 1:
        return f"process {names[0]}"
    return f"processes {', '.join(names[:-1])} and {names[-1]}"


class ControlChannel:
    """The connections of this process, and the threads that listen on them.

    ``on_failure`` is called, in a thread, when another process fails, is killed, or has not been
    heard of for ``silence`` seconds. Process 0 has told the others before.
    """

    def __init__(
        self,
        connections: dict[int, _Connection],
        index: int,
        count: int,
        *,
        silence: float,
        on_failure: Callable[[Failure], None],
    ):
        self.index, self.count = index, count
        self._connections, self._silence, self._on_failure = connections, silence, on_failure
        self._number = 0  # of the exchange that comes next
        self._changed = threading.Condition()
        self._arrived: dict[int, dict[int, Message]] = {}  # by exchange and process
        self._failure: Failure | None = None
        self._is_closed = False
        for other, connection in connections.items():
            self._start(self._listen, other, connection)
        self._start(self._beat)

    def _start(self, function: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=function, args=arguments, daemon=True).start()

    def exchange(self, name: str, value: Any, *, from_main: bool = False) -> list[Any]:
        """Takes a plain value of every process, and gives all of them to each one, in order.

        Every process calls it, in the same order, with the same name.

        Args:
            from_main: only process 0's value counts; what comes back holds that one alone.

        Raises:
            RuntimeError: the processes are not at the same place.
        """
        number, self._number = self._number, self._number + 1
        message: Message = {"exchange": number, "name": name, "value": value}
        if self.index:
            if from_main:
                message["value"] = None
            self._send(0, message)
            return self._wait(number, 1)[0]["values"]  # type: ignore[no-any-return]
        arrived = self._wait(number, self.count - 1)
        for other, theirs in arrived.items():
            if theirs["name"] != name:
                raise RuntimeError(
                    f"process {other} is at {theirs['name']!r} while process 0 is at {name!r}"
                )
        values = [value]
        if not from_main:
            values += [arrived[other]["value"] for other in range(1, self.count)]
        for other in self._connections:
            self._send(other, {"exchange": number, "values": values})
        return values

    def _send(self, other: int, message: Message) -> None:
        try:
            self._connections[other].send(message)
        except OSError:  # the thread that listens there finds out why
            threading.Event().wait(2 * self._silence)
            raise

    def _wait(self, number: int, senders: int) -> dict[int, Message]:
        """The messages of an exchange, when all of them have come."""
        with self._changed:
            while len(self._arrived.get(number, ())) < senders:
                self._changed.wait(0.5)  # so that Ctrl-C gets through
                gone = [other for other, one in self._connections.items() if one.has_left]
                if any(other not in self._arrived.get(number, ()) for other in gone):
                    time.sleep(SAME_END)  # a failure ends this process before
                    raise RuntimeError(f"{_name(gone)} of {self.count} has left already")
            return self._arrived.pop(number)

    def _listen(self, other: int, connection: _Connection) -> None:
        """A thread for each connection."""
        while True:
            try:
                message = connection.receive()
            except (OSError, ValueError):
                if not (connection.has_left or self._is_closed):
                    self._report(Failure(other, self._describe_loss(other), LOST, is_lost=True))
                return
            if "exchange" in message:
                with self._changed:
                    self._arrived.setdefault(message["exchange"], {})[other] = message
                    self._changed.notify_all()
            elif "failure" in message:
                connection.has_left = True
                self._report(Failure(**message["failure"]), is_answer=other == 0)
            elif "bye" in message:
                connection.has_left = True

    def _describe_loss(self, other: int) -> str:
        return (
            f"process {other} of {self.count} has ended without a word: it was killed (such as "
            f"for lack of memory), or its machine is gone; {CONTINUES}"
        )

    def _beat(self) -> None:
        """A thread that says that this process is there, and asks whether the others are."""
        while not self._is_closed:
            for other, connection in self._connections.items():
                if connection.has_left:
                    continue
                with suppress(OSError):
                    connection.send({"beat": True})
                silent = time.monotonic() - connection.heard
                if silent > self._silence:
                    line = (
                        f"process {other} of {self.count} has not been heard of for "
                        f"{silent:.0f} seconds (heartbeat-timeout): its machine is gone, or the "
                        f"network is; {CONTINUES}"
                    )
                    self._report(Failure(other, line, LOST, is_lost=True))
                    return
            time.sleep(self._silence / NUM_BEATS)

    def _report(self, failure: Failure, *, is_answer: bool = False) -> None:
        """Hands on the first failure, and what process 0 answers to that of this process."""
        with self._changed:
            if self._is_closed or (self._failure is not None and not is_answer):
                return
            is_new = self._failure is None
            self._failure = failure
        if is_new:
            self.tell(failure)
        self._on_failure(failure)

    def tell(self, failure: Failure) -> None:
        """Tells the others why this process leaves; process 0 passes it on."""
        with self._changed:
            self._failure = self._failure or failure
        for connection in self._connections.values():
            with suppress(OSError):
                connection.send({"failure": asdict(failure)})

    def wait_until_others_left(self, limit: float) -> None:
        """Process 0 goes last: JAX aborts whoever loses the coordinator."""
        deadline = time.monotonic() + limit
        for connection in self._connections.values():
            # a listening thread ends the connection; here only its end is waited for
            while time.monotonic() < deadline and _is_open(connection.link):
                time.sleep(0.02)

    def close(self) -> None:
        """Says goodbye; the others do not take it for a failure."""
        self._is_closed = True
        for connection in self._connections.values():
            with suppress(OSError):
                connection.send({"bye": True})


def _is_open(link: socket.socket) -> bool:
    """Whether the other side still holds the connection."""
    try:
        return bool(link.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


def end_process(line: str | None, code: int) -> None:
    """Ends this process at once, also while another thread is in compiled code."""
    if line is not None:
        with suppress(OSError):
            os.write(2, f"{line}\n".encode())
    os._exit(code)
