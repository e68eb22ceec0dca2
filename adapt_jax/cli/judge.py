"""``adapt-jax judge`` says whether one recorded result is better than another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

if TYPE_CHECKING:
    from adapt_jax.evaluation.judging.judge import Judged

__all__ = ["judge"]


# The options, as the command line shows them.
Sides = Annotated[
    str,
    Parameter(
        name="SIDE",
        help="a file or folder of results; several runs of one side (seeds) by commas or a "
        "quoted pattern",
    ),
]
Metric = Annotated[
    list[str],
    Parameter(
        help="the score to judge by; repeatable: of each file the first that it has",
        show_default=False,
    ),
]
Filter = Annotated[
    str | None, Parameter(help="of lm-eval, such as strict-match; by default the first")
]
Id = Annotated[str | None, Parameter(help="the column of ids in a table")]
Cluster = Annotated[
    str | None,
    Parameter(help="a field that says which questions belong together, such as a passage"),
]
Output = Annotated[
    Path | None,
    Parameter(help="writes the questions on which they differ (.csv or .jsonl) there"),
]
Show = Annotated[
    int, Parameter(help="how many of these questions to print", validator=Number(gte=0))
]
JsonOutput = Annotated[
    bool,
    Parameter(name="--json", help="print one JSON object and nothing else", show_default=False),
]
Seed = Annotated[int, Parameter(help="of the bootstrap", validator=Number(gte=0, lt=2**32))]


def judge(
    *sides: Sides,
    metric: Metric = [],  # noqa: B006 (never changed)
    filter: Filter = None,
    id: Id = None,
    cluster: Cluster = None,
    output: Output = None,
    show: Show = 10,
    json_output: JsonOutput = False,
    seed: Seed = 0,
) -> None:
    """Is A better than B? Judge recorded results on the questions that both answered.

    Each side is an output folder of compare (its recommended rung) or evaluate, a predictions file,
    logs of lm-eval (`samples_*.jsonl`, or their folder), a log of inspect_ai (JSON or .eval), or a
    CSV, JSON or JSONL table with an id or question and a score. The first side is compared with
    each of the others; a lone output folder of compare stands for all of its rungs.

    ```
    adapt-jax judge runs/new runs/old
    adapt-jax judge samples_gsm8k_new.jsonl samples_gsm8k_old.jsonl --filter strict-match
    adapt-jax judge 'runs/lora_seed*/predictions.jsonl' runs/zero_shot --output differ.csv
    ```

    Prints the difference with its 95 % interval and p-value (McNemar's exact test for verdicts, a
    paired bootstrap for graded scores, several runs and --cluster), with Holm's correction over
    several comparisons, and how many more questions would settle what is not.
    """
    import json

    from adapt_jax.evaluation.judging.judge import judge as run_judge
    from adapt_jax.evaluation.judging.wording import check_questions_file, write_questions
    from adapt_jax.utils.files import check_target_file

    if output is not None:
        check_questions_file(output)
        check_target_file(output)
    judged = run_judge(
        sides, metrics=metric, filter=filter, id_field=id, cluster=cluster, seed=seed
    )
    if output is not None:
        written = write_questions(output, judged.result, judged.pairings)
    if json_output:
        print(json.dumps(judged.result.model_dump(mode="json"), indent=2))
        return
    _print_judgement(judged, show)
    if output is not None:
        print(f"{written} questions: {output}")


def _print_judgement(judged: "Judged", show: int) -> None:
    """Prints the verdicts, and up to ``show`` questions on which the sides differ."""
    from adapt_jax.evaluation.judging.wording import describe_judgement, make_questions_table
    from adapt_jax.utils.progress import new_console

    for line in describe_judgement(judged.result):
        print(line)
    table = make_questions_table(judged.result, judged.pairings, show) if show else None
    if table is not None:
        print()
        new_console().print(table)
