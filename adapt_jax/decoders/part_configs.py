"""The shapes of parts that few families have."""

from dataclasses import dataclass

__all__ = ["AltUpConfig", "LatentAttentionConfig", "Multipliers"]


@dataclass(frozen=True)
class AltUpConfig:
    """Alternating updates (2301.13310), and a learned augmented residual layer, of Gemma 3n.

    Attributes:
        num_streams: hidden states that a token has side by side; each layer computes one of them,
            and predicts the others.
        active: the stream that the layers compute.
        scales_output: whether the active stream is scaled before it gates the per-layer embedding.
        laurel_rank: the rank of the low-rank residual beside attention (2411.07501).
    """

    num_streams: int
    active: int
    scales_output: bool
    laurel_rank: int

    def __post_init__(self) -> None:
        if self.num_streams < 1 or self.laurel_rank < 1:
            raise ValueError(
                f"altup_num_inputs {self.num_streams} and laurel_rank {self.laurel_rank}; expected "
                "at least 1"
            )
        if not 0 <= self.active < self.num_streams:
            raise ValueError(
                f"altup_active_idx {self.active}; expected 0 to {self.num_streams - 1}"
            )


@dataclass(frozen=True)
class Multipliers:
    """Fixed factors of inputs and outputs (maximal update parametrization; Falcon-H1, 2507.22448).

    Attributes:
        attention_input, attention_output: of attention.
        key: of its keys.
        mixer_input, mixer_output: of the mixer beside it.
        mixer_projections: of the mixer's projections: gate, value, key, query and time step.
        ffn_gate, ffn_output: of the feed-forward layer.
    """

    attention_input: float = 1.0
    attention_output: float = 1.0
    key: float = 1.0
    mixer_input: float = 1.0
    mixer_output: float = 1.0
    mixer_projections: tuple[float, ...] = (1.0,) * 5
    ffn_gate: float = 1.0
    ffn_output: float = 1.0

    def __post_init__(self) -> None:
        if len(self.mixer_projections) != 5:
            raise ValueError(
                f"ssm_multipliers has {len(self.mixer_projections)} entries; expected 5"
            )


@dataclass(frozen=True)
class LatentAttentionConfig:
    """Multi-head latent attention (2405.04434, section 2.1): all heads share one latent per token.

    Attributes:
        kv_rank: the size of the latent from which keys and values of all heads are projected.
        query_rank: the size of the latent of queries; None where they are projected directly.
        nope_dim: the size of a head's queries and keys without positions. A rotary part of
            ``head_dim`` features follows; that of the keys is the same for all heads.
        value_dim: the size of a head's values.
        norm_eps: of the norms of both latents.
    """

    kv_rank: int
    query_rank: int | None
    nope_dim: int
    value_dim: int
    norm_eps: float = 1e-6
