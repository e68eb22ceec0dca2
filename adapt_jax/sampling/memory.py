"""How many slots fit into memory."""

import os
import socket
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from adapt_jax.decoders.config import DecoderConfig
from adapt_jax.decoders.mixers import begin_state
from adapt_jax.utils import distributed

__all__ = ["MAX_USEFUL_SLOTS", "count_fitting_slots", "count_slot_bytes", "free_bytes"]

MAX_USEFUL_SLOTS = 128  # with more, a step only takes longer
MAX_SHARE = 0.8  # of the free memory


def count_slot_bytes(
    config: DecoderConfig, cache_length: int, itemsize: int, mesh: Mesh | None = None
) -> int:
    """Bytes of one slot on a device: its keys, values and states, and its row of logits.

    Devices of the mesh's ``tensor`` axis hold a part of the heads each, where they divide them
    (see ``sharding.cache_sharding``).
    """
    parts = 1 if mesh is None or _devices_share_memory() else mesh.shape["tensor"]
    sizes = [size for n in config.layers_with_kv_cache for size in config.kv_cache_sizes(n)]
    heads = [count if count % parts else count // parts for count, _ in sizes]
    numbers = sum(count * size for count, (_, size) in zip(heads, sizes, strict=True))
    cache = numbers * cache_length * itemsize + _count_state_bytes(config, itemsize, parts)
    # while a token is drawn: logits, truncated logits, exponentials, seen tokens
    return cache + 4 * config.vocab_size * 4


def _count_state_bytes(config: DecoderConfig, itemsize: int, parts: int) -> int:
    """Bytes of the states of all layers on one of ``parts`` devices, which divide the heads."""
    if not config.layers_with_state:
        return 0
    dtype = jnp.bfloat16 if itemsize == 2 else jnp.float32
    state = jax.eval_shape(lambda: begin_state(config, dtype))
    each = state.convolution.size * itemsize
    if (recurrent := state.recurrent) is not None:
        count = recurrent.size * recurrent.dtype.itemsize
        each += count if recurrent.shape[0] % parts else count // parts
    return int(each) * len(config.layers_with_state)


def free_bytes() -> int:
    """Free memory of one device; on a CPU that of the machine, or of its container."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats["bytes_in_use"])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        # memory that the system can free counts too, such as its file cache
        lines = meminfo.read_text().splitlines()
        found = [int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:")]
        free = max([free, *found])
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(free, 0)


def count_fitting_slots(bytes_per_slot: int, num_shares: int) -> int:
    """How many slots fit.

    Args:
        num_shares: the number of devices that hold different slots.
    """
    memories = 1 if _devices_share_memory() else num_shares
    free = _agree_on_free_bytes() if distributed.shares_questions() else free_bytes()
    return int(free * MAX_SHARE) * memories // bytes_per_slot


def _devices_share_memory() -> bool:
    """Whether all devices are simulated by one CPU."""
    return jax.default_backend() == "cpu"


def _agree_on_free_bytes() -> int:
    """What every process has: they need the same number of slots. Those of a host share it."""
    hosts = distributed.gather("host", socket.gethostname())
    free = distributed.gather("free bytes", free_bytes())
    shares = [hosts.count(host) if _devices_share_memory() else 1 for host in hosts]
    return min(one // share for one, share in zip(free, shares, strict=True))
