"""How should I adapt a pretrained decoder to my task, and how far does each technique get me?

    import adapt_jax

    comparison = adapt_jax.compare("configs/ladder.yaml")       # climb the ladder
    adaptation = comparison.adaptation()                        # the best rung
    adaptation.ask("Jane has 2 apples. She bought 3 more. How many has she?").answer

Names are imported when they are first used, so that ``import adapt_jax`` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapt_jax.adaptation.adaptation import Adaptation as Adaptation
    from adapt_jax.adaptation.export import export_adaptation as export_adaptation
    from adapt_jax.adaptation.export import import_adapter as import_adapter
    from adapt_jax.comparison.compare import Comparison as Comparison
    from adapt_jax.comparison.compare import compare as compare
    from adapt_jax.comparison.tune import tune as tune
    from adapt_jax.decoders.prefix import Prefix as Prefix
    from adapt_jax.decoders.prefix import SoftPrompt as SoftPrompt
    from adapt_jax.evaluation.evaluate import Evaluation as Evaluation
    from adapt_jax.evaluation.evaluate import evaluate as evaluate
    from adapt_jax.pretrained.loading import PretrainedDecoder as PretrainedDecoder
    from adapt_jax.pretrained.loading import load_pretrained as load_pretrained
    from adapt_jax.pretrained.saving import save_pretrained as save_pretrained
    from adapt_jax.prompting.maj_at_k import maj_at_k as maj_at_k
    from adapt_jax.prompting.prompt import Prompt as Prompt
    from adapt_jax.prompting.voting import vote as vote
    from adapt_jax.sampling.generate import generate as generate
    from adapt_jax.sampling.types import Candidate as Candidate
    from adapt_jax.sampling.types import GenerationConfig as GenerationConfig
    from adapt_jax.tasks.example import Example as Example
    from adapt_jax.tasks.loading import load_task as load_task
    from adapt_jax.tasks.task import Task as Task
    from adapt_jax.tasks.templates import Demonstration as Demonstration
    from adapt_jax.tasks.templates import Template as Template
    from adapt_jax.utils.errors import UserError as UserError

ROOMS = {
    "adaptation.adaptation": ("Adaptation",),
    "adaptation.export": ("export_adaptation", "import_adapter"),
    "comparison.compare": ("Comparison", "compare"),
    "comparison.tune": ("tune",),
    "decoders.prefix": ("Prefix", "SoftPrompt"),
    "evaluation.evaluate": ("Evaluation", "evaluate"),
    "pretrained.loading": ("PretrainedDecoder", "load_pretrained"),
    "pretrained.saving": ("save_pretrained",),
    "prompting.prompt": ("Prompt",),
    "prompting.maj_at_k": ("maj_at_k",),
    "prompting.voting": ("vote",),
    "sampling.generate": ("generate",),
    "sampling.types": ("Candidate", "GenerationConfig"),
    "tasks.example": ("Example",),
    "tasks.loading": ("load_task",),
    "tasks.task": ("Task",),
    "tasks.templates": ("Demonstration", "Template"),
    "utils.errors": ("UserError",),
}
ROOM_OF = {name: room for room, names in ROOMS.items() for name in names}
__all__ = sorted(ROOM_OF)


def __getattr__(name: str) -> Any:
    if name not in ROOM_OF:
        raise AttributeError(f"module 'adapt_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"adapt_jax.{ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
