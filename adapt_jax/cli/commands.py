"""The commands: each calls one function of the library and prints what came of it.

Heavy modules are imported inside the functions, so that ``adapt-jax --help`` is quick.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from adapt_jax.utils.display_text import display_text
from adapt_jax.utils.errors import UserError

if TYPE_CHECKING:
    from adapt_jax.adaptation.adaptation import Adaptation
    from adapt_jax.prompting.prediction import Prediction

__all__ = [
    "ask",
    "collect_overrides",
    "compare",
    "evaluate",
    "export",
    "import_adapter",
    "open_adaptation",
    "predict",
    "pretrain",
    "tune",
]

# Options that several commands share
OutputDir = Annotated[
    str | None, Parameter(help="where results go; by default runs/NAME-OF-THE-CONFIG")
]
Quiet = Annotated[bool, Parameter(help="show no progress")]
Overrides = Annotated[
    list[str],
    Parameter(
        name="--set",
        help="override a key of the file: KEY=VALUE, the value in YAML; repeatable. "
        "`--a.b VALUE` is short for `--set a.b=VALUE`",
    ),
]
TopLevelOverrides = Annotated[
    str, Parameter(help="any other key of the file, such as --decoder, --task, --seed")
]
AdaptationPath = Annotated[
    str,
    Parameter(
        help="a saved adaptation, or the output folder of tune or compare (its recommended rung)"
    ),
]
DecoderPath = Annotated[str | None, Parameter(help="where its decoder lies, if it was moved")]
Seed = Annotated[int, Parameter(help="of sampled candidates", validator=Number(gte=0, lt=2**32))]
Concurrency = Annotated[
    int | None,
    Parameter(
        help="sequences that are decoded at the same time; by default what memory allows",
        validator=Number(gte=1),
    ),
]
ContextLength = Annotated[
    int | None,
    Parameter(
        help="tokens of the longest text, where config.json is not to say it",
        validator=Number(gte=1),
    ),
]


def compare(
    config: Annotated[str, Parameter(help="a YAML file such as configs/ladder.yaml")],
    /,
    *,
    output_dir: OutputDir = None,
    only: Annotated[
        str | None, Parameter(help="run these rungs and no others: few_shot,lora")
    ] = None,
    fresh: Annotated[bool, Parameter(help="run every rung anew, whatever was finished")] = False,
    quiet: Quiet = False,
    overrides: Overrides = [],  # noqa: B006 (never changed)
    **top_level: TopLevelOverrides,
) -> None:
    """Climb the ladder: every technique on one task.

    Every rung adapts the same frozen decoder, answers the same test questions, and is compared
    with the rung below. The output folder then holds:

    - comparison.json: accuracy, intervals, significance and cost of every rung
    - ladder.png: the same as a picture
    - predictions/METHOD.jsonl: every question with its candidates, answer and vote
    - adaptations/METHOD: the adaptation, to be asked, evaluated, exported

    Interrupted at any moment and started again by the same command, it continues where it stopped
    and ends with the same files, except for times and compilations. A finished rung runs again
    only where something that it depends on has changed, or with --fresh.

    Your own task, a CSV with the columns `text` and `label`, is a file such as

    ```yaml
    name: support
    source: {name: csv, path: tickets.csv}
    fields: {question: text, answer: label}
    instruction: Which department answers this ticket?
    answer_parser: label
    splits: {train: 200, development: 100, test: 300}
    ```

    and runs with `adapt-jax compare configs/ladder.yaml --task my_task.yaml --decoder FOLDER`. Keys
    of the task and of each method are overridden by their path: `--task.seed 7`,
    `--task.splits.test 100`, `--methods.few_shot.demonstrations 4`, `--methods.lora null`.
    """
    from adapt_jax.comparison.compare import compare as run_comparison
    from adapt_jax.utils.progress import new_console

    given = collect_overrides(overrides, top_level)
    if only is not None:
        given["methods_subset"] = only
    comparison = run_comparison(
        config, output_dir, overrides=given, progress=not quiet, fresh=fresh
    )
    new_console().print(comparison.table())
    print(f"results: {comparison.output_dir}")
    if comparison.best:
        print(f'now try: adapt-jax ask {comparison.output_dir} "..." --show-reasoning')


def tune(
    config: Annotated[str, Parameter(help="a YAML file such as configs/tune/lora.yaml")],
    /,
    *,
    output_dir: OutputDir = None,
    quiet: Quiet = False,
    overrides: Overrides = [],  # noqa: B006
    **top_level: TopLevelOverrides,
) -> None:
    """Make one adaptation and save it.

    Runs the method that `method:` of the file names and saves the adaptation in
    OUTPUT-DIR/adaptation. OUTPUT-DIR/training holds the metrics of every step and the checkpoints.

    Killed at any moment and started again by the same command, the training continues from its
    last checkpoint and ends with the same parameters. SIGTERM or Ctrl-C saves first and exits with
    code 75, on which a launcher may start the command again (a second Ctrl-C exits at once).
    Checkpoints are written as often as they cost less than 2 % of the time, or every
    `training.checkpoint_every` steps.

    Any key of the file can be overridden by its path: `--method.training.steps 500`.
    """
    from adapt_jax.comparison.tune import tune as run_tuning

    given = collect_overrides(overrides, top_level)
    adaptation = run_tuning(config, output_dir, overrides=given, progress=not quiet)
    print(f"saved: {adaptation.folder}")


def evaluate(
    adaptation: AdaptationPath,
    task: Annotated[str, Parameter(help="a task file such as configs/tasks/arithmetic.yaml")],
    /,
    *,
    output_dir: Annotated[
        str | None, Parameter(help="writes evaluation.json and predictions.jsonl there")
    ] = None,
    decoder: DecoderPath = None,
    seed: Seed = 0,
    max_concurrent_sequences: Concurrency = None,
    quiet: Quiet = False,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Evaluate a saved adaptation on the test split of a task.

    With --output-dir it writes evaluation.json and predictions.jsonl; until then the answers are
    kept in predictions.partial.jsonl. Interrupted at any moment and started again by the same
    command, it continues where it stopped. Keys of the task are overridden by their path:
    `--task.splits.test 100`.
    """
    from adapt_jax.evaluation.evaluate import evaluate as run_evaluation
    from adapt_jax.evaluation.journal import Journal
    from adapt_jax.evaluation.report.files import write_evaluation
    from adapt_jax.evaluation.report.text import describe_evaluation
    from adapt_jax.tasks.task import load_task
    from adapt_jax.utils.config import override, read_yaml
    from adapt_jax.utils.hashing import identity
    from adapt_jax.utils.progress import Display

    given = collect_overrides(overrides, {})
    for key in given:
        if not key.startswith("task."):
            raise UserError(f"--{key}: evaluate overrides keys of the task only, as --task.KEY")
    of_task = {key.removeprefix("task."): value for key, value in given.items()}
    read_task = load_task(override(read_yaml(task), of_task, task), Path(task).parent)
    opened = open_adaptation(adaptation, decoder)
    output, journal = Path(output_dir or "."), None
    if output_dir:
        work = identity(opened.identity, read_task, seed)
        journal = Journal(output / "predictions.partial.jsonl", work)
    with Display(not quiet).stage("answering") as update:
        evaluation = run_evaluation(
            opened,
            read_task,
            seed=seed,
            slots=max_concurrent_sequences,
            on_progress=update,
            journal=journal,
        )
    for line in describe_evaluation(evaluation.result):
        print(line)
    if journal is not None:
        write_evaluation(output, evaluation, read_task, method=opened.method, seed=seed)
        journal.remove()
        print(f"results: {output}")


