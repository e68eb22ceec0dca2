"""Tensors of every storage form land where they belong: on one device, on a mesh, in any dtype."""

import itertools
import mmap
import subprocess
import sys
import threading
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from family_models import make
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from adapt_jax.decoders.sharding import make_mesh
from adapt_jax.pretrained import streaming
from adapt_jax.pretrained.loading import get_parameters, load_pretrained
from adapt_jax.pretrained.safetensors_io import FileTensor, write_tensors
from adapt_jax.utils import cpu

FORMS = {  # a tensor for each expert; fused; in groups; the other way round; plain, with biases
    "mixtral": "model.layers.0.block_sparse_moe.experts.1.w1.weight",
    "phi3": "model.layers.0.mlp.gate_up_proj.weight",
    "gpt_neox": "gpt_neox.layers.0.attention.query_key_value.weight",
    "gpt2": "transformer.h.0.attn.c_attn.weight",
    "llama, yarn, biases": "model.layers.0.self_attn.q_proj.bias",
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept memory", "copied memory"])
def test_a_mesh_holds_what_one_device_holds_and_that_is_what_the_file_says(
    name: str, dtype: str, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, name)
    whole = get_parameters(load_pretrained(tmp_path, dtype=jnp.dtype(dtype)).decoder)
    if not kept:  # as a GPU does
        copy = streaming.to_device
        monkeypatch.setattr(streaming, "shares_host_memory", lambda device: False)
        monkeypatch.setattr(streaming, "to_device", lambda part, *rest: copy(part.copy(), *rest))
    monkeypatch.setattr(cpu, "NUMBERS_PER_STRIP", 0)  # as many strips as there can be
    monkeypatch.setattr(cpu, "TRANSPOSE_BLOCK", 5)
    one = get_parameters(load_pretrained(tmp_path, dtype=jnp.dtype(dtype)).decoder)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    many = get_parameters(load_pretrained(tmp_path, dtype=jnp.dtype(dtype), mesh=mesh).decoder)
    assert one.keys() == many.keys()
    for path, parameter in one.items():
        assert parameter.dtype == many[path].dtype == jnp.dtype(dtype)
        for other in (whole, many):
            np.testing.assert_array_equal(parameter, other[path], str(path))
    assert any(array.addressable_shards[0].data.size < array.size for array in many.values())
    held = [np.asarray(array).astype(np.float64).sum() for array in one.values()]
    tensors = load_file(tmp_path / "model.safetensors")
    assert FORMS[name] in tensors
    told = sum(a.astype(jnp.dtype(dtype)).astype(np.float64).sum() for a in tensors.values())
    np.testing.assert_allclose(sum(held), told, rtol=1e-9)


@given(
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    kinds=st.tuples(*2 * [st.sampled_from(["float16", "bfloat16", "float32", "float64"])]),
    turned=st.booleans(),
    block=st.integers(1, 6),
)
def test_numbers_are_laid_as_numpy_would_cast_and_turn_them(
    shape: list[int], kinds: tuple[str, str], turned: bool, block: int
) -> None:
    kind, wanted = map(jnp.dtype, kinds)
    turned = turned and len(shape) > 1
    lying = [*shape[:-2], shape[-1], shape[-2]] if turned else shape
    source = np.random.default_rng(0).normal(size=lying).astype(kind)
    source.reshape(-1)[:4] = np.array([-0.0, np.inf, np.nan, 1e-7], kind)[: source.size]
    source = np.swapaxes(source, -1, -2) if turned else source
    target = np.zeros(shape, wanted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "TRANSPOSE_BLOCK", block)
        cpu.copy_into(target, source)
    expected = source.astype(wanted).astype(np.float64)
    np.testing.assert_array_equal(target.astype(np.float64), expected)
    assert (np.signbit(target) == np.signbit(source)).all()


def test_pages_of_new_memory_are_there_once_they_were_asked_for() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    if not Path("/proc/self/statm").is_file():
        pytest.skip("needs Linux, which says what is resident")
    memory = cpu.allocate_aligned((2**24,), np.dtype(np.uint8))
    if not cpu.prefault(memory[-mmap.PAGESIZE :]):
        pytest.skip("needs Linux 5.14, which knows MADV_POPULATE_WRITE")
    before = resident()
    cpu.prefault(memory[5 : 2**23 + 5])  # neither end is one of a page
    assert 2**23 - 4 * mmap.PAGESIZE <= resident() - before < 2**23 + 2**20
    assert not memory.any()


def test_what_cannot_be_read_ends_the_loading_and_its_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "llama, llama3")
    calls, read = itertools.count(), FileTensor.read_into

    def fails(tensor: FileTensor, *given: object) -> np.ndarray:
        if next(calls) == 5:
            raise OSError("the disk is gone")
        return read(tensor, *given)

    monkeypatch.setattr(FileTensor, "read_into", fails)
    threads = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        load_pretrained(tmp_path)
    assert threading.active_count() == threads


@pytest.mark.parametrize("swapped", [False, True])
def test_loading_holds_little_beside_the_weights(tmp_path: Path, swapped: bool) -> None:
    """Less than one of eight equal tensors, cast, in a process of its own."""
    shapes = {f"t{number}": (4096, 1024) for number in range(8)}
    arrays = ((name, np.ones(shape, jnp.bfloat16)) for name, shape in shapes.items())
    write_tensors(tmp_path / "model.safetensors", shapes, jnp.bfloat16, arrays)
    said = subprocess.run(
        [sys.executable, "-c", reading_of(swapped), str(tmp_path / "model.safetensors")],
        capture_output=True,
        text=True,
        check=True,
    )
    above = int(said.stdout)
    assert abs(above) < 2 * 1024 * 4096, f"{above} bytes above the weights"


def reading_of(swapped: bool) -> str:
    """A program that prints how far the memory went above the weights."""
    return f"SWAPPED, SHAPE = {swapped}, {(1024, 4096) if swapped else (4096, 1024)}{READING}"


READING = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from adapt_jax.pretrained.streaming import ParameterSource, Reader, read_parameter
from adapt_jax.pretrained.safetensors_io import read_header
from adapt_jax.decoders.layout import TensorLayout

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])

def read(names):
    begun = []
    for name in names:
        layout = TensorLayout((name,), SWAPPED, ((name,),))
        source = ParameterSource(layout, (name,), {(name,): SHAPE}, tensors)
        begun.append(read_parameter(reader, source, jnp.float32, place))
    return [wait() for wait in begun]

file = Path(sys.argv[1])
place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
with Reader() as reader, file.open("rb", buffering=0) as opened:
    tensors = read_header(file, opened.fileno())
    first = read(["t0"])  # with what is made once
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    before = resident("VmRSS")
    held = jax.block_until_ready(read([name for name in tensors if name != "t0"]))
    print(resident("VmHWM") - before - sum(array.nbytes for array in held))
"""
