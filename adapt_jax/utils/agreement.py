"""What several processes agree on before they act: settings, folders, and the work of process 0."""

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from adapt_jax.utils.distributed import from_main, gather, is_main_process, num_processes
from adapt_jax.utils.errors import UserError

__all__ = ["agree", "check_shared_folder", "on_main", "run_on_main"]

T = TypeVar("T")
MAX_SHOWN = 60  # letters of a value in a message
MAX_NAMED = 3  # keys in a message


def agree(name: str, values: Mapping[str, Any]) -> None:
    """Compares plain values by their keys.

    Raises:
        UserError: a process has another value than process 0; the keys are named.
    """
    if num_processes() == 1:
        return
    first, *others = gather(name, _flatten(values))
    for index, theirs in enumerate(others, 1):
        keys = [key for key in sorted(first.keys() | theirs.keys()) if _differ(key, theirs, first)]
        shown = [
            f"{key} is {_shorten(theirs.get(key))} in process {index}, "
            f"{_shorten(first.get(key))} in process 0"
            for key in keys[:MAX_NAMED]
        ]
        if len(keys) > MAX_NAMED:
            shown.append(f"and {len(keys) - MAX_NAMED} more keys")
        if keys:
            raise UserError(
                f"the processes were started with different {name}s: {'; '.join(shown)}"
            )


def _differ(key: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(one.get(key) != other.get(key))


def _flatten(nested: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}, plain JSON."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            found |= _flatten(value, f"{path}{key}.")
        else:
            found[path + key] = json.loads(json.dumps(value, default=str))
    return found


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def run_on_main(name: str, function: Callable[[], T]) -> T:
    """Runs a function on process 0, and gives what it returns (plain JSON) to all processes.

    Raises:
        UserError: the one that it raised, in all processes.
    """
    if num_processes() == 1:
        return function()
    found: Any = None
    if is_main_process():
        try:
            found = {"value": function()}
        except UserError as mistake:
            found = {"mistake": str(mistake)}
    found = from_main(name, found)
    if "mistake" in found:
        raise UserError(found["mistake"])
    return found["value"]  # type: ignore[no-any-return]


@contextmanager
def on_main(name: str, manager: Callable[[], Any]) -> Iterator[None]:
    """Enters a context manager on process 0 alone, such as a lock that it holds for all.

    Raises:
        UserError: entering it failed, in all processes.
    """
    entered = None

    def enter() -> None:
        nonlocal entered
        entered = manager()
        entered.__enter__()

    run_on_main(name, enter)
    try:
        yield
    except BaseException:
        if entered is not None and not entered.__exit__(*sys.exc_info()):
            raise
        if entered is None:
            raise
    else:
        if entered is not None:
            entered.__exit__(None, None, None)


def check_shared_folder(folder: Path) -> None:
    """Checks that all processes see the same folder.

    Raises:
        UserError: a process does not see what process 0 writes there.
    """
    if num_processes() == 1:
        return
    token = secrets.token_hex(8)
    file = folder / f".adapt_jax-shared-{token}"

    def write() -> str:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(token)
        return file.name

    name = run_on_main("shared folder", write)
    sees = _appears(folder / name)
    blind = [index for index, one in enumerate(gather("sees the folder", sees)) if not one]
    if is_main_process():
        file.unlink(missing_ok=True)
    if blind:
        raise UserError(
            f"{folder}: process {blind[0]} does not see what process 0 writes there; several "
            "processes need one folder that all of them share, such as a network file system or "
            "a mounted bucket"
        )


def _appears(file: Path) -> bool:
    """Whether a file is there; a network file system may show it a little later."""
    for _ in range(10):
        if file.exists():
            return True
        with suppress(OSError):
            os.listdir(file.parent)  # has a network file system look anew
        time.sleep(0.2)
    return False
