"""DecoderConfig: every way in which the decoder families differ, as plain fields."""

from dataclasses import dataclass, fields, replace

from adapt_jax.decoders.activations import ACTIVATIONS
from adapt_jax.decoders.rope import LONGEST, Rope

NORMS = ("rms", "rms_plus_one", "layer")
RESIDUALS = ("sequential", "parallel", "parallel_shared")
QK_NORMS = (None, "head", "projection")


@dataclass(frozen=True, repr=False)
class LayerConfig:
    """In what layers of one decoder differ.

    Attributes:
        rope: how positions turn queries and keys; None leaves them as they are.
        window: how many tokens a token sees, itself included; None: all that stand before it.
        is_moe: whether its feed-forward part is a mixture of experts.
        head_dim, num_kv_heads, ffn_dim: its own sizes; 0: those of the decoder.
        values_are_keys: whether it has no projection of values: they are the keys before norm and
            rotation.
        kv_shared_with: the number of an earlier layer, whose keys and values it attends to for want of its
            own.
    """

    rope: Rope | None = Rope()
    window: int | None = None
    is_moe: bool = False
    head_dim: int = 0
    num_kv_heads: int = 0
    ffn_dim: int = 0
    attention_k_eq_v: bool = False
    kv_shared_with: int | None = None

    def __repr__(self) -> str:
        """Later fields are told where they say something, so that fingerprints stay as they are."""
        told = (
            f"{one.name}={value!r}"
            for one in fields(self)
            if (value := getattr(self, one.name)) != one.default
            or one.name in ("rope", "window", "is_moe")
        )
        return f"LayerKind({', '.join(told)})"


@dataclass(frozen=True)
class MoEConfig:
    """A mixture of experts (1701.06538): each token goes through a few of many feed-forward parts.

    Attributes:
        num_experts: how many there are.
        experts_per_token: how many a token goes through.
        ffn_dim: F of one.
        normalize_weights: whether the weights of a token's experts are scaled to add up to one.
    """

    num_experts: int
    experts_per_token: int
    ffn_dim: int
    normalize_weights: bool = True


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder. A family file translates a Hugging Face ``config.json`` into it.

    Attributes:
        family: the architecture that ``config.json`` names, a key of FAMILIES.
        context_length: in tokens, the prefix counted. It is what the decoder is declared for:
            rotary frequencies that depend on the total length (Rope.limit) are chosen by it.
        layer_kinds: one for each layer, or a single one for all.
        norm: "rms" (1910.07467), "rms_plus_one" (the stored scale is one less) or "layer".
        norm_bias: whether norms add a bias.
        qk_norm: norm of queries and keys: None, of each "head", or of the whole "projection".
        value_norm: whether each head of values is normed, without a scale.
        pre_norm, post_norm: norms before, and after, attention and feed-forward part.
        residual: "sequential"; "parallel": attention and feed-forward part read the same input;
            "parallel_shared": and through the same norm.
        activation: a name in ACTIVATIONS. ``gated``: times a second projection (2002.05202).
        attention_scale: of the scores; None is head_dim to the power of -1/2.
        attention_softcap, logit_softcap: x becomes cap·tanh(x/cap).
        query_growth: (beta, length): queries grow by 1 + beta·log(1 + position // length).
        embedding_scale: of token embeddings; ``Decoder.embed`` applies it, so that learned
            embeddings live after it. ``input_scale``: of all input embeddings, learned ones too.
        residual_scale: of what attention and feed-forward part add. ``logit_divisor``: of logits.
        layer_scale: whether each layer learned a factor for all that it hands on.
        dense_with_moe: the experts stand beside the dense feed-forward part of every layer, not in
            its place.
        layer_input_dim: of what a token tells each layer beside its embedding; 0 for nothing.
            ``per_layer_embedding_vocab``: how many tokens do.
        learned_positions: how many there are; 0 for none (rotary decoders).
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
    norm_bias: bool = False
    qk_norm: str | None = None
    pre_norm: bool = True
    post_norm: bool = False
    residual: str = "sequential"
    activation: str = "silu"
    gated: bool = True
    moe: MoEConfig | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    llama_4_scaling: tuple[float, int] | None = None
    embedding_scale: float = 1.0
    input_scale: float = 1.0
    residual_scale: float = 1.0
    logit_divisor: float = 1.0
    learned_positions: int = 0
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
        for name, known in (
            ("norm", NORMS),
            ("residual", RESIDUALS),
            ("qk_norm", QK_NORMS),
            ("activation", ACTIVATIONS),
        ):
            if (value := getattr(self, name)) not in known:
                said = "hidden_act" if name == "activation" else name
                raise ValueError(
                    f"{said} {value!r} is not supported; supported: {', '.join(map(str, known))}"
                )
        for kind in {self.layer_config(index) for index in range(self.num_layers)}:
            if self.num_heads % kind.num_kv_heads:
                raise ValueError(
                    f"num_attention_heads {self.num_heads} is not a multiple of "
                    f"num_key_value_heads {kind.num_kv_heads}"
                )
            if kind.rope is not None:
                if kind.head_dim % 2:
                    raise ValueError(
                        f"head_dim {kind.head_dim} is odd; rotary embeddings need pairs"
                    )
                kind.rope.frequencies(kind.head_dim)
            if kind.window is not None and kind.window < 1:
                raise ValueError(f"sliding_window {kind.window}; expected at least 1")
            if kind.is_moe and self.moe is None:
                raise ValueError("a layer has experts, but their number is not given")
        if self.moe is not None and not 0 < self.moe.experts_per_token <= self.moe.num_experts:
            raise ValueError(
                f"num_experts_per_tok {self.moe.experts_per_token}; expected 1 to {self.moe.num_experts}"
            )

    def layer_config(self, index: int) -> LayerConfig:
        """What kind of layer this is, counted from 0, with its sizes."""
        kind = self.layer_configs[index if len(self.layer_configs) > 1 else 0]
        return replace(
            kind,
            head_dim=kind.head_dim or self.head_dim,
            num_kv_heads=kind.num_kv_heads or self.num_kv_heads,
            ffn_dim=kind.ffn_dim or self.ffn_dim,
        )

    @property
    def layers_with_kv_cache(self) -> list[int]:
        """The layers with keys and values of their own; caches and prefixes have an entry each."""
        return [
            index
            for index in range(self.num_layers)
            if self.layer_config(index).kv_shared_with is None
        ]

    def with_context_length(self, context_length: int) -> "DecoderConfig":
        """The same decoder, declared for texts of up to this many tokens, the prefix counted.

        Rotary frequencies that depend on the total length are chosen by it, once and for all.

        Raises:
            ValueError: the decoder cannot go that far.
        """
        ropes = [kind.rope for kind in self.layer_configs if kind.rope and kind.rope.limit]
        farthest = self.context_length
        for rope in ropes:
            reach = dict(rope.numbers)[LONGEST] * (
                dict(rope.numbers)["factor"] if rope.kind == "dynamic" else 1
            )
            farthest = max(farthest, int(reach))
        if not 1 <= context_length <= farthest:
            raise ValueError(f"context_length {context_length}: expected 1 to {farthest}")
        return replace(self, context_length=context_length)