def predict(
    adaptation: AdaptationPath,
    source: Annotated[Path, Parameter(name="IN", help="a JSONL file of questions")],
    target: Annotated[Path, Parameter(name="OUT", help="a JSONL file: one answer per line")],
    /,
    *,
    decoder: DecoderPath = None,
    seed: Seed = 0,
    max_concurrent_sequences: Concurrency = None,
    quiet: Quiet = False,
) -> None:
    """Answer unlabelled questions in bulk; continues where it stopped.

    Answers every line of IN and appends to OUT as the answers come; when all are there, they are
    put in the order of the questions. A line is an object with "question", and optionally "id" and
    "choices". Questions that OUT already answers are not asked again: an interrupted run is simply
    started once more. A file whose answers came from another adaptation or seed is refused.
    """
    from adapt_jax.adaptation.predict import predict as run_prediction
    from adapt_jax.utils.progress import Display

    with Display(not quiet).stage("answering") as update:
        answered, kept = run_prediction(
            lambda: open_adaptation(adaptation, decoder),
            source,
            target,
            seed=seed,
            slots=max_concurrent_sequences,
            on_progress=update,
        )
    print(f"{answered} questions answered, {kept} kept from before: {target}")


def ask(
    adaptation: AdaptationPath,
    question: Annotated[str, Parameter(help="the bare question")],
    /,
    *,
    choice: Annotated[list[str], Parameter(help="an answer to choose from; repeatable")] = [],  # noqa: B006
    show_reasoning: Annotated[bool, Parameter(help="print the reasonings and the votes")] = False,
    decoder: DecoderPath = None,
    seed: Seed = 0,
) -> None:
    """Ask one bare question."""
    prediction = open_adaptation(adaptation, decoder).ask(question, choice, seed=seed)
    if show_reasoning:
        _print_reasonings(prediction)
    print("no answer" if prediction.answer is None else display_text(prediction.answer))


