"""One, two and four real processes come to the same losses, predictions and comparison.

Each group of processes does many jobs, because its start takes long; the tests look at what they
left.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import write_task
from process_groups import run_group
from tiny_llama import write_tiny_llama

METHODS = ("prompt_tuning", "lora", "fine_tuning")
FROZEN = ("zero_shot", "self_consistency")
PROMPTING = (*FROZEN, "few_shot")
TIMES = ("seconds", "train_seconds", "compilations", "crc32", "predictions_crc32")
OF_THE_MESH = ("padding_share",)  # rows are rounded up to what the devices share


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny decoder, a task, and configurations, beside which results are written."""
    folder = tmp_path_factory.mktemp("together")
    write_tiny_llama(folder / "llama", num_hidden_layers=1)
    task = write_task(folder / "task", test=7)
    training = {"steps": 4, "batch_size": 4, "learning_rate": 0.01}
    tuning: dict[str, Any] = {"max_new_tokens": 4, "training": training}
    common = {"decoder": str(folder / "llama"), "task": task}
    # the decoder's hidden states choose what is shown, also while its weights span processes
    shown = {"count": 2, "select": "diverse", "similarity": "decoder"}
    ladder = {
        "zero_shot": {"max_new_tokens": 4},
        "few_shot": {"max_new_tokens": 4, "demonstrations": shown},
        "self_consistency": {"max_new_tokens": 4, "candidates": 3},
        "prompt_tuning": tuning | {"length": 4},
        "lora": tuning,
        "fine_tuning": tuning,
    }
    often = tuning | {"training": training | {"steps": 24, "checkpoint_every": 4}}
    corpus = "\n".join(f"The sum of {n} and 1 is {n + 1}." for n in range(60))
    (folder / "corpus.txt").write_text(corpus)
    for name, content in {
        "task": task,
        "ladder": common | {"methods": ladder},
        "short": common | {"methods": {name: ladder[name] for name in FROZEN}},
        "tune": common | {"method": {"name": "lora", **often}},
        "pretrain": {
            "name": "sums",
            "decoder": str(folder / "llama"),
            "corpus": ["corpus.txt"],
            "training": {"steps": 3, "batch_size": 4, "row_length": 64},
        },
    }.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    rows = [json.dumps({"question": f"What is {n} + 2?"}) + "\n" for n in range(5)]
    (folder / "questions.jsonl").write_text("".join(rows))
    return folder


def work(place: Path, name: str, **mesh: int) -> list[dict[str, Any]]:
    """The same jobs for every number of processes."""
    return [
        {
            "do": "compare",
            "config": str(place / "ladder.yaml"),
            "output": str(place / name),
            **({"mesh": mesh} if mesh else {}),
        },
        {
            "do": "evaluate",
            "adaptation": str(place / "one/adaptations/fine_tuning"),
            "task": str(place / "task.yaml"),
            "output": str(place / f"{name}-evaluated"),
        },
        {
            "do": "predict",
            "adaptation": str(place / "one/adaptations/lora"),
            "source": str(place / "questions.jsonl"),
            "target": str(place / f"{name}-predicted.jsonl"),
        },
        {
            "do": "pretrain",
            "config": str(place / "pretrain.yaml"),
            "output": str(place / f"{name}-pretrained"),
        },
    ]


def tune(place: Path, name: str, **more: Any) -> dict[str, Any]:
    """A job that tunes over fsdp, and saves every four steps."""
    files = {"config": str(place / "tune.yaml"), "output": str(place / name)}
    return {"do": "tune", **files, "mesh": {"data": 1, "fsdp": -1}, **more}


@pytest.fixture(scope="module")
def one(place: Path) -> Path:
    """What a single process leaves, with no mesh."""
    [ended] = run_group(place / "group1", 1, *work(place, "one"))
    assert ended.code == 0, ended.error[-3000:]
    assert all("value" in row for row in ended.report), ended.report
    return place


@pytest.fixture(scope="module")
def two(one: Path) -> Path:
    """What two processes leave, over fsdp; one of them is killed in its last job."""
    ended = run_group(
        one / "group2",
        2,
        *work(one, "two", data=1, fsdp=2),
        {"do": "gather"},
        {"do": "agree", "values": [1, 2]},
        {"do": "share", "folders": [str(one / "here"), str(one / "there")]},
        {"do": "run_on_main", "mistake": "the disk is full"},
        tune(one, "whole"),
        tune(one, "stopped", stop_at=[1, 3]),
        tune(one, "killed", kill_at=[1, 13]),
    )
    assert [each.code for each in ended] == [75, -9], [each.error[-3000:] for each in ended]
    (one / "group2/error.txt").write_text(ended[0].error)
    for each in ended:
        assert all("value" in row for row in each.report[:5]), each.report
    return one


def reports(place: Path, group: str, count: int) -> list[list[dict[str, Any]]]:
    return [json.loads((place / group / f"report{n}.json").read_text()) for n in range(count)]


def read_rows(path: Path) -> list[Any]:
    return [without_times(json.loads(line)) for line in path.read_text().splitlines()]


def without_times(content: Any) -> Any:
    if isinstance(content, dict):
        dropped = (*TIMES, *OF_THE_MESH, "time", "tokens_per_second")
        return {name: without_times(one) for name, one in content.items() if name not in dropped}
    return [without_times(one) for one in content] if isinstance(content, list) else content


