"""Asked to stop: acknowledged at once, also while the main thread is in compiled code."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from adapt_jax.utils import distributed, interruption, preemption
from adapt_jax.utils.interruption import (
    Interrupted,
    agree_to_stop,
    interruptible,
    listen_for_stop,
)


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    """As in a terminal; a shell lets what it starts in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send_after(seconds, number):
    timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
    timer.start()
    return timer


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_acknowledged_while_compiled_code_runs(monkeypatch, number):
    acknowledged = []
    monkeypatch.setattr(
        interruption, "_write_error", lambda _: acknowledged.append(time.monotonic())
    )
    handler, wakeup = signal.getsignal(number), signal.set_wakeup_fd(-1)
    with listen_for_stop() as requested:
        timer = send_after(0.2, number)
        began = time.monotonic()
        # Releases the interpreter and returns to it after about two seconds, as a step does.
        while time.monotonic() - began < 1.0:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000)
        returned = time.monotonic()
        assert requested() == number.name
        timer.join()
    assert len(acknowledged) == 1 and acknowledged[0] < returned - 0.2
    assert signal.getsignal(number) == handler and signal.set_wakeup_fd(wakeup) == -1


def test_what_is_printed_says_what_happens_now_and_how_to_stop_at_once(capfd):
    with listen_for_stop() as requested:
        assert requested() is None
        os.kill(os.getpid(), signal.SIGINT)
        assert requested() == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err == (
        "\ninterrupted: saving after this step; the same command continues from there. "
        "Ctrl-C again stops without saving.\n"
    )


@pytest.mark.parametrize(
    "number, kind", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Interrupted)]
)
def test_an_end_that_takes_long_is_acknowledged_and_a_quick_one_is_not(capfd, number, kind):
    with pytest.raises(kind), interruptible():
        os.kill(os.getpid(), number)
        time.sleep(1)
    assert capfd.readouterr().err == ""
    with pytest.raises(kind), interruptible():
        timer = send_after(0.05, number)
        began = time.monotonic()
        while time.monotonic() - began < 10:  # compiled code, as above; it ends by the signal
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2_500_000)
    timer.join()
    assert capfd.readouterr().err == interruption.ENDING


def test_a_library_that_catches_every_exception_does_not_swallow_the_request():
    with pytest.raises(Interrupted), interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except Exception:  # as jax does around its compilation cache
            pass


BUSY = """
import hashlib
from adapt_jax.utils.interruption import end_at_once
with end_at_once():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000_000)  # minutes without the interpreter
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_work_that_writes_nothing_ends_at_once(number):
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(number)
        assert process.wait(10) == 128 + number
    finally:
        process.kill()


def test_outside_of_the_main_thread_nothing_is_installed():
    handler, found = signal.getsignal(signal.SIGINT), []

    def listen():
        with listen_for_stop() as requested:
            found.append((requested(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [(None, handler)]


def test_a_second_stop_is_agreed_on_without_jax_which_finds_one_step_only(monkeypatch):
    monkeypatch.setattr(distributed, "num_processes", lambda: 2)
    monkeypatch.setattr(preemption._state, "was_preempted", True)
    answers = iter([[None, None], [None, "SIGTERM"]])
    monkeypatch.setattr(distributed, "gather", lambda name, value: next(answers))
    assert agree_to_stop(lambda: None) is None
    assert agree_to_stop(lambda: None) == "SIGTERM"


def test_a_request_whose_notice_jax_loses_is_heard_a_few_steps_later(monkeypatch):
    monkeypatch.setattr(distributed, "num_processes", lambda: 2)
    calls = iter(range(1, 100))
    monkeypatch.setattr(preemption, "reached_preemption", lambda: False)
    monkeypatch.setattr(preemption, "count_stop_requests", lambda: next(calls))
    monkeypatch.setattr(distributed, "gather", lambda name, value: [value, "SIGTERM"])
    answers = [agree_to_stop(lambda: None) for _ in range(interruption.ASK_EVERY)]
    assert answers == [None] * (interruption.ASK_EVERY - 1) + ["SIGTERM"]