def export(
    adaptation: AdaptationPath,
    folder: Annotated[str, Parameter(help="a new folder")],
    /,
    *,
    format: Annotated[
        str | None, Parameter(help="hf (weights) or peft (adapter); by default what it can be")
    ] = None,
    dtype: Annotated[
        str | None,
        Parameter(
            help="of hf weights: float32, bfloat16 or float16; by default that of the decoder's "
            "own files"
        ),
    ] = None,
    max_shard_size: Annotated[str, Parameter(help="of one file of hf weights")] = "5GB",
    decoder: DecoderPath = None,
) -> None:
    """Write an adaptation for transformers or PEFT.

    Writes full or merged weights as a Hugging Face folder (--format hf), or the soft prompt or the
    LoRA factors alone as a PEFT adapter (--format peft). README.md in it says how to ask.
    """
    from adapt_jax.adaptation.export import export_adaptation, export_dtype

    opened = open_adaptation(adaptation, decoder)
    written = export_adaptation(
        opened, folder, format=format, dtype=dtype, max_shard_size=max_shard_size
    )
    if (written / "config.json").is_file():
        why = "" if dtype else ", as the decoder's own files; --dtype chooses another"
        print(f"weights: {export_dtype(opened, dtype)}{why}")
    print(f"exported: {written} (how to ask: {written / 'README.md'})")


def import_adapter(
    adapter: Annotated[str, Parameter(help="a PEFT folder: prompt tuning or LoRA")],
    folder: Annotated[str, Parameter(help="where the adaptation goes")],
    /,
    *,
    decoder: Annotated[str | None, Parameter(help="by default what the adapter names")] = None,
    task: Annotated[
        str | None, Parameter(help="a task file: how questions are asked and answers read")
    ] = None,
    context_length: ContextLength = None,
) -> None:
    """Make an adaptation of a PEFT adapter."""
    from adapt_jax.adaptation.export import import_adapter as read_adapter
    from adapt_jax.tasks.task import load_task

    read_task = None if task is None else load_task(task)
    adaptation = read_adapter(adapter, decoder, task=read_task, context_length=context_length)
    print(f"saved: {adaptation.save(folder)}")


