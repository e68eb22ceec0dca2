"""The next-token loss: a sum over target tokens, divided by their number."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from adapt_jax.decoders.attention import PackedRows
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.execution import UNROLLED, Execution
from adapt_jax.decoders.prefix import Prefix, PrefixCache, SoftPrompt, encode_prefix
from adapt_jax.training.chunk_loss import PLAIN, Objective
from adapt_jax.training.cross_entropy import cross_entropy
from adapt_jax.training.packing import Batch

__all__ = ["TunedDecoder", "spread_targets"]


class TunedDecoder(nnx.Module):
    """The model of a training step: a decoder, and perhaps a soft prompt before every row."""

    def __init__(self, decoder: Decoder, soft_prompt: SoftPrompt | None = None):
        self.decoder = decoder
        self.soft_prompt = nnx.data(soft_prompt)

    @property
    def ensemble(self) -> int | None:
        """How many soft prompts are trained together; the loss is that of one of them."""
        return None if self.soft_prompt is None else self.soft_prompt.ensemble_size

    @property
    def soft_prompt_length(self) -> int:
        """In tokens; 0 without a soft prompt."""
        return 0 if self.soft_prompt is None else len(self.soft_prompt)

    def prefix(
        self,
        prompt_prefix: Int[Array, " F"],
        dtype: DTypeLike = jnp.float32,
        execution: Execution = UNROLLED,
    ) -> PrefixCache:
        """What layers keep of the prefix that all rows share.

        That is the soft prompt and the token ids ``prompt_prefix``; nothing, where P is 0.
        """
        prefix = Prefix((prompt_prefix,))
        if self.soft_prompt is not None:
            cut = int(not self.soft_prompt.before_bos)
            prefix = Prefix((prompt_prefix[:cut], self.soft_prompt, prompt_prefix[cut:]))
        embeddings = prefix.embeddings(self.decoder, dtype)
        return encode_prefix(self.decoder, embeddings, execution=execution)

    def loss(
        self,
        batch: Batch,
        prefix: PrefixCache,
        dtype: DTypeLike = jnp.float32,
        *,
        count: Float[Array, ""] | None = None,
        objective: Objective = PLAIN,
        execution: Execution = UNROLLED,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Mean cross-entropy in nats per target token, and the share of targets ranked first.

        Every segment follows ``prefix``. Logits, and what the last layer computes after its
        attention, exist at target positions only.

        Args:
            dtype: what is computed in; losses and softmax are float32 always.
            count: what the sums are divided by, where the batch is one of several microbatches; by
                default the weight of its own targets.
            objective: what is minimised besides the cross-entropy; it is part of the loss.
            execution: how the layers run on the platform.
        """
        decoder = self.decoder
        ids, weights, mesh = batch.target_id, batch.target_weight, None
        positions: Array | None = batch.target_index
        if execution.local_targets:  # the targets of a device's rows stay on the device
            (ids, weights), positions, mesh = spread_targets(batch), None, execution.mesh
        hidden, _ = decoder(
            decoder.embed(batch.tokens, dtype),
            batch.positions + prefix.length,
            PackedRows(batch.segments),
            prefix=prefix.blocks,
            output_positions=positions,
            keep_kv=False,
            execution=execution,
        )
        hidden = hidden.reshape(-1, hidden.shape[-1])
        nats, right = cross_entropy(decoder, hidden, ids, weights, objective, mesh)
        count = batch.target_weight.sum() if count is None else count
        return nats / count, right / count


def spread_targets(batch: Batch) -> tuple[Int[Array, " R*T"], Float[Array, " R*T"]]:
    """For every token the id of the target that it predicts, and its weight; 0 where none is."""
    size = batch.tokens.size
    ids = jnp.zeros(size, batch.target_id.dtype).at[batch.target_index].max(batch.target_id)
    weights = jnp.zeros(size, batch.target_weight.dtype)
    return ids, weights.at[batch.target_index].add(batch.target_weight)
