"""The shapes of layers that keep a state in place of keys and values."""

from dataclasses import dataclass

__all__ = ["ConvolutionConfig", "DeltaNetConfig", "Mamba2Config", "MambaConfig", "MixerConfig"]


@dataclass(frozen=True)
class ConvolutionConfig:
    """A short gated convolution (LFM2).

    Attributes:
        taps: how many tokens the convolution reads, the newest included.
        bias: whether projections and convolution have biases.
    """

    taps: int
    bias: bool = False

    def __post_init__(self) -> None:
        _check_sizes(taps=self.taps)


@dataclass(frozen=True)
class DeltaNetConfig:
    """A gated delta net (2412.06464).

    Attributes:
        num_key_heads, num_value_heads: each key head serves as many neighbouring value heads.
        key_dim, value_dim: sizes of a head.
        taps: how many tokens the convolution before it reads, the newest included.
    """

    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int
    taps: int

    def __post_init__(self) -> None:
        _check_sizes(**vars(self))
        if self.num_value_heads % self.num_key_heads:
            raise ValueError(
                f"linear_num_value_heads {self.num_value_heads} is not a multiple of "
                f"linear_num_key_heads {self.num_key_heads}"
            )

    @property
    def key_size(self) -> int:
        """The size of all keys of a token."""
        return self.num_key_heads * self.key_dim

    @property
    def value_size(self) -> int:
        """The size of all values of a token."""
        return self.num_value_heads * self.value_dim

    @property
    def num_channels(self) -> int:
        """Of the convolution: queries, keys and values."""
        return 2 * self.key_size + self.value_size


@dataclass(frozen=True)
class Mamba2Config:
    """A Mamba 2 layer (2405.21060).

    Attributes:
        num_heads, head_dim: of the values.
        num_groups: of heads, each of which shares keys and queries; and of features for the norm.
        state_dim: size of keys and queries.
        taps: how many tokens the convolution before it reads, the newest included.
        bias, convolution_bias: whether projections, and the convolution, have biases.
        output_bias: whether the projection ``output`` has one; None stands for ``bias``.
        gated_norm: "after" the gate, "before" the gate, or "none": a gate alone.
        activation: after the convolution; "" stands for the decoder's.
        chunk_length: tokens that transformers takes at a time. It changes no more than rounding,
            and is kept for export.
    """

    num_heads: int
    head_dim: int
    num_groups: int
    state_dim: int
    taps: int
    bias: bool = False
    convolution_bias: bool = True
    output_bias: bool | None = None
    gated_norm: str = "after"
    activation: str = ""
    chunk_length: int = 256

    def __post_init__(self) -> None:
        sizes = ("num_heads", "head_dim", "num_groups", "state_dim", "taps")
        _check_sizes(**{name: getattr(self, name) for name in sizes})
        if self.num_heads % self.num_groups:
            raise ValueError(
                f"{self.num_heads} heads of Mamba do not divide into {self.num_groups} groups"
            )

    @property
    def key_size(self) -> int:
        """The size of all keys of a token."""
        return self.num_groups * self.state_dim

    @property
    def value_size(self) -> int:
        """The size of all values of a token."""
        return self.num_heads * self.head_dim


@dataclass(frozen=True)
class MambaConfig:
    """A Mamba layer (2312.00752).

    Attributes:
        inner_dim: the number of channels.
        state_dim: size of the state of a channel.
        time_step_rank: of the projection of time steps.
        taps: how many tokens the convolution before it reads, the newest included.
        bias, convolution_bias: whether projections, and the convolution, have biases.
        norm_eps: of the norms of time steps, keys and queries (Falcon-Mamba); None for no norms.
    """

    inner_dim: int
    state_dim: int
    time_step_rank: int
    taps: int
    bias: bool = False
    convolution_bias: bool = True
    norm_eps: float | None = None

    def __post_init__(self) -> None:
        sizes = ("inner_dim", "state_dim", "time_step_rank", "taps")
        _check_sizes(**{name: getattr(self, name) for name in sizes})


MixerConfig = ConvolutionConfig | DeltaNetConfig | Mamba2Config | MambaConfig


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} {size}; expected at least 1")
