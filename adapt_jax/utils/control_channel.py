"""What several processes tell each other besides arrays: one connection from each to process 0.

JAX moves arrays between processes. It has no word for a plain value, a mistake or a process that
was killed: the others wait in a collective, or are aborted. So each process also holds a TCP
connection to process 0, made before JAX starts, on the coordinator's own port. It tells who has
not come, carries plain values (JSON), and closes at once when a process is killed.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from adapt_jax.utils.process_meeting import Connection, Message, name_processes

__all__ = ["CONTINUES", "LOST", "ControlChannel", "Failure", "end_process"]

LOST = 75  # exit code where a process was lost: the same command may be started again
NUM_BEATS = 5  # that are sent in the time after which a silent process counts as dead
CONTINUES = "all processes leave, and the same command continues"
SAME_END = 10.0  # seconds


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


class ControlChannel:
    """The connections of this process, and the threads that listen on them.

    ``on_failure`` is called, in a thread, when another process fails, is killed, or has not been
    heard of for ``silence`` seconds. Process 0 has told the others before.

    Besides exchanges, which all processes take part in, a process may send process 0 a note.
    """

    def __init__(
        self,
        connections: dict[int, Connection],
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
        self._readers: dict[str, Callable[[Any], None]] = {}  # of notes, by topic
        self._unread: dict[str, list[Any]] = {}
        self._reading = threading.Lock()
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
                    raise RuntimeError(f"{name_processes(gone)} of {self.count} has left already")
            return self._arrived.pop(number)

    def _listen(self, other: int, connection: Connection) -> None:
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
            elif "note" in message:
                self._take_note(message["note"], message["content"])
            elif "failure" in message:
                connection.has_left = True
                self._report(Failure(**message["failure"]), is_answer=other == 0)
            elif "bye" in message:
                connection.has_left = True

    def send_note(self, topic: str, content: Any) -> None:
        """Sends a plain value to process 0, which need not wait for it."""
        self._send(0, {"note": topic, "content": content})

    def read_notes(self, topic: str, read: Callable[[Any], None] | None) -> None:
        """Process 0: calls ``read`` with each note, in a thread; those that have come first.

        The notes of a process are read in its order, and before its next exchange. None ends it.
        """
        with self._reading:
            if read is None:
                self._readers.pop(topic, None)
                return
            self._readers[topic] = read
            for content in self._unread.pop(topic, ()):
                read(content)

    def _take_note(self, topic: str, content: Any) -> None:
        with self._reading:
            if (read := self._readers.get(topic)) is None:
                self._unread.setdefault(topic, []).append(content)
            else:
                read(content)

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