def losses(training: Path) -> list[float]:
    rows = map(json.loads, (training / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows]


def assert_same(one: Any, other: Any, tolerance: float = 0.0) -> None:
    """Equal, but for numbers within the tolerance."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name], tolerance)
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_same(first, second, tolerance)
    elif isinstance(one, float) and tolerance:
        assert one == pytest.approx(other, abs=tolerance)
    else:
        assert one == other


def check_against_one(place: Path, name: str) -> None:
    for method in METHODS:
        ours, alone = (losses(place / which / "training" / method) for which in (name, "one"))
        assert ours == pytest.approx(alone, abs=1e-4)
    # a frozen decoder answers bitwise alike; weights that were trained differ by rounding
    for method in (*PROMPTING, *METHODS):
        ours, alone = (
            read_rows(place / which / "predictions" / f"{method}.jsonl") for which in (name, "one")
        )
        assert_same(ours, alone, 0.0 if method in PROMPTING else 1e-4)
    ours, alone = (
        without_times(json.loads((place / which / "comparison.json").read_text()))
        for which in (name, "one")
    )
    for rung in (*ours["rungs"], *alone["rungs"]):
        rung.pop("identity")
    assert_same(ours, alone, 1e-4)
    for file in ("evaluated/predictions.jsonl", "predicted.jsonl"):
        assert read_rows(place / f"{name}-{file}") == read_rows(place / f"one-{file}")
    ours, alone = (losses(place / f"{which}-pretrained/training") for which in (name, "one"))
    assert ours == pytest.approx(alone, abs=1e-4)
    assert (place / f"{name}-pretrained/model.safetensors").is_file()


def list_left_overs(place: Path, name: str) -> list[str]:
    found = [*place.glob(f"{name}*process-*"), *(place / name).rglob("*process-*")]
    found += [*(place / f"{name}-evaluated").glob("*partial*"), *(place / name).glob("unfinished*")]
    found += (place / name).glob(".adapt_jax-shared*")
    return [path.name for path in found]


def test_two_processes_over_fsdp_come_to_what_one_process_does(two: Path):
    check_against_one(two, "two")
    assert list_left_overs(two, "two") == []


def test_processes_agree_or_are_refused_with_the_key_and_the_folder(two: Path):
    for index, report in enumerate(reports(two, "group2", 2)):
        gathered, different, unshared, raised, *_ = report[4:]
        assert gathered["value"] == [{"index": 0}, {"index": 1}]
        assert different["mistake"] == (
            "the processes were started with different configurations: key is 2 in process 1, "
            "1 in process 0"
        )
        assert f"{'there' if index else 'here'}: process 1 does not see" in unshared["mistake"]
        assert raised["mistake"] == "the disk is full"


def test_a_process_that_is_asked_to_stop_leads_all_to_save_the_same_step(two: Path):
    texts = {report[9]["stopped"] for report in reports(two, "group2", 2)}
    assert len(texts) == 1, texts
    step = int(texts.pop().split("after step ")[1].split()[0])
    assert 3 <= step < 24
    training = two / "stopped/training"
    assert max(int(one.name) for one in (training / "checkpoints").iterdir()) == step
    assert len(losses(training)) == step


def test_a_killed_process_is_named_and_the_other_leaves(two: Path):
    error = (two / "group2/error.txt").read_text()
    assert "error: process 1 of 2 has ended without a word" in error


@pytest.fixture(scope="module")
def again(two: Path) -> Path:
    """Two processes continue what was killed or stopped; one is killed in a comparison."""
    ended = run_group(
        two / "group3",
        2,
        tune(two, "moved", stop_at=[0, 2]),
        tune(two, "killed"),
        tune(two, "stopped"),
        {
            "do": "compare",
            "config": str(two / "short.yaml"),
            "output": str(two / "short"),
            "kill_after": [1, "self_consistency", 2],
        },
    )
    assert [each.code for each in ended] == [75, -9], [each.error[-3000:] for each in ended]
    assert all("stopped" in each.report[0] for each in ended), ended[0].report
    return two


def test_a_restart_ends_bitwise_as_the_undisturbed_run(again: Path):
    for name in ("killed", "stopped"):
        for file in ("adapter_model.safetensors", "adapter_config.json"):
            whole, cut = (again / which / "adaptation" / file for which in ("whole", name))
            assert cut.read_bytes() == whole.read_bytes()
        assert losses(again / name / "training") == losses(again / "whole/training")


@pytest.fixture(scope="module")
def four(again: Path) -> Path:
    """Four processes, over data and with no mesh; and on what two of them began."""
    before = json.loads((again / "short/comparison.json").read_text())
    assert [rung["method"] for rung in before["rungs"]] == ["zero_shot"]
    parts = list((again / "short").rglob("answers*.jsonl"))
    assert {"answers.jsonl", "answers.process-1.jsonl"} == {path.name for path in parts}
    ended = run_group(
        again / "group4",
        4,
        *work(again, "four"),
        tune(again, "moved"),
        {"do": "compare", "config": str(again / "short.yaml"), "output": str(again / "short")},
    )
    assert [each.code for each in ended] == [0] * 4, [each.error[-3000:] for each in ended]
    assert all("value" in row for each in ended for row in each.report), ended[0].report
    return again


def test_four_processes_come_to_what_one_process_does(four: Path):
    check_against_one(four, "four")
    assert list_left_overs(four, "four") == []


def test_a_training_goes_on_with_another_number_of_processes(four: Path):
    ours, whole = (losses(four / which / "training") for which in ("moved", "whole"))
    assert len(ours) == 24 and ours == pytest.approx(whole, abs=1e-4)


def test_a_comparison_that_was_killed_goes_on_with_another_number_of_processes(four: Path):
    for method in FROZEN:
        file = f"predictions/{method}.jsonl"
        ours, alone = (read_rows(four / name / file) for name in ("short", "one"))
        assert ours == alone
    assert list_left_overs(four, "short") == []
    shutil.rmtree(four)  # checkpoints and copies of the decoder
