"""``adapt-jax predict`` answers questions in bulk."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from adapt_jax.cli.options import AdaptationPath, Concurrency, DecoderPath, Quiet, Seed
from adapt_jax.comparison.adaptations import find_adaptation, open_adaptation

__all__ = ["predict"]


def predict(
    adaptation: AdaptationPath,
    source: Annotated[
        Path,
        Parameter(
            name="IN", help="questions: JSONL, JSON, CSV, TSV, Parquet, Arrow, or lines of text"
        ),
    ],
    target: Annotated[Path, Parameter(name="OUT", help="a JSONL file: one answer per line")],
    /,
    *,
    task: Annotated[str | None, Parameter(help="a task file, by whose fields IN is read")] = None,
    decoder: DecoderPath = None,
    seed: Seed = 0,
    max_concurrent_sequences: Concurrency = None,
    quiet: Quiet = False,
) -> None:
    """Answer unlabelled questions in bulk; continues where it stopped.

    Answers every row of IN and appends to OUT as the answers come; when all are there, they are
    put in the order of the questions. A row is read as the task that the adaptation was made for
    reads its files, where it has these columns, or else has a "question", and may have an "id" and
    "choices"; --task names another task to read by. Questions that OUT already answers are not
    asked again: an interrupted run is simply started once more. A file whose answers came from
    another adaptation or seed is refused.
    """
    from adapt_jax.adaptation.predict import predict as run_prediction
    from adapt_jax.adaptation.storage import read_question_format
    from adapt_jax.utils.bucket import to_path
    from adapt_jax.utils.progress import Display

    own_format = None if task else read_question_format(find_adaptation(adaptation))
    with Display(not quiet).stage("answering") as update:
        answered, kept = run_prediction(
            lambda: open_adaptation(adaptation, decoder),
            source,
            target,
            task=task,
            question_format=own_format,
            seed=seed,
            max_concurrent_sequences=max_concurrent_sequences,
            on_progress=update,
        )
    questions = "question" if answered == 1 else "questions"
    print(f"{answered} {questions} answered, {kept} kept from before: {to_path(target)}")
