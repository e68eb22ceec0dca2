"""Parameters lie in tensors alone, fused, in groups or by expert; writing and reading agree."""

import numpy as np
import pytest

from adapt_jax.decoders.layout import ParameterPath, TensorLayout

SHAPES: dict[ParameterPath, tuple[int, ...]] = {
    ("query",): (12, 5),
    ("key",): (6, 5),
    ("value",): (6, 5),
    ("bias", "query"): (12,),
    ("bias", "key"): (6,),
    ("experts", "up"): (3, 5, 4),
    ("experts", "gate"): (3, 5, 4),
    ("experts", "up_bias"): (3, 4),
    ("experts", "gate_bias"): (3, 4),
}
QUERY, KEY, VALUE, UP, GATE = (
    ("query",),
    ("key",),
    ("value",),
    ("experts", "up"),
    ("experts", "gate"),
)
CASES = {
    "alone": TensorLayout(("t",), False, (QUERY,)),
    "transposed": TensorLayout(("t",), True, (QUERY,)),
    "fused": TensorLayout(("t",), False, (QUERY, KEY, VALUE)),
    "fused and transposed": TensorLayout(("t",), True, (QUERY, KEY, VALUE)),
    "in groups": TensorLayout(("t",), False, (QUERY, KEY, VALUE), groups=3),
    "in groups and transposed": TensorLayout(("t",), True, (QUERY, KEY, VALUE), groups=3),
    "biases in groups": TensorLayout(("t",), False, (("bias", "query"), ("bias", "key")), groups=3),
    "by expert": TensorLayout(("0", "1", "2"), True, (UP,)),
    "by expert and fused": TensorLayout(("0", "1", "2"), True, (GATE, UP)),
    "all experts fused": TensorLayout(("t",), True, (GATE, UP)),
    "all experts alternating": TensorLayout(("t",), False, (GATE, UP), groups=4),
    "biases of experts alternating": TensorLayout(
        ("t",), False, (("experts", "gate_bias"), ("experts", "up_bias")), groups=4
    ),
}


def draw(layout: TensorLayout) -> dict[ParameterPath, np.ndarray]:
    rng = np.random.default_rng(0)
    return {path: rng.normal(size=SHAPES[path]) for path in layout.parameters}


@pytest.mark.parametrize("case", CASES)
def test_parameters_come_back_from_their_tensors_whole_and_in_slices(case: str) -> None:
    layout = CASES[case]
    written = draw(layout)
    tensors = layout.write(written)
    assert tensors.keys() == set(layout.names)
    assert all(tensor.shape == layout.tensor_shape(SHAPES) for tensor in tensors.values())
    for path, parameter in written.items():
        for cut in (slice(None), slice(1, 3)):
            for axis in range(parameter.ndim):
                index = tuple(cut if at == axis else slice(None) for at in range(parameter.ndim))
                found = layout.read(path, SHAPES, tensors, index)
                np.testing.assert_array_equal(found, parameter[index])


def test_groups_hold_a_share_of_every_part() -> None:
    layout = CASES["in groups"]
    written = draw(layout)
    tensor = layout.write(written)["t"]
    heads = [(QUERY, slice(0, 4)), (KEY, slice(0, 2)), (VALUE, slice(0, 2)), (QUERY, slice(4, 8))]
    expected = np.concatenate([written[path][rows] for path, rows in heads])
    np.testing.assert_array_equal(tensor[: len(expected)], expected)


def test_gates_and_up_projections_of_experts_alternate() -> None:
    layout = CASES["all experts alternating"]
    written = draw(layout)
    tensor = layout.write(written)["t"]
    assert tensor.shape == (3, 5, 8)
    np.testing.assert_array_equal(tensor[..., ::2], written[GATE])
    np.testing.assert_array_equal(tensor[..., 1::2], written[UP])
