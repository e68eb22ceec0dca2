"""The command line: parses the arguments, runs one command, prints mistakes as one line.

Exit codes: 0 success; 2 a mistake of the user; 75 (EX_TEMPFAIL) a training that was asked to stop,
has saved, and continues when the same command is given again, or a process was lost; 130
interrupted. Several processes that run one command all exit with the same code, and process 0
alone prints.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from importlib.metadata import version
from typing import Any

from cyclopts import App, CycloptsError, Group, Parameter

from adapt_jax.cli.ask import ask
from adapt_jax.cli.compare import compare
from adapt_jax.cli.evaluate import evaluate
from adapt_jax.cli.export import export
from adapt_jax.cli.import_adapter import import_adapter
from adapt_jax.cli.init import init
from adapt_jax.cli.inspect import inspect
from adapt_jax.cli.judge import judge
from adapt_jax.cli.lm_eval import is_harness_installed, lm_eval, run_harness
from adapt_jax.cli.perplexity import perplexity
from adapt_jax.cli.predict import predict
from adapt_jax.cli.pretrain import pretrain
from adapt_jax.cli.preview import preview
from adapt_jax.cli.search import search
from adapt_jax.cli.tune import tune
from adapt_jax.utils import distributed
from adapt_jax.utils.cpu import choose_platform, collect_garbage_less_often
from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.interruption import (
    RESTART_EXIT_CODE,
    STANDARD_ERROR,
    STANDARD_OUTPUT,
    Interrupted,
    interruptible,
)
from adapt_jax.utils.registry import has_entry_points, load_entry_points, load_plugin
from adapt_jax.utils.torch_import import leave_out_torch

__all__ = ["app", "main", "rewrite_overrides", "take_process_options"]

# of several processes, one does the work
ALONE = ("ask", "export", "import", "init", "inspect", "judge", "perplexity", "preview")
# these compute nothing with PyTorch; a plugin might
WITHOUT_TORCH = ("ask", "compare", "evaluate", "predict", "preview", "search", "tune")
HELP = {"--help", "-h", "--version"}
_OPTIONS = distributed.ProcessOptions
MAX_ERROR = 1000  # letters of an error line
ABOUT = """\
How should I adapt a pretrained decoder to my task, and how far does each technique get me?

```
adapt-jax init my_data.csv                # write a task file and a comparison
adapt-jax compare configs/ladder.yaml     # climb the ladder
adapt-jax ask runs/ladder "Jane has 2 apples and buys 3. How many has she?"
adapt-jax tune configs/tune/lora.yaml     # make one adaptation
adapt-jax search configs/search.yaml      # find good demonstrations
adapt-jax evaluate runs/lora configs/tasks/arithmetic.yaml
adapt-jax predict runs/lora questions.jsonl answers.jsonl
adapt-jax judge runs/new runs/old         # is the one better than the other?
adapt-jax export runs/lora exported       # for transformers or PEFT
adapt-jax inspect path/to/model           # memory needed, nothing loaded
```

Your own data: a task file names a CSV or JSONL file and its fields, see configs/tasks and
`adapt-jax compare --help`. `--plugin MODULE` (a module, or a .py file; repeatable, for every
command) loads what you add: methods, votes, sources, parsers, scorers, metrics, trackers, families.

