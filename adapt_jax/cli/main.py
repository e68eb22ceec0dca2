"""The command line: its commands and options, parsed.

Exit code 0 is success, 2 a mistake of the user, 75 (EX_TEMPFAIL) a training that was asked to stop
and goes on when the same command is given again.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from adapt_jax.cli import commands, inspection
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.interruption import RESTART, Interrupted, interruptible

ABOUT = """\
How should I adapt a pretrained decoder to my task, and how far does each technique get me?

  adapt-jax compare configs/ladder.yaml          climb the ladder; results in runs/ladder
  adapt-jax ask runs/ladder "Jane has 2 apples. She bought 3 more. How many does she have?"
  adapt-jax tune configs/tune/lora.yaml          make one adaptation; it lands in runs/lora
  adapt-jax evaluate runs/lora configs/tasks/arithmetic.yaml
  adapt-jax predict runs/lora questions.jsonl answers.jsonl
  adapt-jax export runs/lora exported            for transformers, or PEFT (--format peft)
  adapt-jax inspect path/to/model                memory and trained parameters, unloaded
"""
OVERRIDES = """\
Any key of the file can be overridden, by its path and with a YAML value:
  --decoder path/to/model --task.seed 7 --task.splits.test 100 --seed 1
"""
COMPARE = f"""\
Climbs the ladder on the test split of a task: every rung adapts the same frozen decoder, answers
the same questions, and is judged against the rung below. Writes into the output folder:
  comparison.json           accuracy, intervals, significance and costs of every rung
  ladder.png                the same as a picture
  predictions/METHOD.jsonl  every question with its candidates, answer and vote
  adaptations/METHOD        the adaptation, to be asked, evaluated, or used from Python
Interrupted at any moment and started again by the same command, it goes on where it stood and ends
with the same files, but for seconds, train_seconds and compilations. Rungs that stand there are
climbed anew only where something they depend on has changed, or with --fresh.

{OVERRIDES}\
  --methods.few_shot.demonstrations 4 --methods.lora null
  --only few_shot,lora      run these rungs and no others
"""
RESTARTS = f"""\
Killed at any moment and started again by the same command, the training goes on from its last
checkpoint and ends as if nothing had been. SIGTERM or Ctrl-C saves first and leaves with exit code
{RESTART}, on which a launcher may start the command again (a second Ctrl-C leaves at once).
Checkpoints come as often as they cost less than 2 % of the time, or every
`training.checkpoint_every` steps."""
TUNE = f"""\
Makes one adaptation, by the rung that `method:` in the file names, and saves it in
OUTPUT-DIR/adaptation. OUTPUT-DIR/training holds the metrics of every step and the checkpoints.

{RESTARTS}

{OVERRIDES}\
  --method.training.steps 500
"""
PRETRAIN = f"""\
Trains every parameter of a decoder on plain text, the files that `corpus:` lists (.txt, or .jsonl
with a "text" on each line), and writes a Hugging Face folder. `decoder:` is a folder to go on from,
or the shape of a new one.

{RESTARTS}
"""
ADAPTATION = "a saved adaptation, or the output folder of tune or compare (its best rung)"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; whatever the user can mend is told in one line."""
    choose_platform()
    try:
        arguments = list(sys.argv[1:] if argv is None else argv)
        known, overrides = split_overrides(arguments)
        options = parser().parse_args(known)
        taking = ("compare", "tune", "evaluate", "pretrain", "inspect")
        if overrides and options.command not in taking:
            raise UserError(f"unknown option --{next(iter(overrides))} of {options.command}")
        with interruptible():
            options.run(options, overrides)
        return 0
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
    except OSError as problem:  # a folder that cannot be written, a file that is a folder, ...
        if problem.filename is None:
            raise
        print(f"error: {problem.filename}: {problem.strerror}", file=sys.stderr)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return RESTART
    except KeyboardInterrupt:
        print(
            "interrupted; compare, evaluate and predict go on when started again", file=sys.stderr
        )
        return 130
    return 2