def pretrain(
    config: Annotated[str, Parameter(help="a YAML file such as configs/pretrain/arithmetic.yaml")],
    /,
    *,
    output_dir: OutputDir = None,
    quiet: Quiet = False,
    overrides: Overrides = [],  # noqa: B006
    **top_level: TopLevelOverrides,
) -> None:
    """Train a decoder on plain text, from scratch or from another decoder.

    Trains every parameter on the files that `corpus:` lists (.txt, or .jsonl with a "text" on each
    line) and writes a Hugging Face folder. `decoder:` is a folder to start from, or the shape of a
    new one. Interrupted, it continues as tune does.
    """
    from adapt_jax.training.pretraining import PretrainingConfig
    from adapt_jax.training.pretraining import pretrain as run_pretraining
    from adapt_jax.utils.config import checked, override, read_yaml, use_compilation_cache
    from adapt_jax.utils.progress import Display

    content = override(read_yaml(config), collect_overrides(overrides, top_level), config)
    settings = checked(PretrainingConfig, content, config)
    use_compilation_cache()
    output = Path(output_dir or Path("runs") / Path(config).stem)
    with Display(not quiet).stage("pretraining") as update:
        result = run_pretraining(settings, output, update, base=Path(config).parent)
    print(f"last loss {result.losses[-1]:.4f} nats per token, {result.seconds:.0f} seconds")
    print(f"saved: {output}")


def open_adaptation(path: str, decoder: str | None) -> "Adaptation":
    """Opens a saved adaptation; of an output folder of tune the one in it, of compare the best.

    Raises:
        UserError: there is none.
    """
    from adapt_jax.adaptation.adaptation import Adaptation
    from adapt_jax.adaptation.storage import DESCRIPTION
    from adapt_jax.comparison.compare import RESULTS, Comparison
    from adapt_jax.utils.config import use_compilation_cache

    use_compilation_cache()
    folder = Path(path)
    if not folder.exists():
        raise UserError(f"{folder}: no such folder")
    if (folder / DESCRIPTION).is_file():
        return Adaptation.load(folder, decoder)
    if (folder / "adaptation" / DESCRIPTION).is_file():
        return Adaptation.load(folder / "adaptation", decoder)
    if (folder / RESULTS).is_file():
        best = Comparison.load(folder).best
        if best:
            return Adaptation.load(folder / "adaptations" / best, decoder)
    return Adaptation.load(folder, decoder)  # says what is missing


def collect_overrides(overrides: Sequence[str], top_level: dict[str, str]) -> dict[str, Any]:
    """Dotted keys with their values, still in YAML, from ``--set`` and from whole keys.

    Raises:
        UserError: one is not KEY=VALUE.
    """
    given: dict[str, Any] = {key.replace("-", "_"): value for key, value in top_level.items()}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not key or not equals:
            raise UserError(f"--set {override}: expected KEY=VALUE, such as task.seed=7")
        given[key] = value
    return given


def _print_reasonings(prediction: "Prediction") -> None:
    """Prints each candidate's reasoning below the answer that it gives, then those without one."""
    vote = prediction.vote
    for answer, count in sorted(vote.counts.items(), key=lambda counted: -counted[1]):
        counted = f"{count:g} {'vote' if count == 1 else 'votes'}"
        if vote.rule == "likelihood":
            counted = f"{100 * count:.1f} %"
        print(f"{display_text(answer)}: {counted} ({vote.rule})")
        reasonings = [one.reasoning for one in prediction.candidates if one.answer == answer]
        for reasoning in filter(None, dict.fromkeys(reasonings)):
            repeats = reasonings.count(reasoning)
            print(f"  - {display_text(reasoning, None)}" + f"  (x{repeats})" * (repeats > 1))
    unread = [one.text.strip() for one in prediction.candidates if one.answer is None]
    if unread:
        print(f"no answer: {len(unread)}")
        for text in dict.fromkeys(unread):
            print(f"  - {display_text(text, None)}")
