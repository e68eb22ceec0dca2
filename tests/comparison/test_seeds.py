"""A comparison over several seeds: each run apart, means and intervals over questions and seeds."""

import io
import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from helpers import SHORT, fails, write_task
from rich.console import Console
from scripted import scripted

from adapt_jax.adaptation import session as session_module
from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.comparison.adaptations import find_adaptation
from adapt_jax.comparison.compare import Comparison, compare
from adapt_jax.evaluation.judging.judge import judge
from adapt_jax.evaluation.over_seeds import compare_runs, runs_interval
from adapt_jax.evaluation.report.text import describe_notes, describe_rung
from adapt_jax.methods.few_shot import FewShot
from adapt_jax.prompting.prompt import MethodNotApplicable
from adapt_jax.tasks.loading import load_task

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schemas"
SHOWN = {"question": "What is 1 + 2?", "answer": "3", "reasoning": "Two more than 1 is 3."}
METHODS = {
    "zero_shot": SHORT,
    "few_shot": SHORT | {"demonstrations": {"count": 2, "select": "random"}},
    "self_consistency": SHORT
    | {
        "demonstrations": {"select": "fixed", "examples": [SHOWN]},
        "candidates": 3,
        "temperature": 1.0,
    },
}
TIMES = ("seconds", "train_seconds", "compilations", "crc32", "predictions_crc32")


@contextmanager
def decoder(task: Any, share: Any):
    """A decoder that is right with a probability that depends on the method and the seed.

    Yields what was asked: (method, seed, first example's id) of each evaluation.
    """
    loaded = load_task(task)
    answers = {one.id: one.answer for one in (*loaded.train, *loaded.development, *loaded.test)}
    asked: list[tuple[str, int, str]] = []
    stream = Adaptation.stream

    def watched(self, examples, *, seed=0, **options):
        asked.append((self.method, seed, examples[0].id))
        return stream(self, examples, seed=seed, **options)

    def say(name: str, number: int) -> str:
        method, seed, _ = asked[-1]
        rng = np.random.default_rng([seed, number, int(answers[name]), len(method)])
        wrong = rng.random() >= share(method, seed)
        return f" The answer is {int(answers[name]) + wrong}."

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Adaptation, "stream", watched)
        patch.setattr(session_module, "Engine", scripted(say))
        yield asked


def make_config(folder: Path, decoder_folder: Path, **changes: Any) -> dict[str, Any]:
    task = write_task(folder / "task", train=30, test=30)
    task["splits"] = {"train": 20, "development": 10}
    return {"decoder": str(decoder_folder), "task": task, "methods": METHODS} | changes


def share(method: str, seed: int) -> float:
    return {"zero_shot": 0.2, "few_shot": 0.3 + 0.2 * (seed % 3), "self_consistency": 0.8}[method]