def choose_platform() -> None:
    """Says CPU where no accelerator is; an installed libtpu would look for its TPU, at length."""
    devices = ("accel[0-9]*", "vfio/[0-9]*", "nvidia[0-9]*", "kfd")
    if sys.platform == "linux" and not any(any(Path("/dev").glob(name)) for name in devices):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # PyTorch is not needed


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line, as everything here does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


class Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, *_: Any) -> NoReturn:
        print(f"adapt-jax {version('adapt-jax')}")
        raise SystemExit(0)


def parser() -> argparse.ArgumentParser:
    """The commands and their own options; everything else is an override."""
    raw = argparse.RawDescriptionHelpFormatter
    top = Parser("adapt-jax", description=ABOUT, formatter_class=raw)
    top.add_argument("--version", action=Version, nargs=0, help="show the version and leave")
    known = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[..., None], summary: str, text: str = ""
    ) -> argparse.ArgumentParser:
        added = known.add_parser(
            name, help=summary, description=text or summary, formatter_class=raw, allow_abbrev=False
        )
        added.set_defaults(run=run)
        return added

    sub = command(
        "compare", commands.run_compare, "climb the ladder: every technique on one task", COMPARE
    )
    sub.add_argument("config", metavar="CONFIG", help="such as configs/ladder.yaml")
    sub.add_argument("--output-dir", metavar="DIR", help="default: runs/NAME-OF-THE-FILE")
    sub.add_argument("--quiet", action="store_true", help="no progress, only the table")
    sub.add_argument("--fresh", action="store_true", help="climb anew what was climbed before")

    sub = command("tune", commands.run_tune, "make one adaptation and save it", TUNE)
    sub.add_argument("config", metavar="CONFIG", help="such as configs/tune/lora.yaml")
    sub.add_argument("--output-dir", metavar="DIR", help="default: runs/NAME-OF-THE-FILE")
    sub.add_argument("--quiet", action="store_true", help="no progress")

    summary = "judge a saved adaptation on the test split of a task"
    sub = command("evaluate", commands.run_evaluate, summary, EVALUATE)
    add_adaptation(sub)
    sub.add_argument("task", metavar="TASK", help="such as configs/tasks/arithmetic.yaml")
    sub.add_argument(
        "--output-dir", metavar="DIR", help="writes evaluation.json, predictions.jsonl"
    )
    add_answering(sub)

    sub = command(
        "predict", commands.run_predict, "answer unlabelled questions in bulk; resumable", PREDICT
    )
    add_adaptation(sub)
    sub.add_argument("input", metavar="IN.jsonl", help='lines such as {"question": "..."}')
    sub.add_argument("output", metavar="OUT.jsonl", help="one answer per line")
    add_answering(sub)

    sub = command("ask", commands.run_ask, "ask one bare question")
    add_adaptation(sub)
    sub.add_argument("question", metavar="QUESTION")
    sub.add_argument("--show-reasoning", action="store_true", help="the reasonings and the votes")
    sub.add_argument("--choice", action="append", default=[], help="an answer to choose; repeat it")
    sub.add_argument("--seed", type=whole(0), default=0, help="of sampled candidates")

    sub = command(
        "export", commands.run_export, "write an adaptation for what others serve", EXPORT
    )
    add_adaptation(sub)
    sub.add_argument("folder", metavar="DIR", help="a new folder")
    sub.add_argument("--format", help="hf (weights) or peft (adapter); default: what it can be")
    sub.add_argument(
        "--dtype", help="of hf weights: float32, bfloat16 or float16; default: the decoder's files'"
    )
    sub.add_argument("--max-shard-size", default="5GB", help="of a file of hf weights")

    sub = command("import", commands.run_import, "make an adaptation of a PEFT adapter")
    sub.add_argument("adapter", metavar="PEFT_FOLDER", help="prompt tuning or LoRA")
    sub.add_argument("folder", metavar="DIR", help="where the adaptation goes")
    sub.add_argument("--decoder", metavar="PATH", help="default: what the adapter names")
    sub.add_argument("--task", help="a task file: how questions are asked and answers read")
    sub.add_argument("--context-length", type=int, help="tokens, where config.json does not say it")

    sub = command("inspect", inspection.run, inspection.SUMMARY, inspection.ABOUT)
    inspection.add_arguments(sub)

    summary = "train a decoder on plain text, from scratch or going on from another"
    sub = command("pretrain", commands.run_pretrain, summary, PRETRAIN)
    sub.add_argument("config", metavar="CONFIG", help="such as configs/pretrain/arithmetic.yaml")
    sub.add_argument("--output-dir", metavar="DIR", help="default: runs/NAME-OF-THE-FILE")
    sub.add_argument("--quiet", action="store_true", help="no progress")
    return top


