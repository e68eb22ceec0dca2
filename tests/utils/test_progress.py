"""What a run shows while it works."""

import io

import pytest
from rich.console import Console

from adapt_jax.utils import progress
from adapt_jax.utils.progress import Display, TimeLeft


@pytest.fixture
def clock(monkeypatch):
    """Sets the time."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, highlight=False)


def test_plain_lines_tell_the_pace_and_the_time_left(clock):
    console = Console(file=io.StringIO(), width=80)
    with Display(True, console).stage("answering") as update:
        update(10, 40, "")  # ten were answered before
        clock[0] = 220.0
        update(20, 40, "5 tokens/s")
    assert console.file.getvalue() == "  answering 20/40, 5 tokens/s, 4:00 left\n"


def test_time_left_does_not_count_compilation(clock, monkeypatch):
    compilations = [7.0]
    monkeypatch.setattr(progress, "count_compilations", lambda: compilations)
    left = TimeLeft()
    assert left.estimate(0, 100) == ""
    clock[0] += 95.0
    compilations.append(90.0)  # of the 95 seconds; those before it began do not count
    assert left.estimate(1, 100) == "8:15 left"
    clock[0] += 5.0
    assert left.estimate(10, 100) == "1:30 left"


def test_what_has_not_come_further_is_compiling(clock):
    console = Console(file=io.StringIO(), width=80)
    with Display(True, console).stage("lora: adapting") as update:
        clock[0] += 20
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
