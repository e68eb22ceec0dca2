"""``adapt-jax preview`` shows what the decoder will see."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from adapt_jax.cli.options import DecoderPath, Overrides, TopLevelOverrides, collect_overrides

if TYPE_CHECKING:
    from rich.console import Console

    from adapt_jax.comparison.preview_parts import Part

__all__ = ["preview"]

SHADES = ("on grey19", "on grey30")  # of every other token
LOSS_SHADES = ("black on green", "black on bright_green")


def preview(
    source: Annotated[
        str,
        Parameter(help="a configuration of compare or tune, or an output folder of either"),
    ],
    /,
    *,
    rung: Annotated[str | None, Parameter(help="of a comparison; by default its first")] = None,
    question: Annotated[str | None, Parameter(help="a question of your own")] = None,
    choice: Annotated[
        list[str], Parameter(help="an answer to choose from; repeatable", show_default=False)
    ] = [],  # noqa: B006
    index: Annotated[
        int, Parameter(help="of the test question, or training example, that is shown, from 0")
    ] = 0,
    decoder: DecoderPath = None,
    overrides: Overrides = [],  # noqa: B006
    **top_level: TopLevelOverrides,
) -> None:
    """Show exactly what the decoder will see for a question.

    Prints the tokens of the prompt in named parts, each with its number of tokens: instruction,
    demonstrations, question, the words that ask for the answer, a soft prompt as so many learned
    embeddings. A rung that trains shows a training example with its loss mask; a rung that scores
    choices shows each. Tokens are shaded in a terminal, and elsewhere divided by bars. No weights
    are read.
    """
    from pathlib import Path

    from adapt_jax.comparison.adaptations import find_adaptation
    from adapt_jax.comparison.preview import preview as make_preview
    from adapt_jax.utils.progress import new_console

    is_folder = Path(source).is_dir()
    if decoder is not None and not is_folder:
        top_level = {**top_level, "decoder": decoder}
    shown = make_preview(
        find_adaptation(source, rung) if is_folder else source,
        rung=rung,
        question=question,
        choices=choice,
        index=index,
        decoder=decoder,
        overrides=collect_overrides(overrides, top_level),
    )
    console = new_console()
    console.print(f"{shown.title}: {shown.num_tokens:,} prompt tokens", markup=False)
    for part in shown.parts:
        _print_part(console, part)
    for part in shown.choices:
        _print_part(console, part, scored=True)


def _print_part(console: "Console", part: "Part", scored: bool = False) -> None:
    """A line that names the part, and its tokens below."""
    from rich.text import Text

    if part.embeddings:
        heading = f"[{part.name}: {part.embeddings} learned embeddings]"
    else:
        count = len(part.tokens)
        extra = ", loss" if part.has_loss else ", scored" if scored else ""
        heading = f"[{part.name}: {count} {'token' if count == 1 else 'tokens'}{extra}]"
    console.print(Text(heading, style="bold"))
    if not part.tokens:
        return
    tokens = [_make_printable(token) for token in part.tokens]
    if not console.is_terminal:
        print("|".join(tokens))
        return
    shades = LOSS_SHADES if part.has_loss or scored else SHADES
    text = Text()
    for number, token in enumerate(tokens):
        text.append(token, style=shades[number % 2])
    console.print(text, soft_wrap=True)


def _make_printable(token: str) -> str:
    """A token with its line breaks marked and its other control characters as escapes."""
    marked = token.replace("\n", "⏎\n")
    return "".join(one if one.isprintable() or one == "\n" else repr(one)[1:-1] for one in marked)
