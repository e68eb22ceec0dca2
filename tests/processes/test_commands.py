"""The command line in several real processes: what is wrong is one line, and all of them leave."""

import sys
from pathlib import Path

import pytest
import yaml
from helpers import write_task
from process_groups import Ended, find_port, run_together
from tiny_llama import write_tiny_llama

from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.methods.zero_shot import ZeroShot
from adapt_jax.pretrained.loading import load_pretrained
from adapt_jax.tasks.loading import load_task


def run(*commands: list[str], **more: str) -> list[Ended]:
    given = [[sys.executable, "-m", "adapt_jax", *map(str, command)] for command in commands]
    return run_together(given, **more)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    write_tiny_llama(folder / "llama", num_hidden_layers=1)
    task = write_task(folder / "task", test=3)
    ladder = {"decoder": str(folder / "llama"), "task": task, "methods": {"zero_shot": {}}}
    (folder / "ladder.yaml").write_text(yaml.safe_dump(ladder))
    model = load_pretrained(folder / "llama")
    method = ZeroShot(max_new_tokens=4)
    method.adapt(model, load_task(task, folder)).adaptation.save(folder / "adaptation")
    return folder


def error_lines(ended: Ended) -> list[str]:
    return [line for line in ended.error.splitlines() if line.startswith("error: ")]


def test_different_configurations_are_refused_naming_the_key(place: Path):
    command = ["compare", place / "ladder.yaml", "--output-dir", place / "out", "--seed"]
    first, second = run([*command, "1"], [*command, "2"])
    assert (first.code, second.code) == (2, 2), first.error[-2000:]
    assert error_lines(first) == [
        "error: the processes were started with different configurations: seed is 2 in process 1, "
        "1 in process 0"
    ]
    assert error_lines(second) == [] and not (place / "out").exists()


def test_a_mesh_that_does_not_fit_the_devices_is_one_line_of_process_0(place: Path):
    command = ["compare", place / "ladder.yaml", "--output-dir", place / "out"]
    command += ["--mesh", "{data: 3}"]
    first, second = run(command, command)
    assert (first.code, second.code) == (2, 2), first.error[-2000:]
    (line,) = error_lines(first)
    assert "does not fit 2 devices" in line and error_lines(second) == []


def test_standard_output_holds_the_results_of_process_0_alone(place: Path):
    """Not what gloo prints when the processes compute together."""
    training = {"steps": 1, "batch_size": 3, "learning_rate": 0.01}
    method = {"name": "lora", "max_new_tokens": 4, "training": training}
    ladder = yaml.safe_load((place / "ladder.yaml").read_text())
    tuning = {key: ladder[key] for key in ("decoder", "task")} | {"method": method}
    (place / "tune.yaml").write_text(yaml.safe_dump(tuning))
    command = ["tune", place / "tune.yaml", "--output-dir", place / "tuned", "--quiet"]
    first, second = run(command, command)
    assert (first.code, second.code) == (0, 0), first.error[-2000:]
    assert first.out == f"saved: {place / 'tuned/adaptation'}\n" and not second.out


def test_one_process_answers_and_prints_once(place: Path):
    command = ["ask", place / "adaptation", "What is 1 + 1?"]
    first, second = run(command, command)
    assert (first.code, second.code) == (0, 0), first.error[-2000:]
    assert first.out.strip() and not second.out
    assert Adaptation.load(place / "adaptation").method == "zero_shot"


def test_the_harness_runs_on_one_process_whose_exit_code_all_take(place: Path):
    pytest.importorskip("lm_eval", reason="the eval extra brings the harness")
    command = ["lm-eval", "run", "--nope"]
    first, second = run(command, command)
    assert (first.code, second.code) == (2, 2), first.error[-2000:]
    assert "unrecognized arguments: --nope" in first.error
    assert "unrecognized" not in second.error and not second.out


def test_a_process_that_does_not_come_is_named_with_the_coordinator(place: Path):
    port = find_port()
    command = ["compare", place / "ladder.yaml", "--coordinator", f"localhost:{port}"]
    command += ["--num-processes", "3", "--start-timeout", "4", "--process-id"]
    for index, start in (("0", "processes 1 and 2 of 3 did not come"), ("2", "process 0 of 3")):
        [ended] = run([*command, index])
        assert ended.code == 2
        (line,) = error_lines(ended)
        assert line.startswith(f"error: {start}") and f"(coordinator localhost:{port}" in line
        assert "one worker only" in line and "firewall" in line and "proxy" in line
