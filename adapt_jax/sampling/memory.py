"""How many slots fit into memory."""

import os
from pathlib import Path

import jax

from adapt_jax.decoders.config import DecoderConfig

MAX_USEFUL_SLOTS = 128  # slots beyond which a step takes longer rather than doing more at once
SHARE = 0.8  # of the free memory that slots may take


def slot_bytes(config: DecoderConfig, cache_length: int, itemsize: int) -> int:
    """What one slot takes: its keys and values, and its row of logits while it is drawn from."""
    kinds = [config.layer_config(index) for index in config.layers_with_kv_cache]
    heads = sum(kind.num_kv_heads * kind.head_dim for kind in kinds)
    cache = 2 * heads * cache_length * itemsize
    return cache + 4 * config.vocab_size * 4  # logits, restricted logits, exponentials, seen


def free_bytes() -> int:
    """Free memory of one device; on a CPU that of the machine, or of its container."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats["bytes_in_use"])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():  # what can be had, file caches included
        lines = meminfo.read_text().splitlines()
        found = [int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:")]
        free = max([free, *found])
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(free, 0)


def room_for_slots(each: int, devices: int) -> int:
    """How many slots of ``each`` bytes fit, spread over ``devices``."""
    ways = 1 if jax.default_backend() == "cpu" else devices  # simulated devices share one memory
    return int(free_bytes() * SHARE) * ways // each
