"""What the commands do: call, and print."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt_jax.utils.errors import UserError

if TYPE_CHECKING:
    from adapt_jax.adaptation.adaptation import Adaptation
    from adapt_jax.prompting.prediction import Prediction


def run_compare(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    """adapt-jax compare"""
    from adapt_jax.comparison.compare import compare
    from adapt_jax.utils.progress import new_console

    comparison = compare(
        options.config,
        options.output_dir,
        overrides=overrides,
        progress=not options.quiet,
        fresh=options.fresh,
    )
    console = new_console()
    console.print(comparison.table())
    print(f"results: {comparison.output_dir}")
    if comparison.best:
        print(f'now try: adapt-jax ask {comparison.output_dir} "..." --show-reasoning')


def run_tune(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    """adapt-jax tune"""
    from adapt_jax.comparison.compare import tune

    tuned = tune(
        options.config, options.output_dir, overrides=overrides, progress=not options.quiet
    )
    print(f"saved: {tuned.folder}")


def run_evaluate(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    """adapt-jax evaluate"""
    from adapt_jax.evaluation import report
    from adapt_jax.evaluation.evaluate import evaluate
    from adapt_jax.evaluation.journal import Journal
    from adapt_jax.tasks.task import load_task
    from adapt_jax.utils import files
    from adapt_jax.utils import progress as progress_bars
    from adapt_jax.utils.config import override, read_yaml
    from adapt_jax.utils.hashing import identity

    of_task = {key.removeprefix("task."): value for key, value in overrides.items()}
    if any(not key.startswith("task.") for key in overrides):
        raise UserError(f"evaluate overrides keys of the task only: --task.{next(iter(of_task))}")
    content = override(read_yaml(options.task), of_task, options.task)
    task = load_task(content, Path(options.task).parent)
    adaptation = open_adaptation(options.adaptation, options.decoder)
    output, journal = Path(options.output_dir or "."), None
    if options.output_dir:
        work = identity(adaptation.identity, task, options.seed)
        journal = Journal(output / "predictions.partial.jsonl", work)
    with progress_bars.Display(not options.quiet).stage("answering") as update:
        judged = evaluate(
            adaptation,
            task,
            seed=options.seed,
            slots=options.slots,
            on_progress=update,
            journal=journal,
        )
    for line in report.describe_evaluation(judged):
        print(line)
    if journal is not None:
        description = {"task": task.name, "method": adaptation.method, "seed": options.seed}
        files.write_json(output / "evaluation.json", description | judged.to_dict())
        report.write_predictions(output / "predictions.jsonl", judged)
        journal.remove()
        print(f"results: {output}")


def run_predict(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    """adapt-jax predict"""
    from adapt_jax.adaptation.predict import predict
    from adapt_jax.utils.progress import Display

    with Display(not options.quiet).stage("answering") as update:
        answered, kept = predict(
            lambda: open_adaptation(options.adaptation, options.decoder),
            Path(options.input),
            Path(options.output),
            seed=options.seed,
            slots=options.slots,
            on_progress=update,
        )
    print(f"{answered} questions answered, {kept} kept from before: {options.output}")


def run_ask(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    """adapt-jax ask"""
    adaptation = open_adaptation(options.adaptation, options.decoder)
    said = adaptation.ask(options.question, options.choice, seed=options.seed)
    if options.show_reasoning:
        show_reasoning(said)
    print("no answer" if said.answer is None else said.answer)


def show_reasoning(said: "Prediction") -> None:
    """Every candidate's reasoning under the answer that it gives, then the votes."""
    counts = sorted(said.vote.counts.items(), key=lambda counted: -counted[1])
    for answer, count in counts:
        mine = [c.reasoning for c in said.candidates if c.answer == answer]
        counted = f"{count:g} {'vote' if count == 1 else 'votes'}"
        counted = f"{100 * count:.1f} %" if said.vote.rule == "likelihood" else counted
        print(f"{answer}: {counted} ({said.vote.rule})")
        for reasoning in filter(None, dict.fromkeys(mine)):
            repeats = mine.count(reasoning)
            print(f"  - {reasoning}" + (f"  (x{repeats})" if repeats > 1 else ""))
    silent = [c.text.strip() for c in said.candidates if c.answer is None]
    if silent:
        print(f"no answer: {len(silent)}")
        for text in dict.fromkeys(silent):
            print(f"  - {text}")


def run_export(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    """adapt-jax export"""
    from adapt_jax.adaptation.export import export_adaptation, export_dtype

    adaptation = open_adaptation(options.adaptation, options.decoder)
    folder = export_adaptation(
        adaptation,
        options.folder,
        format=options.format,
        dtype=options.dtype,
        max_shard_size=options.max_shard_size,
    )
    if (folder / "config.json").is_file():
        why = "" if options.dtype else ", as the decoder's own files; --dtype chooses another"
        print(f"weights: {export_dtype(adaptation, options.dtype)}{why}")
    print(f"exported: {folder} (how to ask: {folder / 'README.md'})")


def run_import(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    """adapt-jax import"""
    from adapt_jax.adaptation.export import import_adapter
    from adapt_jax.tasks.task import load_task

    task = None if options.task is None else load_task(options.task)
    adaptation = import_adapter(
        options.adapter, options.decoder, task=task, context_length=options.context_length
    )
    print(f"saved: {adaptation.save(options.folder)}")


def run_pretrain(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    """adapt-jax pretrain"""
    from adapt_jax.training.pretraining import PretrainingConfig, pretrain
    from adapt_jax.utils.config import checked, override, read_yaml, use_compilation_cache
    from adapt_jax.utils.progress import Display

    content = override(read_yaml(options.config), overrides, options.config)
    config = checked(PretrainingConfig, content, options.config)
    use_compilation_cache()
    output = Path(options.output_dir or Path("runs") / Path(options.config).stem)
    with Display(not options.quiet).stage("pretraining") as update:
        result = pretrain(config, output, update, base=Path(options.config).parent)
    print(f"last loss {result.losses[-1]:.4f} nats per token, {result.seconds:.0f} seconds")
    print(f"saved: {output}")


def open_adaptation(path: str, decoder: str | None) -> "Adaptation":
    """A saved adaptation; of tune's or compare's output folder, the one in it, or the best.

    Raises:
        UserError: when there is none.
    """
    from adapt_jax.adaptation.adaptation import DESCRIPTION, Adaptation
    from adapt_jax.comparison.compare import RESULTS
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
        best = json.loads((folder / RESULTS).read_text(encoding="utf-8")).get("best")
        if best:
            return Adaptation.load(folder / "adaptations" / best, decoder)
    return Adaptation.load(folder, decoder)  # says what is missing
