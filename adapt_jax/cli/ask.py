"""``adapt-jax ask`` asks one question."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from adapt_jax.cli.options import AdaptationPath, DecoderPath, Seed
from adapt_jax.comparison.adaptations import open_adaptation
from adapt_jax.utils.display_text import display_text

if TYPE_CHECKING:
    from adapt_jax.prompting.prediction import Prediction

__all__ = ["ask"]


def ask(
    adaptation: AdaptationPath,
    question: Annotated[str, Parameter(help="the bare question")],
    /,
    *,
    choice: Annotated[
        list[str], Parameter(help="an answer to choose from; repeatable", show_default=False)
    ] = [],  # noqa: B006
    show_reasoning: Annotated[
        bool, Parameter(help="print the reasonings and the votes", show_default=False)
    ] = False,
    decoder: DecoderPath = None,
    seed: Seed = 0,
) -> None:
    """Ask one bare question."""
    prediction = open_adaptation(adaptation, decoder).ask(question, choice, seed=seed)
    if show_reasoning:
        _print_reasonings(prediction)
    print("no answer" if prediction.answer is None else display_text(prediction.answer))


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