@pytest.fixture(scope="module")
def climbed(shallow_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("seeds")
    config = make_config(folder, shallow_folder, seeds=[3, 5, 4])
    with decoder(config["task"], share):
        return compare(config, folder / "run", progress=False)


def timeless(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: timeless(value) for key, value in content.items() if key not in TIMES}
    return [timeless(value) for value in content] if isinstance(content, list) else content


def list_files(folder: Path) -> set[str]:
    return {str(one.relative_to(folder)) for one in folder.rglob("*")}


def read_rows(path: Path) -> list[Any]:
    return [timeless(json.loads(line)) for line in path.read_text().splitlines()]


def test_each_rung_that_depends_on_a_seed_runs_with_each(climbed: Comparison):
    zero, few, sampled = climbed.measured_rungs
    assert zero.runs is None and zero.adaptation_seed is None
    for rung in (few, sampled):
        assert [(run.seed, run.folder) for run in rung.runs] == [
            (3, "."), (5, "seed-5"), (4, "seed-4")
        ]  # fmt: skip
        scores = []
        for run in rung.runs:
            rows = read_rows(climbed.output_dir / run.folder / f"predictions/{rung.method}.jsonl")
            scores.append([float(row["correct"]) for row in rows])
            assert run.accuracy == run.score == pytest.approx(np.mean(scores[-1]))
            assert (climbed.output_dir / run.folder / "adaptations" / rung.method).is_dir()
        assert rung.accuracy == pytest.approx(np.mean(scores)) and rung.n == 30
        assert rung.ci95 == rung.score_ci95 == runs_interval(scores)
        assert rung.score_deviation == pytest.approx(np.mean(scores, axis=1).std(ddof=1))
        below = climbed.measured_below(rung.method)[-1]
        found = compare_runs(scores, climbed.scores_by_seed[below.method])
        assert rung.vs_previous.p_value == found.p_value
        assert rung.vs_previous.test == "t_over_seeds" == found.test
    assert climbed.scores["few_shot"] == np.mean(climbed.scores_by_seed["few_shot"], 0).tolist()


def test_the_adaptation_is_chosen_on_the_development_split(climbed: Comparison):
    zero, few, sampled = climbed.measured_rungs
    scores = {run.seed: run.development_score for run in few.runs}
    assert few.adaptation_seed == max(scores, key=scores.get) == 4
    folder = climbed.adaptation_folder("few_shot")
    assert folder == climbed.output_dir / "seed-4" / "adaptations" / "few_shot"
    assert Comparison.load(climbed.output_dir).adaptation_folder("few_shot") == folder
    # of equal adaptations that are sampled from, none is chosen, and no question is spent on it
    assert [run.development_score for run in sampled.runs] == [None] * 3
    assert climbed.adaptation_folder("self_consistency").parent.parent == climbed.output_dir
    assert climbed.best == "self_consistency"
    assert find_adaptation(str(climbed.output_dir)).name == "self_consistency"
    sentence = next(line for line in describe_notes(climbed.result) if "seed 4, the best" in line)
    assert sentence.startswith("few_shot: ") and "on the development split (" in sentence
    assert any("the adaptation is the same" in line for line in describe_notes(climbed.result))


def test_the_test_split_has_no_part_in_the_choice(shallow_folder, tmp_path):
    config = make_config(tmp_path, shallow_folder, seeds=[0, 1])
    config["methods"] = {"few_shot": METHODS["few_shot"]}

    config["task"].pop("splits")  # no development split
    with decoder(config["task"], lambda method, seed: float(seed)):
        result = compare(config, tmp_path / "run", progress=False)
    [rung] = result.measured_rungs
    assert [run.score for run in rung.runs] == [0.0, 1.0] and rung.adaptation_seed == 0
    notes = " ".join(describe_notes(result.result))
    assert "that of seed 0, the first, as the task has no development split" in notes


def test_results_agree_with_schema_table_and_picture(climbed: Comparison):
    written = json.loads((climbed.output_dir / "comparison.json").read_text())
    schema = json.loads((SCHEMAS / "comparison.schema.json").read_text())
    jsonschema.validate(written, schema)
    assert written["seeds"] == [3, 5, 4] and written["seed"] == 3
    assert Comparison.load(climbed.output_dir).result == climbed.result
    assert (climbed.output_dir / "ladder.png").read_bytes()[:4] == b"\x89PNG"
    file = io.StringIO()
    Console(file=file, width=80).print(climbed.table())
    printed = file.getvalue()
    assert "seeds 3, 5, 4" in printed and "seeds: lowest and highest score" in printed
    low, *_, high = sorted(run.score for run in climbed["few_shot"].runs)
    assert f"{100 * low:.1f}–{100 * high:.1f}" in printed
    assert max(len(line) for line in printed.splitlines()) <= 80
    assert "Student's t over questions and seeds" in " ".join(printed.split())
    assert "paired test with Holm's" in climbed.result.recommendation.sentence


def test_the_run_of_a_seed_is_that_of_a_comparison_with_this_seed(
    climbed: Comparison, shallow_folder, tmp_path
):
    config = make_config(tmp_path, shallow_folder, seed=5)
    with decoder(config["task"], share):
        alone = compare(config, tmp_path / "alone", progress=False)
    written = json.loads((tmp_path / "alone" / "comparison.json").read_text())
    assert "seeds" not in written
    for rung in written["rungs"]:
        assert not {"runs", "score_deviation", "adaptation_seed"} & rung.keys()
    for name in ("few_shot", "self_consistency"):
        [run] = [run for run in climbed[name].runs if run.seed == 5]
        assert run.identity == alone[name].identity and run.score_ci95 == alone[name].score_ci95
        rows = read_rows(climbed.output_dir / "seed-5" / "predictions" / f"{name}.jsonl")
        assert rows == read_rows(tmp_path / "alone" / "predictions" / f"{name}.jsonl")
        # one seed in the list is one seed
    with decoder(config["task"], share):
        del config["seed"]
        listed = compare(config | {"seeds": [5]}, tmp_path / "listed", progress=False)
    assert timeless(listed.result.model_dump()) == timeless(alone.result.model_dump())


def test_seeds_that_are_added_run_alone(shallow_folder, tmp_path):
    config = make_config(tmp_path, shallow_folder)
    with decoder(config["task"], share):
        compare(config | {"seed": 3}, tmp_path / "run", progress=False)
    with decoder(config["task"], share) as asked:
        more = compare(config | {"seeds": [3, 5]}, tmp_path / "run", progress=False)
    test = load_task(config["task"]).test[0].id
    new = [(method, seed) for method, seed, first in asked if first == test]
    assert new == [("few_shot", 5), ("self_consistency", 5)]
    # the choice needs the development score of both
    assert [(method, seed) for method, seed, first in asked if first != test] == [
        ("few_shot", 3), ("few_shot", 5)
    ]  # fmt: skip
    with decoder(config["task"], share):
        whole = compare(config | {"seeds": [3, 5]}, tmp_path / "whole", progress=False)
    assert timeless(more.result.model_dump()) == timeless(whole.result.model_dump())
    # fewer seeds: what is left of the others is removed
    with decoder(config["task"], share) as asked:
        compare(config | {"seeds": [3]}, tmp_path / "run", progress=False)
    assert asked == [] and not (tmp_path / "run" / "seed-5").exists()


def test_a_killed_comparison_continues_with_the_seeds_that_are_missing(
    climbed: Comparison, shallow_folder, tmp_path
):
    config = make_config(tmp_path, shallow_folder, seeds=[3, 5, 4])

    def killed(method: str, seed: int) -> float:
        if (method, seed) == ("self_consistency", 4):
            raise KeyboardInterrupt
        return share(method, seed)

    with decoder(config["task"], killed), pytest.raises(KeyboardInterrupt):
        compare(config, tmp_path / "killed", progress=False)
    half = Comparison.load(tmp_path / "killed")
    assert [run.seed for run in half["self_consistency"].runs] == [3, 5]
    with decoder(config["task"], share) as asked:
        continued = compare(config, tmp_path / "killed", progress=False)
    assert {(method, seed) for method, seed, _ in asked} == {("self_consistency", 4)}
    assert timeless(continued.result.model_dump()) == timeless(climbed.result.model_dump())
    assert list_files(tmp_path / "killed") == list_files(climbed.output_dir)


def test_a_changed_prediction_of_a_seed_runs_that_seed_again(
    climbed: Comparison, shallow_folder, tmp_path
):
    run = shutil.copytree(climbed.output_dir, tmp_path / "run")
    path = run / "seed-4" / "predictions" / "few_shot.jsonl"
    path.write_text(path.read_text().replace('"score": 0.0', '"score": 1.0'))
    config = make_config(tmp_path, shallow_folder, seeds=[3, 5, 4])
    with decoder(config["task"], share) as asked:
        again = compare(config, run, progress=False)
    assert {(method, seed) for method, seed, _ in asked} == {("few_shot", 4)}
    assert timeless(again.result.model_dump()) == timeless(climbed.result.model_dump())


def test_judge_takes_every_seed_of_a_rung(climbed: Comparison):
    folder = climbed.output_dir
    found = judge([str(folder)]).result
    names = [Path(side.name).stem for side in found.sides]
    assert names == ["self_consistency", "zero_shot", "few_shot"]
    for side in found.sides:
        assert side.mean == pytest.approx(climbed[Path(side.name).stem].score)
    assert [len(side.run_means) for side in found.sides] == [3, 0, 3]
    found = judge([str(folder), str(folder / "adaptations" / "few_shot")]).result
    assert found.comparisons[0].mean_first == pytest.approx(climbed["self_consistency"].score)
    lone = folder / "seed-4" / "predictions" / "few_shot.jsonl"
    assert judge([str(lone), str(folder)]).result.sides[0].run_means == []


def test_training_is_repeated_with_each_seed(shallow_folder, tmp_path):
    tuned = SHORT | {"rank": 2, "training": {"steps": 2, "batch_size": 4, "warmup_steps": 0}}
    config = make_config(tmp_path, shallow_folder, seeds=[0, 1], methods={"lora": tuned})
    result = compare(config, tmp_path / "run", progress=False)
    [rung] = result.measured_rungs
    assert [run.seed for run in rung.runs] == [0, 1]
    assert len({run.identity for run in rung.runs}) == 2
    first, second = (tmp_path / "run" / run.folder / "adaptations" / "lora" for run in rung.runs)
    [weights] = first.glob("*.safetensors")
    assert weights.read_bytes() != (second / weights.name).read_bytes()
    assert (tmp_path / "run" / "seed-1" / "training" / "lora").is_dir()
    # no answer is right, so the first of equals stands for the rung
    assert rung.adaptation_seed == 0 and result.adaptation("lora").method == "lora"


def test_a_rung_that_cannot_run_is_skipped_once(shallow_folder, tmp_path):
    config = make_config(tmp_path, shallow_folder, seeds=[0, 1])
    config["task"] = write_task(tmp_path / "bare", reasoning=False)
    config["methods"] = {"zero_shot": SHORT, "chain_of_thought": SHORT}
    with decoder(config["task"], lambda *_: 1.0):
        result = compare(config, tmp_path / "run", progress=False)
    skipped = result["chain_of_thought"]
    assert skipped.status == "skipped"
    assert describe_rung(skipped) == (
        "chain_of_thought: skipped, no training example has a reasoning to show"
    )


def test_a_seed_under_which_a_rung_cannot_run_is_named(shallow_folder, tmp_path, monkeypatch):
    """As bootstrapped reasoning may find nothing under one seed."""
    config = make_config(tmp_path, shallow_folder, seeds=[0, 1])
    config["methods"] = {"few_shot": METHODS["few_shot"] | {"max_new_tokens": 8}}
    adapt = FewShot.adapt

    def refuse(self, model, task, run):
        if run.seed in refused:
            raise MethodNotApplicable("nothing was found")
        return adapt(self, model, task, run)

    monkeypatch.setattr(FewShot, "adapt", refuse)
    refused = {0}
    with decoder(config["task"], lambda *_: 0.5):
        result = compare(config, tmp_path / "run", progress=False)
    [rung] = result.measured_rungs
    assert [run.seed for run in rung.runs] == [1] and rung.score == rung.runs[0].score
    assert rung.warnings == ["seed 0: cannot run, nothing was found"]
    assert result.adaptation_folder().parent.parent.name == "seed-1"
    # it is tried again, and what there is stays
    refused = set()
    with decoder(config["task"], lambda *_: 0.5) as asked:
        again = compare(config, tmp_path / "run", progress=False)
    assert {seed for _, seed, _ in asked} == {0}
    assert [run.seed for run in again["few_shot"].runs] == [0, 1]
    assert again["few_shot"].warnings == []


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seeds": [1, 1]}, "seeds: [1, 1] names a seed twice"),
        ({"seed": 7, "seeds": [1, 2]}, "seeds begins with 1, but seed is 7: leave out seed"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [-1]}, "seeds.0"),
        ({"seeds": 3}, "seeds"),
        ({"seeds": [0.5]}, "seeds.0"),
    ],
)
def test_a_mistake_in_the_seeds_is_one_line(changes, message, tmp_path, capsys):
    config = {"task": write_task(tmp_path / "task"), "methods": {"zero_shot": {}}} | changes
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert message in fails(capsys, "compare", tmp_path / "run.yaml")
