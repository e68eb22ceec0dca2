"""Live progress: bars in a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

OnProgress = Callable[..., None]  # (questions done, questions in all, note)
Update = Callable[..., None]  # (done, total, note=""): how far a stage has come
WIDE = 124  # columns of a table that goes into a file, where no terminal sets the width
EVERY = 15.0  # seconds between two plain lines of progress


def new_console() -> Console:
    """Standard output; wide enough for the table where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


class Display:
    """Live bars in a terminal, a plain line now and then elsewhere, nothing when not ``shown``."""

    def __init__(self, shown: bool = True, console: Console | None = None):
        self.shown, self.console = shown, console or new_console()

    def line(self, text: str) -> None:
        """Says something that stays."""
        if self.shown:
            self.console.print(text, markup=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[Update]:
        """Yields ``update(done, total, note="")`` for the time that a piece of work takes."""
        if not self.shown:
            yield lambda done, total, note="": None
        elif self.console.is_terminal:
            columns = (
                TextColumn("{task.description:<32}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            with Progress(*columns, console=self.console, transient=True) as bars:
                bar = bars.add_task(name, total=None, note="")
                yield lambda done, total, note="": bars.update(
                    bar, completed=done, total=total, note=note
                )
        else:
            yield self.plain(name)

    def plain(self, name: str) -> Update:
        """Prints at most one line every EVERY seconds, with the time left by the pace so far."""
        last = began = time.monotonic()
        first: int | None = None  # what an earlier run has done says nothing about the pace

        def update(done: int, total: int, note: str = "") -> None:
            nonlocal last, first
            first = done if first is None else first
            now = time.monotonic()
            if now - last >= EVERY:
                last = now
                parts = [f"{done}/{total}", note]
                if done > first:
                    left = round((now - began) * (total - done) / (done - first))
                    parts.append(f"{left // 60}:{left % 60:02d} left")
                self.line(f"  {name} " + ", ".join(filter(None, parts)))

        return update


class Pace:
    """Tells how many questions are answered, and how many tokens a second are written."""

    def __init__(self, on_progress: OnProgress | None, done: int, total: int):
        self.on_progress, self.done, self.total = on_progress, done, total
        self.began, self.written = time.monotonic(), 0
        self.tell()

    def tokens(self, candidates: int, tokens: int) -> None:
        """So many have been written since the beginning."""
        self.written = tokens
        self.tell()

    def answered(self) -> None:
        """One more question is."""
        self.done += 1
        self.tell()

    def tell(self) -> None:
        if self.on_progress is not None:
            rate = self.written / max(time.monotonic() - self.began, 1e-9)
            note = f"{rate:,.0f} tokens/s" if self.written else ""
            self.on_progress(self.done, self.total, note)
