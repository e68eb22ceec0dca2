"""``adapt-jax init`` looks at data and writes the files to begin with."""

from typing import Annotated

from cyclopts import Parameter

__all__ = ["init"]


def init(
    data: Annotated[
        str,
        Parameter(
            help="a data file, a pattern, a folder, tfds:NAME (TensorFlow Datasets) or "
            "datasets:NAME (Hugging Face)"
        ),
    ],
    /,
    *,
    decoder: Annotated[
        str, Parameter(help="a folder, embedded, or a name on the hub; weights are not read")
    ] = "embedded",
    output: Annotated[
        str | None,
        Parameter(help="the beginning of both names: OUTPUT_task.yaml, OUTPUT_compare.yaml"),
    ] = None,
    force: Annotated[
        bool, Parameter(help="replace files that are there", show_default=False)
    ] = False,
) -> None:
    """Look at data, write a task file and a comparison.

    Finds which columns are the question and the answer, the choices, labels and reasoning; chooses
    the answer parser and the template; measures lengths against the decoder's context; says which
    rungs can run and about how long each takes here. Every guess stands in the task file with its
    reason: look at it, change what is wrong, and run `adapt-jax compare OUTPUT_compare.yaml`.
    """
    from adapt_jax.comparison.init import describe
    from adapt_jax.comparison.init import init as write_files
    from adapt_jax.utils.display_text import display_text

    result = write_files(data, decoder, output, force=force)
    for line in describe(result):
        indent = " " * (len(line) - len(line.lstrip()))
        print(indent + display_text(line, None))
    print(f"written: {result.task_file}, {result.compare_file}")
    if result.can_run:
        print(f"now try: adapt-jax compare {result.compare_file}")
    else:
        print(f"no rung can run on {result.decoder}: name another --decoder")
