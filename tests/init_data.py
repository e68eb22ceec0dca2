"""Invented data for the tests of init."""

import csv
import io
import json
import random
from pathlib import Path
from typing import Any


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(rows: list[list[Any]], delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


def draw(choices: str, count: int = 60) -> list[str]:
    rng = random.Random(0)
    return [rng.choice(choices.split()) for _ in range(count)]


TICKETS = [
    [
        "Ticket ID",
        "Customer Name",
        "Ticket Subject",
        "Ticket Description",
        "Ticket Type",
        "Ticket Status",
    ],
    *(
        [n, "Ada", kind, f'Hello,\nmy case {n} is "{kind}".', f"{kind} request", "Open"]
        for n, kind in enumerate(draw("refund technical billing"))
    ),
]


def write_tickets(folder: Path) -> str:
    (folder / "tickets.csv").write_text(table(TICKETS), newline="")
    return str(folder / "tickets.csv")
