"""How a decoder's layers run on a platform: which attention, scanned or unrolled, what is kept."""

from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from adapt_jax.decoders.sharding import LOGICAL_AXIS_RULES, platform_of

__all__ = [
    "INFERENCE",
    "REMAT_POLICIES",
    "UNROLLED",
    "Execution",
    "ParameterPath",
    "choose_execution",
]

ParameterPath = tuple[object, ...]

# What the backward pass computes again: all of a layer, or all of it but its matrix products.
REMAT_POLICIES = {
    "layers": None,
    "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
ATTENTION_KERNELS = {"tpu": "splash", "gpu": "cudnn"}  # by platform; elsewhere the einsum form


@dataclass(frozen=True)
class Execution:
    """How the layers of a decoder run. The outputs are the same, up to rounding.

    Attributes:
        attention: "einsum" (the reference), "splash" (Pallas on a TPU; on a CPU its interpreter)
            or "cudnn" (flash attention on a GPU). See ``fused_attention``.
        scan_layers: whether equal layers are compiled once and looped over. See ``layer_stack``.
        remat: what the backward pass computes again: "none" or a name in REMAT_POLICIES.
        mesh: the devices that share the arrays; None for one device.
        local_targets: whether each device computes the loss of its own rows, wherever their targets
            are. XLA by itself would gather the hidden states of all targets on every device.
        traces_once: whether equal layers are traced and lowered once. What is compiled is the same,
            as XLA inlines the calls; it starts sooner, and gradients are not taken through it.
        trained: paths of the decoder's parameters that have gradients; None stands for all. It
            decides how a scan reads them, not what is computed.
    """

    attention: str = "einsum"
    scan_layers: bool = False
    remat: str = "none"
    mesh: Mesh | None = None
    local_targets: bool = False
    traces_once: bool = False
    trained: frozenset[ParameterPath] | None = None

    @property
    def interprets_kernels(self) -> bool:
        """Whether Pallas kernels are interpreted, since a CPU cannot run them."""
        return platform_of(self.mesh) == "cpu"


UNROLLED = Execution()
INFERENCE = Execution(traces_once=True)


def choose_execution(
    mesh: Mesh | None, remat: str, trained: frozenset[ParameterPath] | None = None
) -> Execution:
    """How a training step runs on these devices.

    On a CPU unrolled layers and the einsum form are faster. An accelerator has a fused attention
    kernel, and there a scan keeps the compilation short.

    Args:
        remat: as in Execution, or "auto": whole layers on an accelerator, none on a CPU.
    """
    platform = platform_of(mesh)
    on_cpu = platform == "cpu"
    if remat == "auto":
        remat = "none" if on_cpu else "layers"
    attention = ATTENTION_KERNELS.get(platform, "einsum")
    shares_rows = mesh is not None and any(
        mesh.shape[axis] > 1 for axis in LOGICAL_AXIS_RULES["rows"]
    )
    return Execution(
        attention,
        scan_layers=not on_cpu,
        remat=remat,
        mesh=mesh,
        local_targets=shares_rows and not on_cpu,
        trained=trained,
    )
