"""Live progress: bars and a growing table in a terminal, a plain line now and then elsewhere.

The time left comes from the pace of the work itself: compiling is named, and left out of it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from adapt_jax.utils.compilations import compile_seconds
from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.distributed import is_main_process

__all__ = ["Display", "OnProgress", "Pace", "new_console"]

OnProgress = Callable[..., None]  # (done, total, note=""): how far a stage has come
FILE_WIDTH = 124  # columns of a table that goes into a file, where no terminal sets the width
LINE_INTERVAL = 15.0  # seconds between two plain lines of progress
BAR_WIDTH = 8  # with all else a live line then fits into 80 columns
MAX_NAME, MAX_NOTE = 30, 16  # letters of a stage's name and note in a live line
COMPILING = "compiling"  # the note of a stage that has not come further yet


def new_console() -> Console:
    """Standard output; wide enough for the table where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=FILE_WIDTH)


class Display:
    """Live bars in a terminal, a plain line now and then elsewhere, nothing when not ``shown``.

    Of several processes the first one shows.
    """

    def __init__(self, shown: bool = True, console: Console | None = None):
        self.shown, self.console = shown and is_main_process(), console or new_console()
        self._live: Live | None = None
        self._table: RenderableType | None = None

    @property
    def is_live(self) -> bool:
        """Whether a growing table is shown."""
        return self._live is not None

    def line(self, text: str) -> None:
        """Prints a line that stays; what a terminal would obey in it is escaped."""
        if self.shown:
            self.console.print(Text("\n".join(map(_display_line, text.split("\n")))))

    @contextmanager
    def live(self, render: Callable[[], RenderableType]) -> Iterator[Callable[[], None]]:
        """Shows a table that grows in place, above the bars, in a terminal; elsewhere nothing.

        It disappears at the end, when the whole table can be printed.

        Args:
            render: makes the table as it is now.

        Yields:
            a function that draws the table again.
        """
        if not (self.shown and self.console.is_terminal):
            yield lambda: None
            return
        with Live(console=self.console, transient=True) as self._live:

            def draw() -> None:
                self._table = render()
                self._show()

            try:
                yield draw
            finally:
                self._live = self._table = None

    def _show(self, bars: Progress | None = None) -> None:
        """Draws the table, and the bars of a stage under it."""
        shown = [part for part in (self._table, bars) if part is not None]
        if self._live is not None:
            self._live.update(Group(*shown), refresh=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[OnProgress]:
        """Yields ``update(done, total, note="")`` for the time that a piece of work takes."""
        if not self.shown:
            yield lambda done, total, note="": None
        elif not self.console.is_terminal:
            yield self._make_plain_updates(name)
        else:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(BAR_WIDTH),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}", markup=False),
                TextColumn("{task.fields[note]}", markup=False),
            )
            bars = Progress(*columns, console=self.console, transient=True)
            bar = bars.add_task(display_text(name, MAX_NAME), total=None, left="", note=COMPILING)
            time_left = _TimeLeft()

            def update(done: int, total: int, note: str = "") -> None:
                left = time_left.estimate(done, total)
                note = display_text(note or COMPILING * (done == time_left.first), MAX_NOTE)
                bars.update(bar, completed=done, total=total, left=left, note=note)

            if self._live is not None:
                self._show(bars)
                try:
                    yield update
                finally:
                    self._show()
            else:
                with bars:
                    yield update

    def _make_plain_updates(self, name: str) -> OnProgress:
        """Prints a first note at once, then at most one line every LINE_INTERVAL seconds."""
        printed_at, has_printed = time.monotonic(), False
        time_left = _TimeLeft()

        def update(done: int, total: int, note: str = "") -> None:
            nonlocal printed_at, has_printed
            left, now = time_left.estimate(done, total), time.monotonic()
            if now - printed_at >= LINE_INTERVAL or (note and not has_printed):
                printed_at, has_printed = now, True
                note = note or COMPILING * (done == time_left.first)
                self.line(f"  {name} " + ", ".join(filter(None, [f"{done}/{total}", note, left])))

        return update


def _display_line(line: str) -> str:
    """The line made safe, with its indentation."""
    text = line.lstrip(" ")
    return " " * (len(line) - len(text)) + display_text(text, None)


class _TimeLeft:
    """Estimates the time left by the pace of the work so far; compiling does not count."""

    def __init__(self) -> None:
        self.first: int | None = None  # done by an earlier run: it says nothing about the pace
        self._began = 0.0

    def estimate(self, done: int, total: int) -> str:
        """The time left, such as "4:00 left"; empty until a second call shows how fast it goes."""
        now = _work_clock()
        if self.first is None:
            self.first, self._began = done, now
        if done <= self.first:
            return ""
        seconds = round((now - self._began) * (total - done) / (done - self.first))
        return f"{seconds // 60}:{seconds % 60:02d} left"


class Pace:
    """Reports how many questions are answered, and how many tokens per second are generated."""

    def __init__(self, on_progress: OnProgress | None, done: int, total: int):
        """``done`` questions of ``total`` have been answered by an earlier run."""
        self._on_progress, self._done, self._total = on_progress, done, total
        self._began, self._tokens = _work_clock(), 0
        self._report(COMPILING if done < total else "")

    def count_tokens(self, candidates: int, tokens: int) -> None:
        """Takes how many tokens were generated since the beginning."""
        self._tokens = tokens
        self._report(self._note())

    def count_answer(self) -> None:
        """Counts one more answered question."""
        self._done += 1
        self._report(self._note())

    def _note(self) -> str:
        if not self._tokens:
            return ""
        return f"{self._tokens / max(_work_clock() - self._began, 1e-9):,.0f} tokens/s"

    def _report(self, note: str) -> None:
        if self._on_progress is not None:
            self._on_progress(self._done, self._total, note)


def _work_clock() -> float:
    """Seconds that pass only while nothing is compiled."""
    return time.monotonic() - compile_seconds()
