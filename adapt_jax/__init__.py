"""How should I adapt a pretrained decoder to my task, and how far does each technique get me?

    import adapt_jax

    comparison = adapt_jax.compare("configs/ladder.yaml")  # try every technique on the task
    adaptation = comparison.adaptation()                   # the one that is enough
    prediction = adaptation.ask("Jane has 2 apples. She bought 3 more. How many has she?")
    print(prediction.answer)                               # 5

Names are imported when they are first used, so that ``import adapt_jax`` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapt_jax.adaptation.adaptation import Adaptation as Adaptation
    from adapt_jax.adaptation.export import export_adaptation as export_adaptation
    from adapt_jax.adaptation.import_peft import import_adapter as import_adapter
    from adapt_jax.adaptation.session import Session as Session
    from adapt_jax.comparison.compare import Comparison as Comparison
    from adapt_jax.comparison.compare import compare as compare
    from adapt_jax.comparison.search import search as search
    from adapt_jax.comparison.tune import tune as tune
    from adapt_jax.decoders.prefix import Prefix as Prefix
    from adapt_jax.decoders.prefix import SoftPrompt as SoftPrompt
    from adapt_jax.evaluation.evaluate import Evaluation as Evaluation
    from adapt_jax.evaluation.evaluate import evaluate as evaluate
    from adapt_jax.evaluation.metrics import METRICS as METRICS
    from adapt_jax.evaluation.scorers import SCORERS as SCORERS
    from adapt_jax.methods.base import MethodResult as MethodResult
    from adapt_jax.methods.base import PromptingMethod as PromptingMethod
    from adapt_jax.methods.base import RunOptions as RunOptions
    from adapt_jax.methods.base import TuningMethod as TuningMethod
    from adapt_jax.methods.registry import METHODS as METHODS
    from adapt_jax.pretrained.loading import PretrainedDecoder as PretrainedDecoder
    from adapt_jax.pretrained.saving import save_pretrained as save_pretrained
    from adapt_jax.prompting.maj_at_k import maj_at_k as maj_at_k
    from adapt_jax.prompting.prediction import Prediction as Prediction
    from adapt_jax.prompting.prompt import Prompt as Prompt
    from adapt_jax.prompting.voting import VOTES as VOTES
    from adapt_jax.prompting.voting import vote as vote
    from adapt_jax.sampling.generate import generate as generate
    from adapt_jax.sampling.model import Model as Model
    from adapt_jax.sampling.model import load_pretrained as load_pretrained
    from adapt_jax.sampling.types import Candidate as Candidate
    from adapt_jax.sampling.types import GenerationConfig as GenerationConfig
    from adapt_jax.tasks.answers import PARSERS as PARSERS
    from adapt_jax.tasks.example import Example as Example
    from adapt_jax.tasks.loading import load_task as load_task
    from adapt_jax.tasks.sources import SOURCES as SOURCES
    from adapt_jax.tasks.task import Task as Task
    from adapt_jax.tasks.templates import Demonstration as Demonstration
    from adapt_jax.tasks.templates import Template as Template
    from adapt_jax.training.trackers import TRACKERS as TRACKERS
    from adapt_jax.utils.errors import UserError as UserError
    from adapt_jax.utils.registry import load_plugin as load_plugin

# where each public name is defined; the same as above, for Python
_MODULES = {
    "adaptation.adaptation": ("Adaptation",),
    "adaptation.export": ("export_adaptation",),
    "adaptation.import_peft": ("import_adapter",),
    "adaptation.session": ("Session",),
    "comparison.compare": ("Comparison", "compare"),
    "comparison.search": ("search",),
    "comparison.tune": ("tune",),
    "decoders.prefix": ("Prefix", "SoftPrompt"),
    "evaluation.evaluate": ("Evaluation", "evaluate"),
    "evaluation.metrics": ("METRICS",),
    "evaluation.scorers": ("SCORERS",),
    "methods.base": ("MethodResult", "PromptingMethod", "RunOptions", "TuningMethod"),
    "methods.registry": ("METHODS",),
    "pretrained.loading": ("PretrainedDecoder",),
    "pretrained.saving": ("save_pretrained",),
    "prompting.prediction": ("Prediction",),
    "prompting.prompt": ("Prompt",),
    "prompting.maj_at_k": ("maj_at_k",),
    "prompting.voting": ("VOTES", "vote"),
    "sampling.generate": ("generate",),
    "sampling.model": ("Model", "load_pretrained"),
    "sampling.types": ("Candidate", "GenerationConfig"),
    "tasks.answers": ("PARSERS",),
    "tasks.example": ("Example",),
    "tasks.sources": ("SOURCES",),
    "tasks.loading": ("load_task",),
    "tasks.task": ("Task",),
    "tasks.templates": ("Demonstration", "Template"),
    "training.trackers": ("TRACKERS",),
    "utils.errors": ("UserError",),
    "utils.registry": ("load_plugin",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'adapt_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"adapt_jax.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
