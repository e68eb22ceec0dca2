"""``adapt-jax import`` makes an adaptation of a PEFT adapter."""

from typing import Annotated

from cyclopts import Parameter

from adapt_jax.cli.options import ContextLength

__all__ = ["import_adapter"]


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
    from adapt_jax.adaptation.import_peft import import_adapter as read_adapter
    from adapt_jax.adaptation.storage import DESCRIPTION
    from adapt_jax.tasks.loading import load_task
    from adapt_jax.utils.files import check_target_folder

    check_target_folder(folder, DESCRIPTION)
    read_task = None if task is None else load_task(task)
    adaptation = read_adapter(adapter, decoder, task=read_task, context_length=context_length)
    print(f"saved: {adaptation.save(folder)}")
