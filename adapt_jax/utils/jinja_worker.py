"""The program that renders Jinja templates, in a process of its own with bounds on time and memory.

A template is a program out of a foreign file: it may never end, or ask for all memory.
``jinja_text.py`` starts this file as a script. It reads one JSON request per line and writes one
JSON reply per line, and imports jinja2 alone, so that it starts in a tenth of a second.

Chat templates get the environment of transformers (5.24, utils/chat_template_utils.py), except for
``strftime_now``: the date is part of the request. Templates of tasks get that of
lm-evaluation-harness (0.4, utils.py): line breaks stay as they are written, and a name without a
value is an error. Nothing is escaped for HTML.
"""

import json
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["main"]

MAX_MEMORY = 1 << 30  # bytes of address space of this process
MAX_CHARACTERS = 10_000_000  # of one rendered text


class GenerationBlock(jinja2.ext.Extension):
    """``{% generation %}``: marks what the assistant says, and changes no text."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        """The statements inside of the block, in a scope of their own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class TemplateDict:
    """``dict`` inside of a template: it makes dictionaries, and leads to no attribute of a type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """As ``dict.fromkeys``."""
        return dict.fromkeys(*args, **kwargs)


class TemplateNamespace(jinja2.utils.Namespace):
    """``namespace`` inside of a template, without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # no parameter is named self, so that a template may set an attribute of that name
        self, args = args[0], args[1:]
        values = dict(*args, **kwargs)
        for name in values:
            TemplateNamespace._check(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        TemplateNamespace._check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def _check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"namespace: {name!r} begins with an underscore")


def raise_exception(message: str) -> None:
    """The function that templates call to refuse a conversation."""
    raise jinja2.TemplateError(message)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """The filter ``tojson`` without the escapes for HTML that jinja2's own makes."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@lru_cache(maxsize=2)
def make_environment(is_chat: bool) -> ImmutableSandboxedEnvironment:
    """The environment of chat templates, or that of a task's templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=is_chat,
        lstrip_blocks=is_chat,
        keep_trailing_newline=not is_chat,
        undefined=jinja2.Undefined if is_chat else jinja2.StrictUndefined,
        extensions=[GenerationBlock, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["dict"] = TemplateDict()
    environment.globals["namespace"] = TemplateNamespace
    return environment


@lru_cache(maxsize=256)
def compile_template(template: str, is_chat: bool) -> jinja2.Template:
    """The template, ready to be rendered."""
    return make_environment(is_chat).from_string(template)


def render(template: str, variables: Mapping[str, Any], date: str, is_chat: bool) -> str:
    """The text that the template writes.

    Args:
        date: ISO date, or date and time, that ``strftime_now`` formats.
    """
    moment = datetime.fromisoformat(date)
    strftime_now: Callable[[str], str] = moment.strftime
    pieces, length = [], 0
    compiled = compile_template(template, is_chat)
    # the template's blocks come one by one, so that a text without end is not held whole
    for piece in compiled.generate({"strftime_now": strftime_now, **variables}):
        pieces.append(piece)
        length += len(piece)
        if length > MAX_CHARACTERS:
            raise ValueError(f"it writes more than {MAX_CHARACTERS:,} characters")
    return "".join(pieces)


def list_names(template: str) -> list[str]:
    """The names that a template reads and does not set itself."""
    environment = make_environment(is_chat=False)
    compile_template(template, False)  # finds mistakes that parsing alone does not
    return sorted(meta.find_undeclared_variables(environment.parse(template)))


def reply(request: Mapping[str, Any]) -> dict[str, Any]:
    """The reply to a request that does not fail."""
    template, is_chat = request["template"], request["is_chat"]
    if request["lists_names"]:
        return {"names": list_names(template)}
    return {"text": render(template, request["variables"], request["date"], is_chat)}


def answer(line: str) -> dict[str, Any]:
    """The reply to one line: ``text`` or ``names``, or ``refusal``, which says why not."""
    request = json.loads(line)
    # past a limit the system ends this process, whatever it does; the parent says why
    signal.setitimer(signal.ITIMER_PROF, request["max_cpu_seconds"])
    signal.setitimer(signal.ITIMER_REAL, request["max_clock_seconds"])
    try:
        return reply(request)
    except MemoryError:
        return {"refusal": f"it asks for more than {MAX_MEMORY >> 30} GiB of memory"}
    except RecursionError:
        return {"refusal": "it calls itself without end"}
    except Exception as error:  # a template can raise anything
        return {"refusal": " ".join(str(error).split())[:300] or type(error).__name__}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> None:
    """Answers requests until standard input ends."""
    for number in (signal.SIGPROF, signal.SIGALRM):  # the parent may ignore them
        signal.signal(number, signal.SIG_DFL)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    except (OSError, ValueError):  # a system without this limit, such as macOS
        pass
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(line)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
