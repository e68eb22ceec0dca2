"""Zero-shot: an instruction, then the question (2005.14165, section 2)."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.multiple_choice import MultipleChoiceConfig
from adapt_jax.prompting.prompt import MethodNotApplicable, Prompt
from adapt_jax.sampling.types import GenerationConfig
from adapt_jax.tasks.task import Task
from adapt_jax.utils.config import Strict


class ZeroShot(Strict):
    """The task's instruction stands in front, and nothing else; decoding is greedy.

    ``answer_by: likelihood`` writes nothing: of a question's choices it takes the likeliest, by
    ``length_normalised`` (per token) and ``calibrated`` (against a question without content)
    likelihood where they are set; see prompting.choices.
    """

    name: ClassVar[str] = "zero_shot"
    max_new_tokens: int = Field(128, gt=0)
    answer_by: Literal["text", "likelihood"] = "text"
    length_normalised: bool = False
    calibrated: bool = False

    @model_validator(mode="after")
    def _scores(self) -> "ZeroShot":
        if self.answer_by == "text" and (self.length_normalised or self.calibrated):
            raise ValueError("length_normalised and calibrated need `answer_by: likelihood`")
        return self

    def adapt(self, model: PretrainedDecoder, task: Task, *, seed: int) -> Prompt:
        """The prompt of this rung.

        Raises:
            CannotRun: answers are to be chosen, and the task has no choices.
        """
        scoring = None
        if self.answer_by == "likelihood":
            scoring = MultipleChoiceConfig.of(task, self.length_normalised, self.calibrated)
            if scoring is None:
                raise MethodNotApplicable(
                    "answer_by: likelihood needs two choices or more for every question (`choices` "
                    "or `fields.choices` of the task)"
                )
        return Prompt(
            template=task.template,
            instruction=task.instruction,
            parser=task.parser,
            generation_config=GenerationConfig(
                max_new_tokens=self.max_new_tokens, stop=task.template.stop
            ),
            multiple_choice=scoring,
        )
