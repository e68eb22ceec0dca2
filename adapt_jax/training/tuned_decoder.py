"""The next-token loss: a sum over target tokens, divided by their number."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from adapt_jax.decoders.attention import KVPair, causal_mask
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.prefix import Prefix, PrefixCache, SoftPrompt, encode_prefix
from adapt_jax.training.cross_entropy import PLAIN, Objective, cross_entropy
from adapt_jax.training.packing import Batch

__all__ = ["TunedDecoder"]


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
        self, prompt_prefix: Int[Array, " F"], dtype: DTypeLike = jnp.float32
    ) -> list[KVPair]:
        """Keys and values [K, P, H] of each layer that has its own, for what all rows share.

        That is the soft prompt and the token ids ``prompt_prefix``; nothing, where P is 0.
        """
        prefix = Prefix((prompt_prefix,))
        if self.soft_prompt is not None:
            cut = int(not self.soft_prompt.before_bos)
            prefix = Prefix((prompt_prefix[:cut], self.soft_prompt, prompt_prefix[cut:]))
        return encode_prefix(self.decoder, prefix.embeddings(self.decoder, dtype)).layers

    def loss(
        self,
        batch: Batch,
        prefix: list[KVPair],
        dtype: DTypeLike = jnp.float32,
        *,
        count: Float[Array, ""] | None = None,
        objective: Objective = PLAIN,
        remat: str = "none",
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Mean cross-entropy in nats per target token, and the share of targets ranked first.

        Every segment attends to ``prefix``. Logits, and what the last layer computes after its
        attention, exist at target positions only.

        Args:
            dtype: what is computed in; losses and softmax are float32 always.
            count: what the sums are divided by, where the batch is one of several microbatches; by
                default the weight of its own targets.
            objective: what is minimised beside the cross-entropy; it is part of the loss.
            remat: what is computed again in the backward pass, a name in decoder.REMAT_POLICIES.
        """
        decoder = self.decoder
        length = prefix[0][0].shape[1] if prefix else 0
        hidden, _ = decoder(
            decoder.embed(batch.tokens, dtype),
            batch.positions + length,
            causal_mask(batch.segments),
            prefix=PrefixCache(prefix, length, length).blocks,
            output_positions=batch.target_index,
            remat=remat,
        )
        nats, right = cross_entropy(
            decoder, hidden, batch.target_id, batch.target_weight, objective
        )
        count = batch.target_weight.sum() if count is None else count
        return nats / count, right / count
