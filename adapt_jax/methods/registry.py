"""The rungs of the ladder by name, and one way to call them all.

A new rung is a file in prompting/ or tuning/, and a line here.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import jax
from pydantic import BaseModel

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.evaluation.evaluate import evaluate
from adapt_jax.methods.chain_of_thought import ChainOfThought
from adapt_jax.methods.few_shot import FewShot
from adapt_jax.methods.fine_tuning import FineTuning
from adapt_jax.methods.instruction_tuning import InstructionTuning
from adapt_jax.methods.lora import LoRAConfig
from adapt_jax.methods.prompt_tuning import PromptTuning
from adapt_jax.methods.self_consistency import SelfConsistency
from adapt_jax.methods.zero_shot import ZeroShot
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.prompting.prompt import Prompt
from adapt_jax.tasks.task import Task
from adapt_jax.training.trainer import RunOptions
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.utils.errors import nearest

Method = Any  # a rung's own options, with an ``adapt`` method
PROMPTING: dict[str, type[BaseModel]] = {
    "zero_shot": ZeroShot,
    "few_shot": FewShot,
    "chain_of_thought": ChainOfThought,
    "self_consistency": SelfConsistency,
}
TUNING: dict[str, type[BaseModel]] = {
    "prompt_tuning": PromptTuning,
    "lora": LoRAConfig,
    "fine_tuning": FineTuning,
    "instruction_tuning": InstructionTuning,
}
METHODS = PROMPTING | TUNING  # the ladder, from the lowest rung up


@dataclass(frozen=True)
class MethodResult:
    """An adaptation, and what it cost to make; ``unseen`` are kinds that its training left out."""

    adaptation: Adaptation
    trainable_parameters: int = 0
    train_seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)
    unseen: Task | None = None


def adapt(
    name: str,
    method: Method,
    model: PretrainedDecoder,
    task: Task,
    *,
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> MethodResult:
    """Adapts the decoder by one rung. ``model`` itself stays as it is, to the bit.

    Args:
        run: how to train, where the rung trains (see tuning.trainer.Run).

    Raises:
        CannotRun: with the reason why this rung has no place on this task or decoder.
    """
    if name in PROMPTING:
        return MethodResult(Adaptation(name, method.adapt(model, task, seed=seed), model))

    def accuracy_fn(prompt: Prompt, now: TunedDecoder) -> float:
        """Accuracy on the development split, as the training stands."""
        soft_prompt = now.soft_prompt
        if soft_prompt is not None:  # from the mesh, if it lies there
            embeddings = jax.device_get(soft_prompt.embeddings[...])
            soft_prompt = SoftPrompt(embeddings, soft_prompt.before_bos)
        adaptation = Adaptation(name, prompt, replace(model, decoder=now.decoder), soft_prompt)
        return evaluate(adaptation, task, task.development, seed=seed).accuracy

    tuned = method.adapt(model, task, seed=seed, **{"accuracy_fn": accuracy_fn, **run})
    adaptation = Adaptation(
        name,
        tuned.prompt,
        tuned.model,
        tuned.soft_prompt,
        tuned.lora_weights,
        has_full_weights=tuned.model is not model and tuned.lora_weights is None,
    )
    cost = (tuned.trainable_parameters, tuned.train_seconds)
    return MethodResult(adaptation, *cost, tuned.details, tuned.unseen)


def unknown_method(name: str) -> str:
    """What to say of a name that is no rung."""
    return f"unknown method {name!r}{nearest(name, METHODS)}; the rungs are {', '.join(METHODS)}"