EVALUATE = """\
Judges a saved adaptation on the test split of a task. With --output-dir it writes evaluation.json
and predictions.jsonl; until then answers are kept in predictions.partial.jsonl as they come.
Interrupted at any moment and started again by the same command, it goes on where it stood and ends
with the same files, but for the seconds in them."""
EXPORT = """\
Writes full or merged weights as a Hugging Face folder (--format hf), or the soft prompt or the
low-rank updates alone as a PEFT adapter (--format peft). README.md in it says how to ask."""
PREDICT = """\
Answers every line of IN.jsonl and appends to OUT.jsonl as the answers come; when all are there,
they are put in the order of the questions. A line is an object with "question", and optionally
"id" and "choices". Questions that OUT.jsonl already holds are not asked again: an interrupted run
is simply started once more, and ends with the same file, but for the seconds in it. A file whose
answers came from another adaptation or seed is refused."""


def add_adaptation(sub: argparse.ArgumentParser) -> None:
    """Which adaptation, and where its decoder lies now."""
    sub.add_argument("adaptation", metavar="ADAPTATION", help=ADAPTATION)
    sub.add_argument("--decoder", metavar="PATH", help="where its decoder lies, if it was moved")


def whole(least: int) -> Callable[[str], int]:
    """Reads a whole number, ``least`` or more."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number, {least} or more")
        return value

    return number


def add_answering(sub: argparse.ArgumentParser) -> None:
    """Options of commands that answer many questions."""
    sub.add_argument("--seed", type=whole(0), default=0, help="of sampled candidates")
    sub.add_argument(
        "--slots",
        type=whole(1),
        help="sequences decoded side by side (default: what memory allows)",
    )
    sub.add_argument("--quiet", action="store_true", help="no progress")


OWN = {  # options of the commands themselves, and whether they take a value
    "--help": False,
    "--version": False,
    "--quiet": False,
    "--fresh": False,
    "--show-reasoning": False,
    "--output-dir": True,
    "--choice": True,
}
OWN_OF_ANSWERING = {"--seed": True, "--slots": True, "--decoder": True}
OWN_OF_EXCHANGE = dict.fromkeys(
    ("--format", "--dtype", "--max-shard-size", "--task", "--context-length"), True
)


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Parts ``--a.b.c value`` (or ``--a.b.c=value``) from what argparse knows.

    Raises:
        UserError: for an override without a value.
    """
    own = dict(OWN)
    if arguments[:1] == ["inspect"]:
        own |= inspection.OWN
    elif arguments and arguments[0] not in ("compare", "tune", "pretrain"):
        own |= OWN_OF_ANSWERING  # there they are keys of the configuration
    if arguments and arguments[0] in ("export", "import"):
        own |= OWN_OF_EXCHANGE
    rest, overrides, waiting = [], {}, list(arguments)
    while waiting:
        argument = waiting.pop(0)
        name, equals, value = argument.partition("=")
        if argument == "--":
            rest += [argument, *waiting]
            break
        if not argument.startswith("--"):
            rest.append(argument)
        elif name in own:
            rest.append(argument)
            if own[name] and not equals and waiting:
                rest.append(waiting.pop(0))
        elif equals:
            overrides[name[2:]] = value
        elif waiting:
            overrides[name[2:]] = waiting.pop(0)
        else:
            raise UserError(f"{name} lacks its value")
    return rest, overrides
