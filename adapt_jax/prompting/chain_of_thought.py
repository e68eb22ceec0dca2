"""Chain of thought: demonstrations that show their reasoning before the answer (2201.11903)."""

from typing import ClassVar

from pydantic import Field

from adapt_jax.prompting.few_shot import FewShot


class ChainOfThought(FewShot):
    """As few-shot, with the reasoning of each demonstration; greedy (section 2 of the paper)."""

    name: ClassVar[str] = "chain_of_thought"
    reasoning: ClassVar[bool] = True
    demonstrations: int = Field(4, gt=0)
