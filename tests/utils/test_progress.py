"""Progress: the time left is that of the work; compiling is named, and left out of it."""

import io
import time

import jax
import pytest
from rich.console import Console

from adapt_jax.utils import progress
from adapt_jax.utils.compilations import Stopwatch, _CompileClock, compile_seconds
from adapt_jax.utils.progress import Display, Pace


class Clock:
    """A time that the test sets, and how much of it went into compiling."""

    def __init__(self, monkeypatch):
        self.now, self.compiled = 100.0, 0.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(progress, "compile_seconds", lambda: self.compiled)

    def work(self, seconds):
        self.now += seconds

    def compile(self, seconds):
        self.now += seconds
        self.compiled += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def lines(monkeypatch):
    printed = []
    monkeypatch.setattr(Display, "line", lambda self, text: printed.append(text.strip()))
    return printed


def test_the_time_left_is_that_of_the_work_without_compiling(clock, lines):
    update = Display()._make_plain_updates("adapting")
    clock.work(40)  # reading the data, say
    update(0, 100, "compiling the training step")
    clock.compile(600)
    clock.work(2)
    update(1, 100, "loss 3.0")
    clock.work(18)
    update(10, 100, "loss 2.0")
    assert lines == [
        "adapting 0/100, compiling the training step",
        "adapting 1/100, loss 3.0, 3:18 left",
        "adapting 10/100, loss 2.0, 3:00 left",
    ]


def test_what_an_earlier_run_did_says_nothing_about_the_pace(clock, lines):
    update = Display()._make_plain_updates("answering")
    update(10, 40)
    clock.work(120)
    update(20, 40, "5 tokens/s")
    clock.work(5)
    update(21, 40, "5 tokens/s")  # too soon for another line
    assert lines == ["answering 20/40, 5 tokens/s, 4:00 left"]


def test_the_pace_of_answering_leaves_compiling_out(clock):
    seen = []
    pace = Pace(lambda *update: seen.append(update), 2, 4)
    clock.compile(95)
    clock.work(2)
    pace.count_tokens(1, 50)
    pace.count_answer()
    pace.count_answer()
    assert seen == [
        (2, 4, "compiling"),
        (2, 4, "25 tokens/s"),
        (3, 4, "25 tokens/s"),
        (4, 4, "25 tokens/s"),
    ]
    Pace(lambda *update: seen.append(update), 4, 4)
    assert seen[-1] == (4, 4, "")  # nothing to answer, nothing to compile


def test_spans_within_a_span_count_once():
    clock = _CompileClock()
    clock.record("/jax/core/compile/jaxpr_trace_duration", 0.001)
    clock.record("/jax/other", 1000.0)
    assert clock.seconds() == pytest.approx(0.001)
    clock.record("/jax/core/compile/jaxpr_trace_duration", 0.001)
    assert clock.seconds() < 0.003
    clock.record("/jax/core/compile/backend_compile_duration", 5.0)  # began before the others
    assert clock.seconds() == pytest.approx(5.0)


def test_compiling_is_measured_and_running_is_not():
    before = compile_seconds()
    function = jax.jit(lambda x: x * 3 + time.monotonic())
    function(1.0)
    compiled = compile_seconds()
    assert compiled > before
    function(2.0)
    assert compile_seconds() == compiled


def test_a_stopwatch_measures_each_piece_of_work_without_compiling():
    stopwatch = Stopwatch()
    began = time.perf_counter()
    jax.jit(lambda x: x * 5 + time.monotonic())(1.0)
    compiling = time.perf_counter() - began
    time.sleep(0.1)
    assert 0.1 <= stopwatch.read_seconds() < 0.1 + compiling
    assert stopwatch.read_seconds() < 0.1  # nothing was done since


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, highlight=False)


def test_what_has_not_come_further_is_compiling(clock):
    console = Console(file=io.StringIO(), width=80)
    with Display(True, console).stage("lora: adapting") as update:
        clock.work(20)
        update(0, 120)
    assert console.file.getvalue() == "  lora: adapting 0/120, compiling\n"


def test_a_live_line_fits_into_80_columns():
    console = terminal()
    with Display(True, console).stage("instruction_tuning: answering") as update:
        update(0, 100_000)
        update(99_998, 100_000, "123,456 tokens/s")
    shown = console.file.getvalue()
    assert "instruction_tuning: answering" in shown and "99998/100000" in shown
    assert "123,456 tokens/s" in shown and "0:00 left" in shown and "…" not in shown


def test_a_table_grows_in_place_with_the_bars_below_it():
    console, rows = terminal(), []
    display = Display(True, console)
    with display.live(lambda: "\n".join(rows) or "no row yet") as draw:
        draw()
        assert display.is_live
        rows.append("first row")
        with display.stage("second") as update:
            update(1, 2)
            draw()
        display.line("[red]a line\x1b[2J")
    shown = console.file.getvalue()
    assert "no row yet" in shown and "first row" in shown and "second" in shown
    assert r"[red]a line\x1b[2J" in shown and not display.is_live


def test_without_a_terminal_no_table_is_drawn():
    console = Console(file=io.StringIO(), width=80)
    display = Display(True, console)
    with display.live(lambda: "table") as draw:
        draw()
        display.line("a row")
    assert console.file.getvalue() == "a row\n"
    with Display(False, console).stage("quiet") as update:
        update(1, 2)
    assert console.file.getvalue() == "a row\n"
