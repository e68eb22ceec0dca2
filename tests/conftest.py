"""What the tests share: eight simulated devices, tiny random decoders, and the shared data."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before jax is imported anywhere: the CPU plays eight devices, and nothing is fetched.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    os.environ["XLA_FLAGS"] = flags.strip()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402

pytest.register_assert_rewrite("helpers", "training_cases", "peft_cases", "family_cases")

from tiny_llama import write_tiny_llama  # noqa: E402

SHARED = Path(__file__).resolve().parents[2] / "shared"


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
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder, the PyTorch model and the decoder of a case of family_cases.py, made once."""
    from family_cases import make

    from adapt_jax.pretrained.loading import load_pretrained

    kept: dict[str, tuple[Path, Any, Any]] = {}

    def get(name: str) -> tuple[Path, Any, Any]:
        if name not in kept:
            folder = tmp_path_factory.mktemp("family")
            model = make(folder, name)
            kept[name] = folder, model, load_pretrained(folder)
        return kept[name]

    return get
