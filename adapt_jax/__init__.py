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
    from adapt_jax.adaptation import Adaptation as Adaptation
    from adapt_jax.comparison import Comparison as Comparison
    from adapt_jax.comparison import compare as compare
    from adapt_jax.comparison import tune as tune
    from adapt_jax.decoders.prefix import Prefix as Prefix
    from adapt_jax.decoders.prefix import SoftPrompt as SoftPrompt
    from adapt_jax.decoders.pretrained import PretrainedDecoder as PretrainedDecoder
    from adapt_jax.decoders.pretrained import load_pretrained as load_pretrained
    from adapt_jax.decoders.saving import save_pretrained as save_pretrained
    from adapt_jax.errors import UserError as UserError
    from adapt_jax.evaluation.evaluate import Evaluation as Evaluation
    from adapt_jax.evaluation.evaluate import evaluate as evaluate
    from adapt_jax.exchange import export_adaptation as export_adaptation
    from adapt_jax.exchange import import_adapter as import_adapter
    from adapt_jax.prompting.prompt import Prompt as Prompt
    from adapt_jax.prompting.voting import maj_at_k as maj_at_k
    from adapt_jax.prompting.voting import vote as vote
    from adapt_jax.sampling.decoding import Candidate as Candidate
    from adapt_jax.sampling.decoding import Decoding as Decoding
    from adapt_jax.sampling.generate import generate as generate
    from adapt_jax.tasks.task import Example as Example
    from adapt_jax.tasks.task import Task as Task
    from adapt_jax.tasks.task import load_task as load_task
    from adapt_jax.tasks.templates import Demonstration as Demonstration
    from adapt_jax.tasks.templates import Template as Template

ROOMS = {
    "adaptation": ("Adaptation",),
    "comparison": ("Comparison", "compare", "tune"),
    "decoders.prefix": ("Prefix", "SoftPrompt"),
    "decoders.pretrained": ("PretrainedDecoder", "load_pretrained"),
    "decoders.saving": ("save_pretrained",),
    "errors": ("UserError",),
    "evaluation.evaluate": ("Evaluation", "evaluate"),
    "exchange": ("export_adaptation", "import_adapter"),
    "prompting.prompt": ("Prompt",),
    "prompting.voting": ("maj_at_k", "vote"),
    "sampling.decoding": ("Candidate", "Decoding"),
    "sampling.generate": ("generate",),
    "tasks.task": ("Example", "Task", "load_task"),
    "tasks.templates": ("Demonstration", "Template"),
}
ROOM_OF = {name: room for room, names in ROOMS.items() for name in names}
__all__ = sorted(ROOM_OF)


def __getattr__(name: str) -> Any:
    if name not in ROOM_OF:
        raise AttributeError(f"module 'adapt_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"adapt_jax.{ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
