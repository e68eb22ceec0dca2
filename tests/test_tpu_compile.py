"""The training and the decoding step compile for a TPU slice, on a machine without a TPU."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, jax, jax.numpy as jnp
from flax import nnx
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.prefix import PrefixCaches, SoftPrompt, encode_prefix
from adapt_jax.decoders.sharding import MESH_AXES, row_sharding, shardings
from adapt_jax.sampling import steps
from adapt_jax.sampling.logits import Sampling
from adapt_jax.tuning.batches import Batch
from adapt_jax.tuning.losses import TunedDecoder
from adapt_jax.tuning.optimizers import TrainingConfig, optimizer
from adapt_jax.tuning.step import TrainState, make_step

topology = topologies.get_topology_desc("v5e:2x4", platform="tpu")
mesh = Mesh(np.array(topology.devices).reshape(2, 2, 2), MESH_AXES, axis_types=(AxisType.Auto,) * 3)
config = DecoderConfig("LlamaForCausalLM", 512, 128, 256, 2, 4, 2, 32, 256, tie_embeddings=True)
everywhere, rows = NamedSharding(mesh, PartitionSpec()), row_sharding(mesh)

def placed(tree, places):
    shape = jax.ShapeDtypeStruct
    return jax.tree.map(lambda x, s: shape(x.shape, x.dtype, sharding=s), tree, places)

def spread(tree):
    return placed(tree, jax.tree.map(lambda x: everywhere, tree))

def make():
    soft_prompt = SoftPrompt(jnp.zeros((16, 128)))
    return TunedDecoder(Decoder(config, rngs=nnx.Rngs(0)), soft_prompt)

def memory(compiled):
    found = compiled.memory_analysis()
    return {"arguments": found.argument_size_in_bytes, "temporary": found.temp_size_in_bytes}

told = {}
filters = {"prompt_tuning": nnx.PathContains("soft_prompt"), "fine_tuning": nnx.Param}
for name, chosen in filters.items():
    graph, trainable, frozen = nnx.split(nnx.eval_shape(make), chosen, ...)
    trainable = placed(trainable, shardings(trainable, mesh))
    frozen = placed(frozen, shardings(frozen, mesh))
    update = optimizer(TrainingConfig())
    state = TrainState(trainable, spread(jax.eval_shape(update.init, trainable)))
    grid = jax.ShapeDtypeStruct((8, 256), jnp.int32, sharding=rows)
    flat = jax.ShapeDtypeStruct((512,), jnp.int32, sharding=everywhere)
    weights = jax.ShapeDtypeStruct((512,), jnp.float32, sharding=everywhere)
    batch = Batch(grid, grid, grid, flat, flat, weights)
    front = jax.ShapeDtypeStruct((4,), jnp.int32, sharding=everywhere)
    compiled = make_step(graph, update).lower(state, frozen, batch, front).compile()
    told[name] = memory(compiled)

graph, weights = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
weights = placed(weights, shardings(weights, mesh))
def encode(w, e):
    cache = encode_prefix(nnx.merge(graph, w), e, 100)
    return PrefixCaches(cache.layers, jnp.full(1, 100), jnp.zeros(128, jnp.int32), jnp.arange(128))

prefix = spread(jax.eval_shape(encode, weights, jax.ShapeDtypeStruct((128, 128), jnp.float32)))
one = jax.ShapeDtypeStruct((8, 2, 128, 32), jnp.float32, sharding=rows)
state = steps.Rows.idle(8)
state = placed(state, jax.tree.map(lambda x: rows, state))
seed = jax.eval_shape(lambda: jax.random.key(0))
seed = jax.ShapeDtypeStruct(seed.shape, seed.dtype, sharding=everywhere)
compiled = steps.decode.lower(
    graph, Sampling(0.7, 40, 1.0, 0.0), (1,), weights, prefix, [(one, one)] * 2, state, seed
).compile()
told["decoding"] = memory(compiled)
print(json.dumps(told))
"""


def test_training_and_decoding_steps_compile_for_a_tpu_slice():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (the test extra brings it)")
    flags = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **flags},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert set(told) == {"prompt_tuning", "fine_tuning", "decoding"}
    for size in told.values():  # bytes per device; a small step may do with on-chip memory
        assert 0 < size["arguments"] < 2**30 and 0 <= size["temporary"] < 2**30, told
