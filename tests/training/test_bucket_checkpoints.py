"""Checkpoints in a bucket: whole or not there, checked, and read in any layout."""

import json

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from adapt_jax.training import bucket_checkpoints
from adapt_jax.training.checkpoints import Checkpoints
from adapt_jax.utils.bucket import to_path
from adapt_jax.utils.bucket_mirror import mirror
from adapt_jax.utils.errors import UserError

RUN = to_path("gs://b/run")


def make_state(*axes, seed=0):
    """Arrays of several kinds, of which one is divided over devices."""
    devices = np.asarray(jax.devices()[:4]).reshape(2, 2)
    place = NamedSharding(Mesh(devices, ("a", "b")), PartitionSpec(*axes))
    rng = np.random.default_rng(seed)
    return {
        "kernel": jax.device_put(rng.normal(size=(8, 4)).astype(np.float32), place),
        "half": jax.numpy.asarray(rng.normal(size=6), jax.numpy.bfloat16),
        "step": jax.numpy.asarray(seed, jax.numpy.int32),
        "none": jax.numpy.zeros((0, 3)),
    }


def same(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def save(steps, **options):
    with mirror(RUN) as local, Checkpoints(local / "training", **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state("a", "b", seed=step), {"run": {"x": 1}})


def restore(template, run=None):
    with mirror(RUN) as local, Checkpoints(local / "training") as checkpoints:
        return checkpoints.restore(template, run)


def objects(bucket):
    return [name for name in bucket.objects if "/parts/" in name]


def test_the_newest_are_kept_and_read_in_another_layout(bucket):
    save([1, 2, 3], keep=2)
    steps = ["training/checkpoints/2/parts.json", "training/checkpoints/3/parts.json"]
    assert bucket.names("b/run") == steps and len(objects(bucket)) == 2
    found = restore(make_state("b", None), {"x": 1})
    assert found.step == 3 and same(found.state, make_state("a", "b", seed=3))
    assert found.state["kernel"].sharding == make_state("b", None)["kernel"].sharding


def test_a_large_checkpoint_is_uploaded_and_read_in_blocks(bucket, monkeypatch):
    monkeypatch.setattr(bucket_checkpoints, "BLOCK_BYTES", 2**18)
    state = {"large": jax.numpy.arange(150_000.0), "small": jax.numpy.arange(7)}
    with mirror(RUN) as local, Checkpoints(local / "training") as checkpoints:
        checkpoints.save(1, state, {})
    (name,) = objects(bucket)
    assert len(bucket.read(name)) == 600_028
    assert same(restore(jax.tree.map(jax.numpy.zeros_like, state)).state, state)


def test_a_checkpoint_of_another_run_is_refused_by_its_address(bucket):
    save([1])
    with pytest.raises(UserError, match="gs://b/run/training/checkpoints holds .* x is 1 there"):
        restore(make_state("a", "b"), {"x": 2})


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "list"])
def test_what_is_damaged_is_not_used(bucket, damage, caplog):
    save([1, 2])
    content = json.loads(bucket.read("b/run/training/checkpoints/2/parts.json"))
    name = f"b/run/{content['objects'][0]}"
    whole = bucket.read(name)
    if damage == "gone":
        del bucket.objects[name]
    elif damage == "list":
        del bucket.objects["b/run/training/checkpoints/2/parts.json"]
    else:
        bucket.put_object(name, whole[:9] if damage == "cut" else whole[:-1] + b"?")
    found = restore(make_state("a", "b"))
    assert found.step == 1 and same(found.state, make_state("a", "b", seed=1))
    assert damage == "list" or "the checkpoint of step 2 is damaged" in caplog.text


def test_a_bucket_that_cannot_be_written_ends_the_training_with_one_line(bucket):
    save([1])
    bucket.fails_after = 2  # the owner and the parts
    with pytest.raises(UserError, match=r"gs://b/run.*could not be written .*step 1 is kept"):
        save([2])
    bucket.fails_after = None
    assert restore(make_state("a", "b")).step == 1
    assert len(objects(bucket)) == 1


def test_checkpoints_of_an_earlier_version_are_refused(bucket):
    with mirror(RUN) as local:
        (local / "training/checkpoints/7/state").mkdir(parents=True)
        (local / "training/checkpoints/7/state/x").write_text("")
    with pytest.raises(UserError, match="checkpoints/7: written by an earlier version"):
        restore(make_state("a", "b"))
