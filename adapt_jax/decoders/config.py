"""DecoderConfig: every way in which the decoder families differ, as plain fields."""

from dataclasses import dataclass, replace

from adapt_jax.decoders.activations import ACTIVATIONS, XIELU_NAME
from adapt_jax.decoders.alibi import Alibi
from adapt_jax.decoders.mixer_config import MixerConfig
from adapt_jax.decoders.part_configs import AltUpConfig, LatentAttentionConfig, Multipliers
from adapt_jax.decoders.rope import Rope

__all__ = ["DecoderConfig", "LatentAttentionConfig", "LayerConfig", "MoEConfig"]

NORMS = ("rms", "rms_plus_one", "layer", "layer_plus_one")
RESIDUALS = ("sequential", "parallel", "parallel_shared")
ROUTER_SCORES = ("softmax", "sigmoid")
QK_NORMS = (None, "head", "each_head", "projection", "unscaled")


@dataclass(frozen=True)
class LayerConfig:
    """The fields in which the layers of one decoder may differ.

    Attributes:
        rope: rotary positions of queries and keys; None for a layer without positions.
        window: how many tokens a token attends to, itself included; None for full attention.
        chunk: the tokens of a chunk, where a token attends within its own chunk only (Llama 4);
            None for no chunks.
        query_scaling: (beta, length, offset): queries are multiplied by
            1 + beta·log(1 + floor((position + offset) / length)) (2501.19399).
        is_moe: whether the feed-forward layer is a mixture of experts.
        head_dim, num_kv_heads, ffn_dim: sizes of this layer; 0 stands for the decoder's.
        attention_k_eq_v: whether there is no value projection. The values are then the keys before
            their norm and rotation.
        kv_shared_with: the index of an earlier layer whose keys and values this layer attends to.
            It computes none of its own.
        has_attention: whether the layer attends.
        has_state: whether it has the decoder's ``mixer``, which keeps a state. A layer that has
            both adds their outputs.
        has_ffn: whether it has a feed-forward layer, or experts.
        activation_sparsity: the share of a token's gates that become zero, if they were normally
            distributed (Gemma 3n); 0: none.
    """

    rope: Rope | None = Rope()
    window: int | None = None
    chunk: int | None = None
    query_scaling: tuple[float, int, int] | None = None
    is_moe: bool = False
    head_dim: int = 0
    num_kv_heads: int = 0
    ffn_dim: int = 0
    attention_k_eq_v: bool = False
    kv_shared_with: int | None = None
    has_attention: bool = True
    has_state: bool = False
    has_ffn: bool = True
    activation_sparsity: float = 0.0


