"""The training and the decoding step compile for a TPU slice, on a machine without a TPU."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, re, jax, jax.numpy as jnp
from flax import nnx
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np
from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.decoder import Decoder
from adapt_jax.decoders.prefix import PrefixCaches, SoftPrompt, encode_prefix
from adapt_jax.decoders.sharding import MESH_AXES, batch_sharding, state_shardings
from adapt_jax.sampling import compiled as steps
from adapt_jax.sampling.logits import SamplingParams
from adapt_jax.training.packing import Batch
from adapt_jax.methods.lora import attach_lora
from adapt_jax.training.tuned_decoder import TunedDecoder
from adapt_jax.training.config import TrainingConfig
from adapt_jax.training.optimizers import make_optimizer
from adapt_jax.training.step import TrainState, make_step
from adapt_jax.training.placement import batch_shardings

def slice_of(name, sizes):
    devices = topologies.get_topology_desc(name, platform="tpu").devices
    return Mesh(np.array(devices).reshape(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * 3)

config = DecoderConfig("LlamaForCausalLM", 512, 128, 256, 2, 4, 2, 32, 256, tie_embeddings=True)

def place_arrays(tree, places):
    shape = jax.ShapeDtypeStruct
    return jax.tree.map(lambda x, s: shape(x.shape, x.dtype, sharding=s), tree, places)

def spread(tree):
    return place_arrays(tree, jax.tree.map(lambda x: everywhere, tree))

def make(name):
    decoder = Decoder(config, rngs=nnx.Rngs(0))
    if name == "lora":
        attach_lora(decoder, ["query", "value"], 8, 16.0, nnx.Rngs(0))
    soft_prompt = SoftPrompt(jnp.zeros((16, 128))) if name == "prompt_tuning" else None
    return TunedDecoder(decoder, soft_prompt)

def count_channels(kind, text):
    # a collective that XLA cuts into steps, which run beside products, has one channel
    found = re.findall(rf" {kind}(?:-start)?\\(.*?channel_id=(\\d+)", text)
    return len(set(found))

def measured(compiled):
    found, text = compiled.memory_analysis(), compiled.as_text()
    return {
        "arguments": found.argument_size_in_bytes,
        "temporary": found.temp_size_in_bytes,
        "kernels": len(re.findall("tpu_custom_call", text)),
        "collectives": {
            kind: count
            for kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")
            if (count := count_channels(kind, text))
        },
    }

def training(name, chosen, mesh):
    graph, trainable, frozen = nnx.split(nnx.eval_shape(lambda: make(name)), chosen, ...)
    trainable = place_arrays(trainable, state_shardings(trainable, mesh))
    frozen = place_arrays(frozen, state_shardings(frozen, mesh))
    update = make_optimizer(TrainingConfig())
    state = TrainState(trainable, spread(jax.eval_shape(update.init, trainable)))
    grid, flat = (jax.ShapeDtypeStruct(size, jnp.int32) for size in ((16, 256), (512,)))
    batch = Batch(grid, grid, grid, flat, flat, jax.ShapeDtypeStruct((512,), jnp.float32))
    batch = place_arrays(batch, batch_shardings(batch, mesh))
    front = jax.ShapeDtypeStruct((4,), jnp.int32, sharding=everywhere)
    step = make_step(graph, update, mesh=mesh)
    return step.lower(state, frozen, batch, front).compile()

told = {}
filters = {
    "prompt_tuning": nnx.PathContains("soft_prompt"),
    "lora": nnx.PathContains("lora"),
    "fine_tuning": nnx.Param,
}
for slice_name, sizes in (("v5e:4x8", (4, 4, 2)), ("v5e:2x4", (2, 2, 2))):
    mesh = slice_of(slice_name, sizes)
    everywhere, rows = NamedSharding(mesh, PartitionSpec()), batch_sharding(mesh)
    for name, chosen in filters.items():
        told[f"{name} on {slice_name}"] = measured(training(name, chosen, mesh))

graph, weights = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
weights = place_arrays(weights, state_shardings(weights, mesh))
def encode(w, e):
    cache = encode_prefix(nnx.merge(graph, w), e, 100)
    return PrefixCaches(cache.layers, jnp.full(1, 100), jnp.zeros(128, jnp.int32), jnp.arange(128))

prefix = spread(jax.eval_shape(encode, weights, jax.ShapeDtypeStruct((128, 128), jnp.float32)))
one = jax.ShapeDtypeStruct((8, 2, 128, 32), jnp.float32, sharding=rows)
state = steps.SlotState.idle(8)
state = place_arrays(state, jax.tree.map(lambda x: rows, state))
seed = jax.eval_shape(lambda: jax.random.key(0))
seed = jax.ShapeDtypeStruct(seed.shape, seed.dtype, sharding=everywhere)
compiled = steps.decode_chunk.lower(
    graph, SamplingParams(0.7, 40, 1.0, 0.0), (1,), weights, prefix, [(one, one)] * 2, state, seed
).compile()
told["decoding on v5e:2x4"] = measured(compiled)
print(json.dumps(told))
"""


def test_training_and_decoding_steps_compile_for_a_tpu_slice():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (the test extra brings it)")
    flags = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "XLA_FLAGS": ""}
    flags["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # compiling takes no TPU from others
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **flags},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    methods = ("prompt_tuning", "lora", "fine_tuning")
    training = {f"{name} on {where}" for name in methods for where in ("v5e:2x4", "v5e:4x8")}
    assert set(told) == training | {"decoding on v5e:2x4"}
    for found in told.values():  # bytes per device; a small step may do with on-chip memory
        assert 0 < found["arguments"] < 2**30 and 0 <= found["temporary"] < 2**30, told
    collectives = {name: sum(found["collectives"].values()) for name, found in told.items()}
    for where in ("v5e:2x4", "v5e:4x8"):
        # Sharded weights are gathered; gradients are reduced, and only of what is trained.
        assert told[f"fine_tuning on {where}"]["collectives"]["all-gather"] > 0, told
        assert told[f"fine_tuning on {where}"]["collectives"]["all-reduce"] > 0, told
        for name in ("prompt_tuning", "lora"):
            assert 0 < collectives[f"{name} on {where}"] <= collectives[f"fine_tuning on {where}"]
    for name in training:  # attention is a kernel
        assert told[name]["kernels"] > 0, told
    for name in methods:  # a quarter of the state is on a device, or an eighth
        here, there = told[f"{name} on v5e:2x4"], told[f"{name} on v5e:4x8"]
        assert there["arguments"] < here["arguments"], told
