"""configs/real: each file is valid, its data lies in the clone, and its decoders fit its machine.

Nothing is compiled: parameters, gradients, optimizer state and cache are counted from their shapes,
and have to leave a fifth of the memory for activations.
"""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from real_decoders import PARAMETERS, write_config

from adapt_jax.comparison.setup import choose_methods
from adapt_jax.inspection.checkpoint import read_checkpoint
from adapt_jax.inspection.memory import Measurement
from adapt_jax.inspection.mesh import read_mesh
from adapt_jax.inspection.programs import build_programs
from adapt_jax.inspection.workload import Workload
from adapt_jax.methods.registry import METHODS
from adapt_jax.tasks.task_config import TaskConfig
from adapt_jax.utils.config import CompareConfig, load_config, read_yaml, validate

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs" / "real").glob("*.yaml"))
TASKS = sorted((ROOT / "configs" / "tasks").glob("*.yaml"))
FILE_KEYS = ("path", "train", "development", "test", "test_ids")
GIB = 2**30
SMALL = [name for name, size in PARAMETERS.items() if size < 0.7e9]
# of each machine: bytes of a device, its mesh as `inspect` reads it, the dtype of frozen weights,
# and the decoders that its files name
MACHINES = {
    "cpu": (24 * GIB, None, "float32", SMALL),
    "gpu": (24 * GIB, None, "bfloat16", SMALL),
    "v5e8": (15.75 * GIB, "fsdp=8", "bfloat16", list(PARAMETERS)),
    "pod": (15.75 * GIB, "v5e:4x4,data=2,fsdp=8", "bfloat16", list(PARAMETERS)),
}
LARGER_GPUS = [
    (39.4 * GIB, [name for name, size in PARAMETERS.items() if size < 1.3e9]),
    (79 * GIB, [name for name, size in PARAMETERS.items() if size < 2e9]),
]


def fetch_data() -> Any:
    """launch/fetch_data.py as a module."""
    path = ROOT / "launch" / "fetch_data.py"
    spec = importlib.util.spec_from_file_location("fetch_data", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def named_files(config: Any, folder: Path) -> list[Path]:
    """The files that a task's source and choices name, resolved from the folder of the task."""
    source = config["source"]
    names = [source[key] for key in FILE_KEYS if key in source and source["name"] != "tfds"]
    if isinstance(config.get("choices"), str):
        names.append(config["choices"])
    return [(folder / name).resolve() for name in names]


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("decoders")
    return {name: write_config(folder, name) for name in PARAMETERS}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_shapes_have_the_published_number_of_parameters(
    decoders: dict[str, Path], name: str
) -> None:
    found = read_checkpoint(decoders[name], None)
    assert sum(found.parameters.values()) == PARAMETERS[name]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_is_valid(path: Path) -> None:
    settings, where, _ = load_config(CompareConfig, path)
    methods = choose_methods(settings, where)
    assert not methods.keys().isdisjoint({"prompt_tuning", "instruction_tuning"})
    assert settings.decoder == "embedded" or settings.decoder in PARAMETERS
    task = validate(TaskConfig, settings.task, where)
    assert path.stem.startswith(task.name)


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_data_lies_in_the_clone_and_the_file_says_how_to_fetch_it(path: Path) -> None:
    fetched = fetch_data()
    files = named_files(read_yaml(path), path.parent)
    text = path.read_text(encoding="utf-8")
    for file in files:
        name, base = file.relative_to(ROOT / "data").parts if file.stem != "own" else ("", "")
        if name:
            assert base in [*fetched.FILES[name], "train.jsonl"]
            assert re.search(rf"^# Data: python launch/fetch_data\.py .*\b{name}\b", text, re.M)
    if "tfds" in text:
        assert "tfds build" in text


def test_data_is_fetched_once_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched = fetch_data()
    upstream = tmp_path / "upstream"
    upstream.write_bytes(b"one\n")
    right = "2d5d2d6db1a1d7ad1c9c0f4d7b9e4a1d"  # no SHA-256
    address = upstream.as_uri()
    monkeypatch.setitem(fetched.FILES, "gsm8k", {"a.jsonl": (address, right)})
    with pytest.raises(ValueError, match="its SHA-256 is .*, expected 2d5d"):
        fetched.fetch("gsm8k", tmp_path / "data")
    assert not (tmp_path / "data" / "gsm8k" / "a.jsonl").exists()
    monkeypatch.setitem(fetched.FILES, "gsm8k", {"a.jsonl": (address, None)})
    fetched.fetch("gsm8k", tmp_path / "data")
    assert (tmp_path / "data" / "gsm8k" / "a.jsonl").read_bytes() == b"one\n"
    upstream.unlink()
    fetched.fetch("gsm8k", tmp_path / "data")
    assert "there already" in capsys.readouterr().out


def test_metamathqa_is_brought_into_the_form_of_gsm8k() -> None:
    rows = [
        {"query": "2 + 3?", "response": "2 + 3 = 5.\n#### 5\nThe answer is: 5"},
        {"query": "Half of 1,000?", "response": "It is 500.\nThe answer is: 500"},
        {"query": "x?", "response": "So x is a half.\nThe answer is: \\frac{1}{2}"},
        {"query": "long " * 300, "response": "1 = 1\nThe answer is: 1"},
        {"query": "bare", "response": "The answer is: 7"},
    ]
    assert list(fetch_data().convert_metamathqa(rows)) == [
        {"question": "2 + 3?", "answer": "2 + 3 = 5.\n#### 5"},
        {"question": "Half of 1,000?", "answer": "It is 500.\n#### 500"},
    ]


def test_the_task_of_metamathqa_reads_what_is_fetched(tmp_path: Path) -> None:
    from adapt_jax.tasks.loading import load_task

    after = [(n, n + 1) for n in range(9)]
    answers = [{"question": f"{n} + 1?", "answer": f"It is {m}.\n#### {m}"} for n, m in after]
    for name in ("metamathqa/train.jsonl", "gsm8k/test.jsonl"):
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True)
        rows = answers[:6] if "train" in name else answers[6:]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    place = tmp_path / "configs" / "tasks"
    place.mkdir(parents=True)
    text = (ROOT / "configs" / "tasks" / "metamathqa.yaml").read_text(encoding="utf-8")
    text = text.replace("{train: 40000, development: 50}", "{development: 2}")
    (place / "metamathqa.yaml").write_text(text, encoding="utf-8")
    task = load_task(place / "metamathqa.yaml")
    assert (len(task.train), len(task.development), len(task.test)) == (4, 2, 3)
    asked = task.template.format_question(task.test[0].question)
    assert "Think step by step.\nAnswer:" in asked
    assert task.test[0].reasoning == "It is 7." and task.test[0].answer == "7"


