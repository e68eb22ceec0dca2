"""The command line: parses the arguments, runs one command, prints mistakes as one line.

Exit codes: 0 success; 2 a mistake of the user; 75 (EX_TEMPFAIL) a training that was asked to stop,
has saved, and continues when the same command is given again; 130 interrupted.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError, Group, Parameter

from adapt_jax.cli.ask import ask
from adapt_jax.cli.compare import compare
from adapt_jax.cli.evaluate import evaluate
from adapt_jax.cli.export import export
from adapt_jax.cli.import_adapter import import_adapter
from adapt_jax.cli.inspect import inspect
from adapt_jax.cli.predict import predict
from adapt_jax.cli.pretrain import pretrain
from adapt_jax.cli.tune import tune
from adapt_jax.utils.cpu import choose_platform
from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.interruption import RESTART_EXIT_CODE, Interrupted, interruptible
from adapt_jax.utils.registry import load_entry_points, load_plugin

__all__ = ["app", "main", "rewrite_overrides"]

MAX_ERROR = 1000  # letters of an error line
ABOUT = """\
How should I adapt a pretrained decoder to my task, and how far does each technique get me?

```
adapt-jax compare configs/ladder.yaml     # climb the ladder
adapt-jax ask runs/ladder "Jane has 2 apples and buys 3. How many has she?"
adapt-jax tune configs/tune/lora.yaml     # make one adaptation
adapt-jax evaluate runs/lora configs/tasks/arithmetic.yaml
adapt-jax predict runs/lora questions.jsonl answers.jsonl
adapt-jax export runs/lora exported       # for transformers or PEFT
adapt-jax inspect path/to/model           # memory needed, nothing loaded
```

Your own data: a task file names a CSV or JSONL file and its fields, see configs/tasks and
`adapt-jax compare --help`. `--plugin MODULE` (a module, or a .py file; repeatable, for every
command) loads what you add: methods, votes, sources, parsers, scorers, metrics, trackers, families.
"""

app = App(
    name="adapt-jax",
    help=ABOUT,
    help_format="markdown",
    version=lambda: f"adapt-jax {version('adapt-jax')}",
    version_flags=["--version"],
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    # a flag has one spelling: --quiet has no --no-quiet, a list no --empty-list
    default_parameter=Parameter(negative=()),
    group_parameters=Group("Options"),
)
COMMANDS: dict[str, Callable[..., None]] = {
    "compare": compare,
    "tune": tune,
    "evaluate": evaluate,
    "predict": predict,
    "ask": ask,
    "export": export,
    "import": import_adapter,
    "inspect": inspect,
    "pretrain": pretrain,
}
for order, (name, function) in enumerate(COMMANDS.items()):
    app.command(function, name=name, sort_key=order)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; mistakes of the user become one line."""
    choose_platform()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        tokens, plugins = rewrite_overrides(arguments)
        _load_plugins(plugins, tokens)
        with interruptible():
            app(tokens or ["--help"], exit_on_error=False, print_error=False)
        return 0
    except UserError as mistake:
        _print_error(str(mistake))
    except CycloptsError as mistake:
        _print_error(_describe_usage_error(mistake, arguments))
    except OSError as problem:  # a folder that cannot be written, a full disk, ...
        if problem.strerror is None:
            raise
        place = f"{problem.filename}: " if problem.filename is not None else ""
        _print_error(f"{place}{problem.strerror}")
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return RESTART_EXIT_CODE
    except KeyboardInterrupt:
        print("interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
    return 2


def rewrite_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Rewrites ``--a.b value`` and ``--a.b=value`` to ``--set=a.b=value``; takes out ``--plugin``.

    An option whose name holds a dot overrides a key of a configuration; no other option has one.
    What follows ``--`` is left as it is.

    Returns:
        the arguments for the parser, and the plugins.

    Raises:
        UserError: an option lacks its value.
    """
    tokens: list[str] = []
    plugins: list[str] = []
    rest = list(arguments)
    while rest:
        token = rest.pop(0)
        if token == "--":
            return [*tokens, token, *rest], plugins
        name, equals, value = token.partition("=")
        if not (name.startswith("--") and ("." in name or name == "--plugin")):
            tokens.append(token)
            continue
        if not equals:
            if not rest:
                raise UserError(f"{name} lacks its value")
            value = rest.pop(0)
        if name == "--plugin":
            plugins.append(value)
        else:
            tokens.append(f"--set={name[2:]}={value}")
    return tokens, plugins


def _load_plugins(plugins: Sequence[str], tokens: Sequence[str]) -> None:
    """Loads what the user and installed distributions register; not for --help and --version."""
    for plugin in plugins:
        load_plugin(plugin)
    if tokens and not {"--help", "-h", "--version"} & set(tokens):
        load_entry_points()


def _describe_usage_error(mistake: CycloptsError, arguments: Sequence[str]) -> str:
    """The mistake in the arguments, and where the right ones are listed."""
    command = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    help_command = " ".join(filter(None, ("adapt-jax", command, "--help")))
    return f"{' '.join(str(mistake).split())} (see {help_command})"


def _print_error(message: str) -> None:
    print(f"error: {display_text(message, MAX_ERROR)}", file=sys.stderr)