@dataclass(frozen=True)
class MoEConfig:
    """A mixture of experts (1701.06538): each token passes a few of many feed-forward layers.

    Attributes:
        num_experts: E.
        experts_per_token: how many of them a token passes.
        ffn_dim: F of one expert.
        normalize_weights: whether the weights of a token's experts are scaled to add up to one. A
            softmax over the chosen experts alone is the same as one over all, normalized.
        scores: what the router makes of its logits: "softmax" over all experts, or a "sigmoid" of
            each. The highest scores choose, and are the weights.
        correction_bias: whether a learned number is added to each score where experts are chosen,
            and not to their weights (2408.15664).
        correction_bias_axes: 1 where these numbers are [E], 2 where they are [1, E] (ERNIE 4.5).
        sparse_mixer: a token passes two experts, and each is weighed by a softmax over itself and
            the experts that are left and whose logits are at most this share below (2 ·
            router_jitter_noise of SparseMixer-v2, 2409.12136); None for other routers.
        num_groups: the number of groups of consecutive experts.
        groups_per_token: how many groups a token's experts are chosen from (2405.04434,
            section 2.2.2).
        scores_per_group: how many of its best scores are summed to the score of a group.
        min_weight_sum: weights are normalized by their sum or this, whichever is more.
        weight_sum_offset: is added to this sum.
        weight_scale: the weights are multiplied by it.
        scale_inputs: whether weights multiply the inputs of experts instead of their outputs.
        router_bias: whether the router adds a bias to its logits.
        expert_bias: whether the projections of experts add a bias.
        swiglu_clamp: (alpha, limit): experts compute (up + 1) · gate · sigmoid(alpha · gate), of a
            gate of at most the limit and an up projection between both limits (gpt-oss).
        shared_ffn_dim: F of the shared expert, which every token passes (2401.06066); 0: none.
        shared_gate: whether a sigmoid of its input multiplies the shared expert's output.
        latent_dim: the size that a projection makes of tokens before the experts, and another one
            undoes after them (Nemotron 3); 0: none. The router and the shared expert read tokens.
    """

    num_experts: int
    experts_per_token: int
    ffn_dim: int
    normalize_weights: bool = True
    scores: str = "softmax"
    correction_bias: bool = False
    correction_bias_axes: int = 1
    sparse_mixer: float | None = None
    num_groups: int = 1
    groups_per_token: int = 1
    scores_per_group: int = 1
    min_weight_sum: float = 0.0
    weight_sum_offset: float = 0.0
    weight_scale: float = 1.0
    scale_inputs: bool = False
    router_bias: bool = False
    expert_bias: bool = False
    swiglu_clamp: tuple[float, float] | None = None
    shared_ffn_dim: int = 0
    shared_gate: bool = False
    latent_dim: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.experts_per_token <= self.num_experts:
            raise ValueError(
                f"num_experts_per_tok {self.experts_per_token}; expected 1 to {self.num_experts}"
            )
        if self.scores not in ROUTER_SCORES:
            raise ValueError(
                f"router scores {self.scores!r} are not supported; supported: "
                f"{', '.join(ROUTER_SCORES)}"
            )
        if self.num_experts % self.num_groups:
            raise ValueError(
                f"{self.num_experts} experts do not divide into {self.num_groups} groups"
            )
        group_size = self.num_experts // self.num_groups
        if not 0 < self.groups_per_token <= self.num_groups:
            raise ValueError(f"topk_group {self.groups_per_token}; expected 1 to {self.num_groups}")
        if self.experts_per_token > self.groups_per_token * group_size:
            raise ValueError(
                f"num_experts_per_tok {self.experts_per_token}; {self.groups_per_token} groups of "
                f"{group_size} experts have fewer"
            )
        if self.num_groups > 1 and self.scores_per_group > group_size:
            raise ValueError(f"groups of {group_size} experts have no {self.scores_per_group} best")


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder. A family translates a Hugging Face ``config.json`` into it.

    Attributes:
        family: the architecture that ``config.json`` names, a key of FAMILIES.
        context_length: the longest text in tokens, prefix included. Rotary frequencies that depend
            on the length of the text are computed for this one.
        layer_configs: one for each layer, or a single one for all layers.
        norm: "rms" (1910.07467), "layer" (1607.06450); or "rms_plus_one" or "layer_plus_one", whose
            stored scale is one less.
        norm_scale: whether norms multiply by a learned scale.
        norm_bias: whether norms add a bias.
        qk_norm: norm of queries and keys: None, of each "head", of "each_head" with a scale of its
            own, of the whole "projection", or of each head "unscaled", in layers with rotary
            positions.
        qk_norm_after_rope: whether this norm follows the rotation.
        qkv_clip: queries, keys and values are clipped to this absolute value, after their norm and
            before the rotation.
        value_norm: whether each head of values is normed, without a scale.
        pre_norm: whether a norm precedes attention, and another one the feed-forward layer.
        post_norm: whether a norm follows attention, and another one the feed-forward layer.
        norms_sums: whether these norms are of the sums with the residuals (1706.03762).
        final_norm: whether a norm follows the last layer.
        residual: "sequential"; "parallel" (attention and feed-forward layer read the same input);
            or "parallel_shared" (they share its norm, too).
        activation: a name in ACTIVATIONS, or "xielu", which has parameters.
        gated: whether the activation is multiplied by a second projection (2002.05202).
        latent_attention: the sizes of multi-head latent attention, where the decoder has that.
            ``head_dim`` is then the rotary part of queries and keys.
        moe: the mixture of experts, where the decoder has one.
        mixer: of layers that keep a state, where the decoder has them.
        altup: the streams of hidden states, where a token has several (Gemma 3n).
        multipliers: fixed factors of inputs and outputs of the parts of a layer.
        dense_with_moe: whether every layer has a dense feed-forward layer and a mixture of experts,
            whose outputs are added.
        alibi: how the scores of far keys are lowered, in decoders with ALiBi (2108.12409).
        attention_sinks: whether each head has a learned score that joins the softmax of attention
            and has no value: attention may go nowhere (2309.17453, gpt-oss).
        attention_scale: of attention scores; None is 1/sqrt(head_dim).
        attention_gate: whether what a head attends to is multiplied by the sigmoid of a projection
            (2505.06708).
        attention_softcap, logit_softcap: x becomes cap·tanh(x/cap).
        embedding_scale: of token embeddings. ``Decoder.embed`` applies it, so soft prompts are
            compared with embeddings after it.
        token_embed_dim: the size of token embeddings and soft prompts, where a projection leads
            from it to ``embed_dim``, and another one back before the output matrix; 0: neither.
        input_scale: of all input embeddings, soft prompts included.
        input_norm: whether a norm follows it (BLOOM).
        residual_scale: of what attention and feed-forward layer add to the hidden states.
        logit_divisor: logits are divided by it.
        layer_scale: whether the output of each layer is multiplied by a learned number.
        lm_head_bias: whether a bias is added to the logits.
        num_learned_positions: the number of learned position embeddings; 0 for rotary decoders.
        learned_position_offset: how many rows of their table precede that of position 0 (OPT).
        per_layer_embedding_dim: the size of the embedding that each layer has of its own for each
            token; 0 for none.
        per_layer_embedding_vocab: the number of tokens that have such embeddings.
        tie_embeddings: whether the output matrix is the token embedding.

    Raises:
        ValueError: fields contradict each other, or name what is not implemented.
    """

    family: str
    vocab_size: int
    embed_dim: int
    ffn_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    layer_configs: tuple[LayerConfig, ...] = (LayerConfig(),)
    norm: str = "rms"
    norm_eps: float = 1e-5
    norm_scale: bool = True
    norm_bias: bool = False
    qk_norm: str | None = None
    qk_norm_after_rope: bool = False
    qkv_clip: float | None = None
    pre_norm: bool = True
    post_norm: bool = False
    norms_sums: bool = False
    final_norm: bool = True
    residual: str = "sequential"
    activation: str = "silu"
    gated: bool = True
    latent_attention: LatentAttentionConfig | None = None
    moe: MoEConfig | None = None
    mixer: MixerConfig | None = None
    altup: AltUpConfig | None = None
    multipliers: Multipliers = Multipliers()
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    alibi: Alibi | None = None
    attention_sinks: bool = False
    attention_scale: float | None = None
    attention_gate: bool = False
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_scale: float = 1.0
    token_embed_dim: int = 0
    input_scale: float = 1.0
    input_norm: bool = False
    residual_scale: float = 1.0
    logit_divisor: float = 1.0
    lm_head_bias: bool = False
    num_learned_positions: int = 0
    learned_position_offset: int = 0
    value_norm: bool = False
    layer_scale: bool = False
    dense_with_moe: bool = False
    per_layer_embedding_dim: int = 0
    per_layer_embedding_vocab: int = 0
    tie_embeddings: bool = False
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None

    def __post_init__(self) -> None:
        if len(self.layer_configs) not in (1, self.num_layers):
            raise ValueError(
                f"layer_types has {len(self.layer_configs)} entries for {self.num_layers} layers"
            )
        for name, supported in (
            ("norm", NORMS),
            ("residual", RESIDUALS),
            ("qk_norm", QK_NORMS),
            ("activation", (*ACTIVATIONS, XIELU_NAME)),
        ):
            if (value := getattr(self, name)) not in supported:
                hf_name = "hidden_act" if name == "activation" else name
                names = ", ".join(map(str, supported))
                raise ValueError(f"{hf_name} {value!r} is not supported; supported: {names}")
        for layer in {self.layer_config(index) for index in range(self.num_layers)}:
            self._check_layer(layer)
        if self.activation == XIELU_NAME and (self.gated or self.moe is not None):
            raise ValueError(f"hidden_act {XIELU_NAME!r} is supported in ungated layers alone")
        if self.qk_norm_after_rope and self.qk_norm == "projection":
            raise ValueError("a norm of whole projections cannot follow the rotation of heads")
        if self.alibi is not None and self.latent_attention is not None:
            raise ValueError("alibi is not supported with multi-head latent attention")
        if self.norms_sums and (not self.post_norm or self.residual != "sequential"):
            raise ValueError("norms of sums are supported after sequential residuals alone")
        if self.lm_head_bias and self.tie_embeddings:
            raise ValueError("tie_word_embeddings True is not supported where logits have a bias")

    def _check_layer(self, layer: LayerConfig) -> None:
        if layer.has_state and self.mixer is None:
            raise ValueError("a layer keeps a state, but its mixer is not given")
        activation = getattr(self.mixer, "activation", "") or self.activation
        if layer.has_state and activation not in ACTIVATIONS:
            raise ValueError(
                f"{activation!r} is not supported in layers that keep a state; supported: "
                f"{', '.join(ACTIVATIONS)}"
            )
        if not 0 <= layer.activation_sparsity < 1:
            raise ValueError(
                f"activation_sparsity_pattern has {layer.activation_sparsity}; expected at least 0 "
                "and less than 1"
            )
        if layer.is_moe and self.moe is None:
            raise ValueError("a layer has experts, but their number is not given")
        if not layer.has_attention:
            return
        if self.num_heads % layer.num_kv_heads:
            raise ValueError(
                f"num_attention_heads {self.num_heads} is not a multiple of "
                f"num_key_value_heads {layer.num_kv_heads}"
            )
        if self.latent_attention is not None and layer.num_kv_heads != self.num_heads:
            raise ValueError(
                f"num_key_value_heads {layer.num_kv_heads}: expected {self.num_heads}, the number "
                "of heads, with multi-head latent attention"
            )
        if layer.rope is not None:
            if layer.head_dim % 2:
                raise ValueError(f"head_dim {layer.head_dim} is odd; rotary embeddings need pairs")
            layer.rope.frequencies(layer.head_dim)  # raises where a number does not fit
        if layer.window is not None and layer.window < 1:
            raise ValueError(f"sliding_window {layer.window}; expected at least 1")
        if layer.chunk is not None and layer.chunk < 1:
            raise ValueError(f"attention_chunk_size {layer.chunk}; expected at least 1")

    @property
    def input_dim(self) -> int:
        """The size of input embeddings, soft prompts included, and of what the output reads."""
        return self.token_embed_dim or self.embed_dim

    def layer_config(self, index: int) -> LayerConfig:
        """The config of one layer, counted from 0, with its sizes filled in."""
        layer = self.layer_configs[index if len(self.layer_configs) > 1 else 0]
        return replace(
            layer,
            head_dim=layer.head_dim or self.head_dim,
            num_kv_heads=layer.num_kv_heads or self.num_kv_heads,
            ffn_dim=layer.ffn_dim or self.ffn_dim,
        )

    def kv_cache_sizes(self, index: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Number and size of the heads of a layer's keys in caches, and of its values.

        A layer with latent attention keeps its latents as the keys of one head, and no values.
        """
        layer, latent = self.layer_config(index), self.latent_attention
        if latent is not None:
            return (1, latent.kv_rank + layer.head_dim), (1, 0)
        return ((layer.num_kv_heads, layer.head_dim),) * 2

    def query_head_dim(self, index: int) -> int:
        """The size of a head's queries and keys in attention."""
        latent = self.latent_attention
        return self.layer_config(index).head_dim + (0 if latent is None else latent.nope_dim)

    @property
    def layers_with_kv_cache(self) -> list[int]:
        """The layers that compute keys and values; prefixes and caches have one entry for each."""
        layers = ((index, self.layer_config(index)) for index in range(self.num_layers))
        return [n for n, one in layers if one.has_attention and one.kv_shared_with is None]

    @property
    def layers_with_state(self) -> list[int]:
        """The layers that keep a state; its entries in prefixes and caches follow the others."""
        return [n for n in range(self.num_layers) if self.layer_config(n).has_state]

    def with_context_length(self, context_length: int) -> "DecoderConfig":
        """The same decoder for texts of up to this many tokens, prefix included.

        Rotary frequencies that depend on the length of the text are computed for this length,
        however long a text is. ALiBi is made for texts of any length.

        Raises:
            ValueError: the decoder supports no texts of this length.
        """
        ropes = [layer.rope for layer in self.layer_configs if layer.rope is not None]
        if self.alibi is not None and context_length >= 1:
            return replace(self, context_length=context_length)
        longest = max([self.context_length, *(rope.max_positions or 0 for rope in ropes)])
        if not 1 <= context_length <= longest:
            raise ValueError(f"context_length {context_length}: expected 1 to {longest}")
        return replace(self, context_length=context_length)