def planned_bytes(folder: Path, name: str, options: Any, mesh: str | None, dtype: str) -> int:
    """Bytes of a device at the fullest moment of a method, activations left out."""
    method = validate(METHODS[name], options, name)
    training = options.get("training", {})
    work = Workload(
        batch=training.get("batch_size", 32),
        length=method.max_new_tokens + 128,
        answer=method.max_new_tokens,
        prefix=150 * options.get("demonstrations", 1),
        max_concurrent_sequences=8 if dtype == "float32" else 64,
        candidates=options.get("candidates"),
    )
    devices, _ = read_mesh(mesh)
    programs = build_programs(method, work, jnp.dtype(dtype), devices)
    return Measurement(programs(read_checkpoint(folder, None).config)).memory().total


def real(name: str) -> tuple[CompareConfig, str]:
    """A configuration, and what messages call it."""
    return load_config(CompareConfig, ROOT / "configs" / "real" / f"{name}.yaml")[:2]


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_is_the_one_that_its_files_describe(machine: str) -> None:
    _, mesh, _, names = MACHINES[machine]
    files = [path.stem for path in CONFIGS if path.stem.endswith(f"_{machine}")]
    assert len(files) == (5 if machine == "cpu" else 4)
    for name in files:
        settings, _ = real(name)
        assert settings.decoder in names
        sizes = {} if settings.mesh is None else settings.mesh.model_dump(exclude_unset=True)
        described = ",".join(f"{axis}={size}" for axis, size in sizes.items())
        assert (mesh or "").rpartition("x4,")[2] == described


@pytest.mark.parametrize(
    ("machine", "method"),  # the fullest of each kind of method; a pod holds what a v5e8 holds
    [(machine, "fine_tuning") for machine in MACHINES]
    + [("gpu", "self_consistency"), ("v5e8", "self_consistency")],
)
def test_the_largest_decoder_fits_its_machine(
    decoders: dict[str, Path], machine: str, method: str
) -> None:
    limit, mesh, dtype, names = MACHINES[machine]
    if machine == "pod" and importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu, which knows the topology, is not installed")
    settings, _ = real(f"gsm8k_{machine}")  # its texts are the longest
    largest = max(names, key=PARAMETERS.__getitem__)
    options = settings.methods[method] or {}
    needed = planned_bytes(decoders[largest], method, options, mesh, dtype)
    assert needed < 0.8 * limit, f"{largest}, {method}: {needed / GIB:.1f} GiB"


@pytest.mark.parametrize(("limit", "names"), LARGER_GPUS, ids=["40 GB", "80 GB"])
def test_larger_gpus_hold_larger_decoders(
    decoders: dict[str, Path], limit: float, names: list[str]
) -> None:
    settings, _ = real("gsm8k_gpu")
    options = settings.methods["fine_tuning"] or {}
    largest = max(names, key=PARAMETERS.__getitem__)
    needed = planned_bytes(decoders[largest], "fine_tuning", options, None, "bfloat16")
    assert needed < 0.8 * limit, f"{largest}: {needed / GIB:.1f} GiB"


def test_the_comparison_with_peft_fits_its_gpu(decoders: dict[str, Path]) -> None:
    settings, where = real("metamathqa_peft")
    assert list(choose_methods(settings, where)) == ["prompt_tuning", "lora", "fine_tuning"]
    for method, options in settings.methods.items():
        folder = decoders[settings.decoder]
        assert planned_bytes(folder, method, options or {}, None, "bfloat16") < 0.8 * 79 * GIB