Several hosts run the same command, each once; they find each other on Cloud TPU, GKE, SLURM and
Open MPI, or by `--coordinator HOST:PORT --num-processes N --process-id I`.
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
    "init": init,
    "preview": preview,
    "compare": compare,
    "tune": tune,
    "search": search,
    "evaluate": evaluate,
    "predict": predict,
    "judge": judge,
    "perplexity": perplexity,
    "ask": ask,
    "export": export,
    "import": import_adapter,
    "inspect": inspect,
    "pretrain": pretrain,
    "lm-eval": lm_eval,
}
for order, (name, function) in enumerate(COMMANDS.items()):
    app.command(function, name=name, sort_key=order)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; mistakes of the user become one line."""
    collect_garbage_less_often()
    choose_platform()
    arguments = list(sys.argv[1:] if argv is None else argv)
    everywhere = False
    try:
        arguments, options = take_process_options(arguments)
        asks_help = bool(HELP & set(arguments))
        if arguments[:1] == ["lm-eval"] and (is_harness_installed() or not asks_help):
            return distributed.finish(_run_harness(arguments[1:], options, asks_help))
        tokens, plugins = rewrite_overrides(arguments)
        if tokens[:1] and tokens[0] in COMMANDS and not HELP & set(tokens):
            _start_processes(options)
        _load_plugins(plugins, tokens)
        if tokens[:1] and tokens[0] in WITHOUT_TORCH and not plugins and not has_entry_points():
            leave_out_torch()
        with interruptible():
            _run(tokens)
        return distributed.finish(0)
    except UserError as mistake:
        code, line = 2, str(mistake)
    except CycloptsError as mistake:
        code, line = 2, _describe_usage_error(mistake, arguments)
    except OSError as problem:  # a folder that cannot be written, a full disk, ...
        if problem.strerror is None:
            raise
        place = f"{problem.filename}: " if problem.filename is not None else ""
        code, line = 2, f"{place}{problem.strerror}"
    except SystemExit as stop:  # of a plugin: whatever its code says, the work is not done
        if isinstance(stop.__context__, BrokenPipeError):  # of rich: nobody reads what is printed
            raise
        code, line = 2, f"a plugin or a library ended the command (exit code {stop.code})"
    except Interrupted as stop:
        everywhere = stop.everywhere
        return distributed.finish(RESTART_EXIT_CODE, str(stop), everywhere=everywhere)
    except KeyboardInterrupt:
        line = "interrupted; the same command continues where it stopped"
        return distributed.finish(130, line)
    return distributed.finish(code, f"error: {display_text(line, MAX_ERROR)}")


def _run_harness(
    arguments: Sequence[str], options: distributed.ProcessOptions, asks_help: bool
) -> int:
    """Runs lm-evaluation-harness, which reads its own arguments, and returns its exit code."""
    if not asks_help:
        _start_processes(options)
    load_entry_points()
    with distributed.leave_all_to_main() as is_mine:
        return run_harness(arguments) if is_mine else 0


def _start_processes(options: distributed.ProcessOptions) -> None:
    """Connects to the other processes, where there are any. Only process 0 prints results.

    Compiled code, such as gloo, writes to the file descriptor of standard output itself. That is no
    result, so the descriptor leads to standard error, and Python prints to a copy of the old one.
    """
    before = sys.stdout
    if not distributed.start(options):
        return
    if distributed.is_main_process():
        own, rest = os.dup(STANDARD_OUTPUT), STANDARD_ERROR
    else:
        own = rest = os.open(os.devnull, os.O_WRONLY)
    sys.stdout = open(  # noqa: SIM115 (until the process ends)
        own, "w", buffering=1, encoding=before.encoding, errors=before.errors
    )
    os.dup2(rest, STANDARD_OUTPUT)


def _run(tokens: Sequence[str]) -> None:
    """Runs the command; one that needs a single process leaves the others waiting."""
    if tokens[:1] and tokens[0] in ALONE and not HELP & set(tokens):
        with distributed.leave_all_to_main() as is_mine:
            if not is_mine:
                return
            app(tokens, exit_on_error=False, print_error=False)
        return
    app(tokens or ["--help"], exit_on_error=False, print_error=False)


def _split_values(
    arguments: Sequence[str], is_taken: Callable[[str], bool]
) -> Iterator[tuple[str, str | None]]:
    """Yields (name, value) of each taken option, and (argument, None) of the rest.

    A value is the next argument, or follows an equals sign. What follows ``--`` is never taken.

    Raises:
        UserError: a taken option lacks its value.
    """
    rest = iter(arguments)
    for token in rest:
        name, equals, value = token.partition("=")
        if token == "--":
            yield token, None
            yield from ((one, None) for one in rest)
        elif not is_taken(name):
            yield token, None
        elif equals:
            yield name, value
        elif (following := next(rest, None)) is not None:
            yield name, following
        else:
            raise UserError(f"{name} lacks its value")


def take_process_options(
    arguments: Sequence[str],
) -> tuple[list[str], distributed.ProcessOptions]:
    """Takes out the options that say how several processes find each other.

    Raises:
        UserError: one lacks its value, or has one of another kind.
    """
    names = {f"--{one.name.replace('_', '-')}": one.name for one in fields(_OPTIONS)}
    others: list[str] = []
    given: dict[str, Any] = {}
    for token, value in _split_values(arguments, names.__contains__):
        if value is None:
            others.append(token)
        else:
            given[names[token]] = value
    return others, distributed.ProcessOptions(**given)


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
    is_taken = lambda name: name == "--plugin" or (name.startswith("--") and "." in name)  # noqa: E731
    for token, value in _split_values(arguments, is_taken):
        if value is None:
            tokens.append(token)
        elif token == "--plugin":
            plugins.append(value)
        else:
            tokens.append(f"--set={token[2:]}={value}")
    return tokens, plugins


def _load_plugins(plugins: Sequence[str], tokens: Sequence[str]) -> None:
    """Loads what the user and installed distributions register; not for --help and --version."""
    for plugin in plugins:
        load_plugin(plugin)
    if tokens and not HELP & set(tokens):
        load_entry_points()


def _describe_usage_error(mistake: CycloptsError, arguments: Sequence[str]) -> str:
    """The mistake in the arguments, and where the right ones are listed."""
    command = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    help_command = " ".join(filter(None, ("adapt-jax", command, "--help")))
    return f"{' '.join(str(mistake).split())} (see {help_command})"
