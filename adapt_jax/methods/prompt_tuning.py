"""Prompt tuning: learned embeddings in front of the question, the decoder frozen (2104.08691)."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file

from adapt_jax.decoders.prefix import SoftPrompt
from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.tasks.task import Task
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.examples import TuningMethod, TuningResult, summarize, tokenize_examples
from adapt_jax.training.packing import TrainingExample
from adapt_jax.training.trainer import RunOptions, train
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.utils.errors import UserError, nearest

# Where a soft prompt lies: in an adaptation, in the folder of a run, in a PEFT adapter.
SAVED = (
    "soft_prompt.safetensors",
    "adaptation/soft_prompt.safetensors",
    "adapter_model.safetensors",
)
COMMON = 5000  # rows that "sampled_vocabulary" draws from (2104.08691, section 3.2)


class PromptTuning(TuningMethod):
    """``length`` learned embeddings, then the task's instruction, in front of every question.

    ``init`` is one of: ``vocabulary``, the tokens of the task's own training texts, most frequent
    first (stop words are not left out: with subwords it is not clear what they would be);
    ``sampled_vocabulary``, tokens drawn from the 5,000 first of the vocabulary; ``labels``, the
    answers of the training examples, each the mean of its tokens' embeddings, then sampled
    vocabulary; ``text``, the tokens of ``init_text``, repeated or cut to the length; ``uniform``,
    draws from -0.5 to 0.5; or the folder of an earlier adaptation (or of a PEFT adapter), whose
    soft prompt this one starts from. ``position`` is the side of BOS on which the prompt stands.
    ``ensemble`` is how many soft prompts are trained together, on the same batches and each as if
    it were alone; they answer in one pass and the majority of their answers counts (section 6).
    Each starts from its own words of the vocabulary or its own draws.
    The training default is AdamW at 1e-2: the paper's 0.3 belongs to Adafactor on T5.
    """

    name: ClassVar[str] = "prompt_tuning"

    training: TrainingConfig = TrainingConfig(learning_rate=1e-2)
    length: int = Field(20, gt=0)
    init: str = "vocabulary"
    init_text: str = ""
    position: Literal["before_bos", "after_bos"] = "before_bos"
    instruction: bool = True
    ensemble: int = Field(1, gt=0)

    def adapt(
        self,
        model: PretrainedDecoder,
        task: Task,
        *,
        seed: int,
        **run: Unpack[RunOptions],
    ) -> TuningResult:
        """Trains a soft prompt on the task's training examples; the decoder stays as it is.

        Raises:
            CannotRun: the task has no training examples, or none that fit the context.
            UserError: the soft prompt is as long as the context, longer than what it is initialised
                from, no such initialisation is known, or all of an ensemble start alike.
        """
        if self.length >= (context := model.config.context_length):
            raise UserError(
                f"prompt_tuning.length {self.length} leaves no room for a question: the decoder's "
                f"context is {context} tokens"
            )
        prompt = self.prompt(task if self.instruction else replace(task, instruction=""))
        if self.ensemble > 1:
            prompt = replace(prompt, vote="majority")
        room = model.config.context_length - self.length
        prepared = tokenize_examples(model, prompt, task.train, room=room).checked()
        labels = [example.answer for example in task.train if example.answer]
        rows = initial_members(self, model, prepared.examples, seed, labels)
        begun = prepared.prompt_prefix[:1] == (model.config.bos_id,)
        before_bos = self.position == "before_bos" or not begun  # where there is no BOS: first
        soft_prompt = SoftPrompt(jnp.asarray(rows), before_bos)
        tuned = TunedDecoder(model.decoder, soft_prompt)
        result = train(
            tuned,
            nnx.PathContains("soft_prompt"),
            prepared.examples,
            self.training,
            seed=seed,
            prompt_prefix=prepared.prompt_prefix,
            validation=self.validation(model, prompt, task, room=room),
            **run,
        )
        learned = jax.device_get(soft_prompt.embeddings[...])  # small: it need not be sharded
        return TuningResult(
            prompt,
            model,
            result.trainable_parameters,
            result.seconds,
            result.losses,
            soft_prompt=SoftPrompt(learned, before_bos),
            details=summarize(
                prepared,
                result,
                length=self.length,
                members=self.ensemble,
                init=self.init,
                optimizer=self.training.optimizer,
                learning_rate=self.training.learning_rate,
            ),
        )


def real_tokens(model: PretrainedDecoder) -> list[int]:
    """The token ids that text can hold: no special ones, no rows added to pad the embedding."""
    count = min(len(model.tokenizer), model.config.vocab_size)
    special = {*model.tokenizer.all_special_ids, *model.config.eos_ids}
    special |= {i for i in (model.config.bos_id, model.config.pad_id) if i is not None}
    return [token for token in range(count) if token not in special]


def initial_members(
    method: PromptTuning,
    model: PretrainedDecoder,
    examples: list[TrainingExample],
    seed: int,
    labels: Sequence[str] = (),
) -> Float[np.ndarray, "P D"] | Float[np.ndarray, "N P D"]:
    """What ``initial_rows`` gives each member of an ensemble; of no ensemble, [P, D].

    Raises:
        UserError: as ``initial_rows``, or two members start alike and would stay alike.
    """
    members = [
        initial_rows(method, model, examples, seed, labels, member)
        for member in range(method.ensemble)
    ]
    if method.ensemble == 1:
        return members[0]
    if len({rows.tobytes() for rows in members}) < len(members):
        raise UserError(
            f"prompt_tuning.ensemble {method.ensemble}: init {method.init!r} starts members alike, "
            "and they would stay alike; choose init vocabulary, sampled_vocabulary or uniform"
        )
    return np.stack(members)


def initial_rows(
    method: PromptTuning,
    model: PretrainedDecoder,
    examples: list[TrainingExample],
    seed: int,
    labels: Sequence[str] = (),
    member: int = 0,
) -> Float[np.ndarray, "P D"]:
    """The soft prompt before training, float32 (2104.08691, section 3.2).

    Args:
        labels: the answers that ``init: labels`` begins with; repeated ones count once.
        member: of an ensemble, from 0; the first draws as a soft prompt without others would.

    Raises:
        UserError: an unknown ``init``, more rows than it has, or a text without tokens.
    """
    start = INITS.get(method.init, _transferred)
    draws = np.random.default_rng([seed, member] if member else seed)
    rows = start(Source(method, model, examples, labels, draws, member))
    if len(rows) < method.length:
        raise UserError(
            f"prompt_tuning: length {method.length} is more than the {len(rows)} rows that "
            f"init {method.init!r} has; choose a smaller length or init 'uniform'"
        )
    return rows[: method.length]


@dataclass(frozen=True)
class Source:
    """What a soft prompt can be initialised from."""

    method: PromptTuning
    model: PretrainedDecoder
    examples: list[TrainingExample]
    labels: Sequence[str]
    draws: np.random.Generator
    member: int = 0

    def embedded(self, ids: Sequence[int]) -> Float[np.ndarray, "P D"]:
        """The embeddings of tokens, as the decoder takes them in."""
        rows = self.model.decoder.embed(jnp.asarray(ids, jnp.int32), jnp.float32)
        return np.asarray(jax.device_get(rows))[:, : self.model.config.embed_dim]

    def encoded(self, text: str) -> list[int]:
        """The tokens of a text that are no special ones."""
        real = set(real_tokens(self.model))
        return [token for token in self.model.encode(text, bos=False) if token in real]


def _vocabulary(source: Source) -> Float[np.ndarray, "P D"]:
    """The task's own tokens, most frequent first; where they do not suffice, others at random.

    The members of an ensemble deal them out among themselves.
    """
    real = set(real_tokens(source.model))
    seen = (token for example in source.examples for token in example.tokens if token in real)
    counts = Counter(seen)
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    others = sorted(real - counts.keys())
    drawn = [others[index] for index in source.draws.permutation(len(others))]
    mine = ranked[source.member :: source.method.ensemble]
    return source.embedded((mine + drawn)[: source.method.length])


def _sampled_vocabulary(source: Source) -> Float[np.ndarray, "P D"]:
    common = real_tokens(source.model)[:COMMON]  # vocabularies begin with what is most frequent
    chosen = source.draws.permutation(len(common))[: source.method.length]
    return source.embedded([common[index] for index in chosen])


def _labels(source: Source) -> Float[np.ndarray, "P D"]:
    named = [ids for label in dict.fromkeys(source.labels) if (ids := source.encoded(f" {label}"))]
    if not named:
        raise UserError("prompt_tuning: init 'labels' needs training examples with answers")
    means = [source.embedded(ids).mean(axis=0) for ids in named[: source.method.length]]
    return np.concatenate([np.stack(means), _sampled_vocabulary(source)])


def _text(source: Source) -> Float[np.ndarray, "P D"]:
    ids = source.encoded(source.method.init_text)
    if not ids:
        raise UserError("prompt_tuning: init 'text' needs an init_text with at least one token")
    return source.embedded(ids * -(-source.method.length // len(ids)))


def _uniform(source: Source) -> Float[np.ndarray, "P D"]:
    shape = (source.method.length, source.model.config.embed_dim)
    return source.draws.uniform(-0.5, 0.5, shape).astype(np.float32)


def _transferred(source: Source) -> Float[np.ndarray, "P D"]:
    """The soft prompt in a folder: of an adaptation, of one under a run, or of a PEFT adapter."""
    folder, wanted = Path(source.method.init), source.model.config.embed_dim
    if not folder.is_dir():
        raise UserError(
            f"prompt_tuning.init: {source.method.init!r} is no folder of an adaptation, nor one of "
            f"{', '.join(INITS)}{nearest(source.method.init, INITS)}"
        )
    found = next((folder / name for name in SAVED if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"prompt_tuning.init: {folder} holds no soft prompt ({SAVED[0]} not found)")
    try:
        rows = load_file(found)["prompt_embeddings"].astype(np.float32)
    except (OSError, SafetensorError, KeyError) as problem:
        raise UserError(f"prompt_tuning.init: {found} holds no soft prompt ({problem})") from None
    if rows.ndim == 3:
        if len(rows) != source.method.ensemble:
            raise UserError(
                f"prompt_tuning.init: {found} holds an ensemble of {len(rows)} soft prompts; "
                f"expected ensemble {len(rows)}, found {source.method.ensemble}"
            )
        rows = rows[source.member]
    if rows.ndim != 2 or rows.shape[1] != wanted:
        raise UserError(
            f"prompt_tuning.init: {found} has shape {rows.shape}; the embeddings of "
            f"{source.model.path} have size {wanted}"
        )
    return rows


INITS: dict[str, Callable[[Source], Float[np.ndarray, "P D"]]] = {
    "vocabulary": _vocabulary,
    "sampled_vocabulary": _sampled_vocabulary,
    "labels": _labels,
    "text": _text,
    "uniform": _uniform,
}
