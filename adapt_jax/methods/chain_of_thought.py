"""Chain of thought: demonstrations that show their reasoning before the answer (2201.11903)."""

from typing import ClassVar

from pydantic import Field, field_validator

from adapt_jax.methods.few_shot import FewShot


class ChainOfThought(FewShot):
    """As few-shot, with the reasoning of each demonstration; greedy (section 2 of the paper)."""

    name: ClassVar[str] = "chain_of_thought"
    reasoning: ClassVar[bool] = True
    demonstrations: int = Field(4, gt=0)

    @field_validator("answer_by")
    @classmethod
    def _is_written(cls, answer_by: str) -> str:
        if answer_by != "text":
            raise ValueError(
                f"{cls.name} writes its reasoning; `answer_by: likelihood` is for zero_shot and "
                "few_shot"
            )
        return answer_by
