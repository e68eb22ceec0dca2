"""Tensors of every storage form land where they belong: on one device, on a mesh, in any dtype."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from families import make
from safetensors.numpy import load_file

from adapt_jax.decoders.pretrained import load_pretrained, parameters
from adapt_jax.decoders.sharding import make_mesh

FORMS = {  # a tensor for each expert; fused; in groups; lying as the parameter does
    "mixtral": "model.layers.0.block_sparse_moe.experts.1.w1.weight",
    "phi3": "model.layers.0.mlp.gate_up_proj.weight",
    "gpt_neox": "gpt_neox.layers.0.attention.query_key_value.weight",
    "gpt2": "transformer.h.0.attn.c_attn.weight",
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_mesh_holds_what_one_device_holds_and_that_is_what_the_file_says(
    name: str, dtype: str, tmp_path: Path
) -> None:
    make(tmp_path, name)
    one = parameters(load_pretrained(tmp_path, dtype=jnp.dtype(dtype)).decoder)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    many = parameters(load_pretrained(tmp_path, dtype=jnp.dtype(dtype), mesh=mesh).decoder)
    assert one.keys() == many.keys()
    for path, parameter in one.items():
        assert parameter.dtype == many[path].dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(np.asarray(parameter), np.asarray(many[path]), str(path))
    assert any(array.addressable_shards[0].data.size < array.size for array in many.values())
    held = [np.asarray(array).astype(np.float64).sum() for array in one.values()]
    tensors = load_file(tmp_path / "model.safetensors")
    assert FORMS[name] in tensors
    told = sum(a.astype(jnp.dtype(dtype)).astype(np.float64).sum() for a in tensors.values())
    np.testing.assert_allclose(sum(held), told, rtol=1e-9)
