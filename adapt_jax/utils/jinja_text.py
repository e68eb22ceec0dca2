"""Jinja templates of foreign files: rendered in a sandbox, bounded in time, memory and length.

The work is done by ``jinja_worker.py`` in a process of its own, which starts with the first
template and is kept.
"""

import atexit
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["DEFAULT_DATE", "TemplateRefusal", "list_names", "render_template"]

DEFAULT_DATE = "2025-01-01"  # what templates take for today, so that prompts do not change
MAX_CPU_SECONDS = 2.0  # of one rendering
MAX_CLOCK_SECONDS = 60.0  # of one rendering, on the clock
WORKER = Path(__file__).with_name("jinja_worker.py")  # not imported: jinja2 takes time to import


class TemplateRefusal(Exception):
    """A template raised an error, or did not end; then ``is_final``: no other form is tried."""

    def __init__(self, reason: str, is_final: bool = False):
        super().__init__(reason)
        self.is_final = is_final


def render_template(
    template: str,
    variables: Mapping[str, Any],
    *,
    date: str = DEFAULT_DATE,
    is_chat: bool = False,
) -> str:
    """The text that a template writes. Nothing is escaped for HTML.

    Args:
        variables: by name, as JSON data.
        date: an ISO date, of which ``strftime_now`` makes texts.
        is_chat: whether it is a chat template. Then a name without a value is empty and the line
            break after a block is dropped; otherwise the one is refused and the other stays.

    Raises:
        TemplateRefusal: an error of the template, or a limit that it passed.
    """
    request = {"template": template, "variables": dict(variables), "date": date}
    reply = _WORKER.ask(request | {"is_chat": is_chat, "lists_names": False})
    return str(reply["text"])


@lru_cache(maxsize=1024)
def list_names(template: str) -> frozenset[str]:
    """The names that a template of a task reads and does not set itself.

    Raises:
        TemplateRefusal: it is no template.
    """
    reply = _WORKER.ask({"template": template, "is_chat": False, "lists_names": True})
    return frozenset(reply["names"])


class _Worker:
    """The process that renders templates; it starts with the first template."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.lock = threading.Lock()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to a request.

        Raises:
            TemplateRefusal: an error of the template, or a limit that it passed.
        """
        limits = {"max_cpu_seconds": MAX_CPU_SECONDS, "max_clock_seconds": MAX_CLOCK_SECONDS}
        with self.lock:
            reply = self._exchange(json.dumps({**request, **limits}))
        if "refusal" in reply:
            raise TemplateRefusal(reply["refusal"])
        return reply

    def _exchange(self, line: str) -> dict[str, Any]:
        process = self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            reply = process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        except BaseException:  # interrupted: the next request must not read this reply
            self.stop()
            raise
        if reply.endswith("\n"):
            return dict(json.loads(reply))
        self.stop()
        reasons = {
            -signal.SIGPROF: f"it does not end within {MAX_CPU_SECONDS:g} seconds",
            -signal.SIGALRM: f"it does not end within {MAX_CLOCK_SECONDS:g} seconds",
        }
        code = process.returncode
        reason = reasons.get(code, f"the process that renders it ended with code {code}")
        raise TemplateRefusal(reason, is_final=True)

    def _start(self) -> "subprocess.Popen[str]":
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="ascii",
                start_new_session=True,  # Ctrl-C is for this process, not for the worker
            )
        return self.process

    def stop(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


_WORKER = _Worker()
atexit.register(_WORKER.stop)
