"""What the tests share: eight simulated devices, tiny random decoders, and the shared data.

Every test is either ``slow`` or ``fast``: see SLOW_FILES.
"""

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from xla_flags import COMPILE_LESS

# Objects of imports and traces stay: looking through them for garbage took a fifth of some files.
gc.set_threshold(20_000, 10, 10)
# Before jax is imported anywhere: the CPU plays eight devices, and nothing is fetched.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
FLAGS = ("--xla_force_host_platform_device_count=8", *COMPILE_LESS)
given = os.environ.get("XLA_FLAGS", "")
wanted = [flag for flag in FLAGS if flag.partition("=")[0] not in given]
os.environ["XLA_FLAGS"] = " ".join([given, *wanted]).strip()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Equal programs are compiled once, by all workers, by the processes that tests start, and by the
# next session: they share a folder, which `pytest --cache-clear` removes.
TESTS = Path(__file__).resolve().parent
CACHE = TESTS.parent / ".pytest_cache" / "d" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers fill the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# A busy machine makes an example slow; tests of speed say so by themselves.
hypothesis.settings.register_profile("adapt_jax", deadline=None)
hypothesis.settings.load_profile("adapt_jax")
pytest.register_assert_rewrite(
    *("helpers", "training_cases", "peft_cases", "family_models", "engine_cases", "process_groups")
)

from tiny_llama import write_tiny_llama  # noqa: E402

MAX_CACHE_BYTES = 2**30
# Of memory, where compiled programs lie. Linux allows a process 65,530 of them, and XLA ends the
# process where it gets no more.
MAX_MAPPINGS = 25_000
SHARED = TESTS.parents[1] / "shared"
# Files, and whole rooms, whose tests compile models, run PyTorch ones or start processes. The
# longest files come first, and start first, so that no worker waits for another at the end.
SLOW_FILES = (
    "processes/",
    "decoders/test_families.py",
    "inspection/",
    "decoders/test_tpu_compile.py",
    "cli/test_notebook",
    "training/test_restart.py",
    "training/test_trainer.py",
    "sampling/test_engine.py",
    "decoders/test_family_configs.py",
    "comparison/test_comparison.py",
    "training/test_unpacked.py",
    "comparison/test_resume.py",
    "comparison/test_search.py",
    "comparison/test_identity.py",
    "methods/",
    "pretrained/test_peft.py",
    "pretrained/test_peft_families.py",
    "pretrained/test_peft_variants.py",
    "pretrained/test_family_folders.py",
    "pretrained/test_pretrained.py",
    "pretrained/test_streaming.py",
    "adaptation/test_exchange.py",
    "adaptation/test_adaptation.py",
    "adaptation/test_chat.py",
    "adaptation/test_ensemble.py",
    "adaptation/",
    "decoders/",
    "training/",
    "sampling/test_engine_limits.py",
    "sampling/test_likelihood.py",
    "harness/",
    "prompting/test_multiple_choice.py",
    "prompting/test_retrieval.py",
    "docs/",
    "cli/test_cli.py",
    "cli/test_start.py",
    "cli/test_without_extras.py",
)


def slow_rank(path: Path) -> int:
    """The place of a file in SLOW_FILES; one past its end for all others."""
    name = path.relative_to(TESTS).as_posix()
    found = (rank for rank, start in enumerate(SLOW_FILES) if name.startswith(start))
    return next(found, len(SLOW_FILES))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m fast`` files without a fast test are not imported: PyTorch alone takes seconds."""
    if config.option.markexpr != "fast" or collection_path.suffix != ".py":
        return None
    is_slow = slow_rank(collection_path) < len(SLOW_FILES)
    return True if is_slow and "mark.fast" not in collection_path.read_text() else None


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test slow or fast; a mark of its own, either one, wins over its file's."""
    items.sort(key=lambda item: slow_rank(item.path))
    for item in items:
        if not any(item.get_closest_marker(name) for name in ("slow", "fast")):
            item.add_marker("slow" if slow_rank(item.path) < len(SLOW_FILES) else "fast")


def pytest_collection_finish() -> None:
    """What was imported until now is never garbage."""
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    """Begins the folder of compiled programs anew when it is large; the workers leave it alone."""
    size = sum(path.stat().st_size for path in CACHE.glob("*"))
    if size > MAX_CACHE_BYTES and not hasattr(config, "workerinput"):
        shutil.rmtree(CACHE)


@pytest.fixture(scope="module", autouse=True)
def few_mappings() -> Iterator[None]:
    """Drops compiled programs after a file that leaves many."""
    yield
    mappings = Path("/proc/self/maps")
    if "jax" in sys.modules and mappings.exists():
        if mappings.read_bytes().count(b"\n") > MAX_MAPPINGS:
            sys.modules["jax"].clear_caches()
            gc.collect()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and real weights beside the repository; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is not beside this repository")
    return SHARED


@pytest.fixture(scope="session")
def make_tiny_llama() -> Callable[..., Path]:
    """``write_tiny_llama(folder, *, seed=0, std=0.2, **config)`` as a fixture."""
    return write_tiny_llama


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a tiny random Llama (2 layers, width 32). Do not write into it."""
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Any:
    """The tiny random Llama, loaded (a PretrainedDecoder). Do not change its weights."""
    from adapt_jax.pretrained.loading import load_pretrained

    return load_pretrained(tiny_folder)


@pytest.fixture(scope="session")
def shallow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with one layer, which compiles in less time. Do not write into it.

    For tests of runs, files and devices, to which a second layer is more of the same; what passes
    from layer to layer is tested with ``tiny``.
    """
    return write_tiny_llama(tmp_path_factory.mktemp("shallow") / "llama", num_hidden_layers=1)


@pytest.fixture(scope="session")
def shallow(shallow_folder: Path) -> Any:
    """The tiny Llama with one layer, loaded. Do not change its weights."""
    from adapt_jax.pretrained.loading import load_pretrained

    return load_pretrained(shallow_folder)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder, the PyTorch model and the decoder of a case of family_cases.py, made once."""
    from family_models import make

    from adapt_jax.pretrained.loading import load_pretrained

    kept: dict[str, tuple[Path, Any, Any]] = {}

    def get(name: str) -> tuple[Path, Any, Any]:
        if name not in kept:
            folder = tmp_path_factory.mktemp("family")
            model = make(folder, name)
            kept[name] = folder, model, load_pretrained(folder)
        return kept[name]

    return get


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A fake of Google Cloud Storage, which all processes of the test use; copies are kept in
    ``tmp_path / "cache"``. It is pushed to at the end only."""
    pytest.importorskip("gcsfs", reason="needs adapt-jax[gcs]")
    from fake_bucket import FakeBucket

    from adapt_jax.utils.bucket import file_system

    one = FakeBucket()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", one.address)
    monkeypatch.setenv("ADAPT_JAX_BUCKET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ADAPT_JAX_PUSH_SECONDS", "1000")
    file_system.cache_clear()
    yield one
    file_system.cache_clear()
    one.close()
