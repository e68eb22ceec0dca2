"""Initial values of a soft prompt (2104.08691, section 3.2).

vocabulary          the tokens of the task's own training texts, the most frequent ones first (stop
                    words included: among subwords it is not clear what they would be)
sampled_vocabulary  tokens drawn from the 5,000 most frequent of the vocabulary
labels              the answers of the training examples, each the mean of its tokens' embeddings;
                    then sampled vocabulary
text                the tokens of ``init_text``, repeated or cut to the length
uniform             draws from -0.5 to 0.5
a folder            the soft prompt of an earlier adaptation, or of a PEFT adapter

The members of an ensemble must start differently: each takes its own words of the vocabulary, or
its own draws.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from adapt_jax.pretrained.loading import PretrainedDecoder
from adapt_jax.pretrained.peft.folder import PROMPT_EMBEDDINGS
from adapt_jax.pretrained.safetensors_io import read_tensors
from adapt_jax.training.packing import TrainingExample
from adapt_jax.utils.bucket import localize, to_path
from adapt_jax.utils.distributed import fetch_array
from adapt_jax.utils.errors import UserError, nearest

if TYPE_CHECKING:
    from adapt_jax.methods.prompt_tuning import PromptTuning

__all__ = ["INITS", "SoftPromptInit", "draw_members", "draw_soft_prompt", "list_text_tokens"]

# Where a soft prompt lies: in an adaptation, in the folder of a run, in a PEFT adapter.
SOFT_PROMPT_FILES = (
    "soft_prompt.safetensors",
    "adaptation/soft_prompt.safetensors",
    "adapter_model.safetensors",
)
NUM_COMMON_TOKENS = 5000  # that "sampled_vocabulary" draws from


@dataclass(frozen=True)
class SoftPromptInit:
    """All that one soft prompt can be initialised from.

    Attributes:
        labels: the answers of the training examples.
        rng: of this member alone.
        member: of an ensemble, from 0.
    """

    method: "PromptTuning"
    model: PretrainedDecoder
    examples: Sequence[TrainingExample]
    labels: Sequence[str]
    rng: np.random.Generator
    member: int = 0

    def embed(self, token_ids: Sequence[int]) -> Float[np.ndarray, "P D"]:
        """The embeddings of tokens, as the decoder's first layer sees them."""
        rows = self.model.decoder.embed(jnp.asarray(token_ids, jnp.int32), jnp.float32)
        return fetch_array(rows)[:, : self.model.config.input_dim]

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, without special ones."""
        tokens = self.model.encode(text, bos=False)
        return [token for token in tokens if token in self.allowed]

    @cached_property
    def allowed(self) -> set[int]:
        """Token ids that text can hold."""
        return set(list_text_tokens(self.model))


def list_text_tokens(model: PretrainedDecoder) -> list[int]:
    """Token ids that text can hold: no special tokens, no rows that only pad the embedding."""
    count = min(len(model.tokenizer), model.config.vocab_size)
    special = {*model.tokenizer.all_special_ids, *model.config.eos_ids}
    special |= {i for i in (model.config.bos_id, model.config.pad_id) if i is not None}
    return [token for token in range(count) if token not in special]


def draw_members(
    method: "PromptTuning",
    model: PretrainedDecoder,
    examples: Sequence[TrainingExample],
    seed: int,
    labels: Sequence[str] = (),
) -> Float[np.ndarray, "P D"] | Float[np.ndarray, "N P D"]:
    """The initial soft prompt, [P, D]; of an ensemble the soft prompts of its members, [N, P, D].

    Raises:
        UserError: as ``draw_soft_prompt``, or two members start alike and would stay alike.
    """
    members = [
        draw_soft_prompt(method, model, examples, seed, labels, member)
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


def draw_soft_prompt(
    method: "PromptTuning",
    model: PretrainedDecoder,
    examples: Sequence[TrainingExample],
    seed: int,
    labels: Sequence[str] = (),
    member: int = 0,
) -> Float[np.ndarray, "P D"]:
    """One soft prompt before training, float32.

    Args:
        labels: the answers that ``init: labels`` begins with; repeated ones count once.
        member: of an ensemble, from 0; the first draws what a soft prompt without others would.

    Raises:
        UserError: an unknown ``init``, fewer rows than the length, or a text without tokens.
    """
    rng = np.random.default_rng([seed, member] if member else seed)
    make_rows = INITS.get(method.init, _from_folder)
    rows = make_rows(SoftPromptInit(method, model, examples, labels, rng, member))
    if len(rows) < method.length:
        raise UserError(
            f"prompt_tuning: length {method.length} is more than the {len(rows)} rows that "
            f"init {method.init!r} has; choose a smaller length or init 'uniform'"
        )
    return rows[: method.length]


def _vocabulary(start: SoftPromptInit) -> Float[np.ndarray, "P D"]:
    tokens = (token for example in start.examples for token in example.tokens)
    counts = Counter(token for token in tokens if token in start.allowed)
    most_frequent = sorted(counts, key=lambda token: (-counts[token], token))
    # members take turns, so that no two of them start from the same word
    own = most_frequent[start.member :: start.method.ensemble]
    # where the task has too few words, others at random
    others = sorted(start.allowed - counts.keys())
    drawn = [others[index] for index in start.rng.permutation(len(others))]
    return start.embed((own + drawn)[: start.method.length])


def _sampled_vocabulary(start: SoftPromptInit) -> Float[np.ndarray, "P D"]:
    common = list_text_tokens(start.model)[:NUM_COMMON_TOKENS]  # the most frequent come first
    chosen = start.rng.permutation(len(common))[: start.method.length]
    return start.embed([common[index] for index in chosen])


def _labels(start: SoftPromptInit) -> Float[np.ndarray, "P D"]:
    encoded = (start.encode(f" {label}") for label in dict.fromkeys(start.labels))
    chosen = list(islice(filter(None, encoded), start.method.length))
    if not chosen:
        raise UserError("prompt_tuning: init 'labels' needs training examples with answers")
    means = [start.embed(token_ids).mean(axis=0) for token_ids in chosen]
    return np.concatenate([np.stack(means), _sampled_vocabulary(start)])


def _text(start: SoftPromptInit) -> Float[np.ndarray, "P D"]:
    token_ids = start.encode(start.method.init_text)
    if not token_ids:
        raise UserError("prompt_tuning: init 'text' needs an init_text with at least one token")
    repetitions = -(-start.method.length // len(token_ids))
    return start.embed(token_ids * repetitions)


def _uniform(start: SoftPromptInit) -> Float[np.ndarray, "P D"]:
    shape = (start.method.length, start.model.config.input_dim)
    return start.rng.uniform(-0.5, 0.5, shape).astype(np.float32)


def _from_folder(start: SoftPromptInit) -> Float[np.ndarray, "P D"]:
    folder, embed_dim = to_path(start.method.init), start.model.config.input_dim
    if not folder.is_dir():
        raise UserError(
            f"prompt_tuning.init: {start.method.init!r} is no folder of an adaptation, nor one of "
            f"{', '.join(INITS)}{nearest(start.method.init, INITS)}"
        )
    folder = localize(folder)
    file = next((folder / n for n in SOFT_PROMPT_FILES if (folder / n).is_file()), None)
    if file is None:
        raise UserError(
            f"prompt_tuning.init: {folder} holds no soft prompt ({SOFT_PROMPT_FILES[0]} not found)"
        )
    tensors = read_tensors(file)
    if PROMPT_EMBEDDINGS not in tensors:
        raise UserError(
            f"prompt_tuning.init: {file} holds no soft prompt ({PROMPT_EMBEDDINGS} not found)"
        )
    rows = tensors[PROMPT_EMBEDDINGS].astype(np.float32)
    if rows.ndim == 3:  # an ensemble: its members go to the members
        if len(rows) != start.method.ensemble:
            raise UserError(
                f"prompt_tuning.init: {file} holds an ensemble of {len(rows)} soft prompts; "
                f"expected ensemble {len(rows)}, found {start.method.ensemble}"
            )
        rows = rows[start.member]
    if rows.ndim != 2 or rows.shape[1] != embed_dim:
        raise UserError(
            f"prompt_tuning.init: {file} has shape {rows.shape}; the embeddings of "
            f"{start.model.path} have size {embed_dim}"
        )
    return rows


INITS: dict[str, Callable[[SoftPromptInit], Float[np.ndarray, "P D"]]] = {
    "vocabulary": _vocabulary,
    "sampled_vocabulary": _sampled_vocabulary,
    "labels": _labels,
    "text": _text,
    "uniform": _uniform,
}
