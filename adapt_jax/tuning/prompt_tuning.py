"""Prompt tuning: learned embeddings in front of the question, the decoder frozen (2104.08691)."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float
from pydantic import Field

from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.decoders.pretrained import PretrainedDecoder
from adapt_jax.errors import UserError
from adapt_jax.tasks.task import Task
from adapt_jax.tuning.batches import TrainingExample
from adapt_jax.tuning.examples import Tuned, TuningMethod, prepare, told
from adapt_jax.tuning.losses import TunedDecoder
from adapt_jax.tuning.optimizers import TrainingConfig
from adapt_jax.tuning.trainer import Run, train

COMMON = 5000  # rows that "sampled_vocabulary" draws from (2104.08691, section 3.2)


class PromptTuning(TuningMethod):
    """``length`` learned embeddings, then the task's instruction, in front of every question.

    ``init`` is one of: ``vocabulary``, the tokens of the task's own training texts, most frequent
    first; ``sampled_vocabulary``, tokens drawn from the 5,000 first of the vocabulary; ``text``,
    the tokens of ``init_text``, repeated or cut to the length; ``uniform``, draws from -0.5 to 0.5.
    The training default is AdamW at 1e-2: the paper's 0.3 belongs to Adafactor on T5.
    """

    name: ClassVar[str] = "prompt_tuning"

    training: TrainingConfig = TrainingConfig(learning_rate=1e-2)
    length: int = Field(20, gt=0)
    init: Literal["vocabulary", "sampled_vocabulary", "text", "uniform"] = "vocabulary"
    init_text: str = ""
    instruction: bool = True

    def adapt(
        self,
        model: PretrainedDecoder,
        task: Task,
        *,
        seed: int,
        **run: Unpack[Run],
    ) -> Tuned:
        """Trains a soft prompt on the task's training examples; the decoder stays as it is.

        Raises:
            CannotRun: the task has no training examples, or none that fit the context.
            UserError: the soft prompt leaves no room for any example, or is longer than the
                vocabulary it is initialised from.
        """
        prompt = self.prompt(task if self.instruction else replace(task, instruction=""))
        room = model.config.context_length - self.length
        prepared = prepare(model, prompt, task.train, room=room).checked()
        rows = initial_rows(self, model, prepared.examples, seed)
        soft_prompt = SoftPrompt(jnp.asarray(rows))
        tuned = TunedDecoder(model.decoder, soft_prompt)
        result = train(
            tuned,
            nnx.PathContains("soft_prompt"),
            prepared.examples,
            self.training,
            seed=seed,
            front=prepared.front,
            validation=self.validation(model, prompt, task, room=room),
            **run,
        )
        learned = jax.device_get(soft_prompt.embeddings[...])  # small: it need not be sharded
        return Tuned(
            prompt,
            model,
            result.trainable_parameters,
            result.seconds,
            result.losses,
            soft_prompt=SoftPrompt(learned),
            details=told(prepared, result, length=self.length, init=self.init),
        )


def real_tokens(model: PretrainedDecoder) -> list[int]:
    """The token ids that text can hold: no special ones, no rows added to pad the embedding."""
    count = min(len(model.tokenizer), model.config.vocab_size)
    special = {*model.tokenizer.all_special_ids, *model.config.eos_ids}
    special |= {i for i in (model.config.bos_id, model.config.pad_id) if i is not None}
    return [token for token in range(count) if token not in special]


def initial_rows(
    method: PromptTuning, model: PretrainedDecoder, examples: list[TrainingExample], seed: int
) -> Float[np.ndarray, "P D"]:
    """The soft prompt before training, float32 (2104.08691, section 3.2).

    Raises:
        UserError: for more rows than there are tokens to begin with, or a text without tokens.
    """
    rng = np.random.default_rng(seed)
    if method.init == "uniform":
        shape = (method.length, model.config.embed_dim)
        return rng.uniform(-0.5, 0.5, shape).astype(np.float32)
    ids = INITS[method.init](method, model, examples, rng)
    if len(ids) < method.length:
        raise UserError(
            f"prompt_tuning: length {method.length} is more than the {len(ids)} tokens that "
            f"init {method.init!r} has; choose a smaller length or init 'uniform'"
        )
    chosen = jnp.asarray(ids[: method.length], jnp.int32)
    return np.asarray(jax.device_get(model.decoder.embed(chosen, jnp.float32)))


def _vocabulary(
    method: PromptTuning,
    model: PretrainedDecoder,
    examples: list[TrainingExample],
    rng: np.random.Generator,
) -> list[int]:
    """The task's own tokens, most frequent first; where they do not suffice, others at random."""
    real = set(real_tokens(model))
    counts = Counter(token for example in examples for token in example.tokens if token in real)
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    others = sorted(real - counts.keys())
    return ranked + [others[index] for index in rng.permutation(len(others))]


def _sampled_vocabulary(
    method: PromptTuning,
    model: PretrainedDecoder,
    examples: list[TrainingExample],
    rng: np.random.Generator,
) -> list[int]:
    common = real_tokens(model)[:COMMON]  # vocabularies begin with what is most frequent
    return [common[index] for index in rng.permutation(len(common))]


def _text(
    method: PromptTuning,
    model: PretrainedDecoder,
    examples: list[TrainingExample],
    rng: np.random.Generator,
) -> list[int]:
    real = set(real_tokens(model))
    ids = [token for token in model.encode(method.init_text, bos=False) if token in real]
    if not ids:
        raise UserError("prompt_tuning: init 'text' needs an init_text with at least one token")
    return ids * -(-method.length // len(ids))


Init = Callable[
    [PromptTuning, PretrainedDecoder, list[TrainingExample], np.random.Generator], list[int]
]
INITS: dict[str, Init] = {
    "vocabulary": _vocabulary,
    "sampled_vocabulary": _sampled_vocabulary,
    "text": _text,
}
