"""The ladder: every rung measured, skipped ones with their reason, files whole after each rung."""

import io
import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from helpers import SHORT, write_task
from rich.console import Console
from scripted import scripted

import adapt_jax
from adapt_jax.adaptation import session as session_module
from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.comparison.adaptations import open_adaptation
from adapt_jax.comparison.compare import Comparison, compare
from adapt_jax.comparison.tune import tune
from adapt_jax.evaluation.evaluate import evaluate
from adapt_jax.evaluation.metrics import METRICS
from adapt_jax.evaluation.scorers import SCORERS
from adapt_jax.methods.registry import METHODS
from adapt_jax.prompting.voting import VOTES
from adapt_jax.tasks.loading import load_task
from adapt_jax.utils.errors import UserError
from adapt_jax.utils.locks import lock_folder
from adapt_jax.utils.registry import load_plugin

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schemas"
TRAINING = {"steps": 3, "batch_size": 4, "warmup_steps": 0}
TRAINED = SHORT | {"training": TRAINING}
LADDER = {
    "zero_shot": SHORT,
    "few_shot": SHORT | {"demonstrations": 2},
    "chain_of_thought": SHORT | {"demonstrations": 1},
    "self_consistency": SHORT | {"demonstrations": 1, "candidates": 3, "temperature": 1.0},
    "prompt_tuning": TRAINED | {"length": 4},
    "lora": TRAINED | {"rank": 2},
    "fine_tuning": TRAINED,
    "instruction_tuning": TRAINED | {"examples_per_category": 4, "eval_size": 2},
}


@pytest.fixture(scope="module")
def ladder(shallow_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """All rungs climbed once by a tiny random decoder."""
    folder = tmp_path_factory.mktemp("ladder")
    config = {
        "decoder": str(shallow_folder),
        "task": write_task(folder / "task"),
        "methods": dict(reversed(LADDER.items())),  # the order in the file does not count
        "max_concurrent_sequences": 8,
    }
    return compare(config, folder / "run", progress=False)


def test_a_comparison_runs_in_the_dtype_that_was_asked_for(shallow_folder: Path, tmp_path: Path):
    config = {
        "decoder": str(shallow_folder),
        "task": write_task(tmp_path / "task"),
        "methods": {name: LADDER[name] for name in ("few_shot", "lora", "fine_tuning")},
        "dtype": "bfloat16",
    }
    found = compare(config, tmp_path / "run", progress=False)
    assert [rung.status for rung in found.result.rungs] == ["done"] * 3
    for method in config["methods"]:
        assert found.adaptation(method).model.decoder.embedding[...].dtype == "bfloat16"


def test_every_rung_is_measured_in_the_order_of_the_ladder(ladder: Comparison):
    written = json.loads((ladder.output_dir / "comparison.json").read_text())
    for part in (written, *written["rungs"]):  # the file has checksums
        assert isinstance(part["crc32"], int)
        part["crc32"] = None
    assert written == ladder.result.model_dump(mode="json")
    assert Comparison.load(ladder.output_dir).result == ladder.result
    assert [rung["method"] for rung in written["rungs"]] == list(METHODS)
    assert (written["task"], written["seed"]) == ("sums", 0)
    for rung in written["rungs"]:
        assert rung["status"] == "done" and rung["reason"] is None and rung["n"] == 6
        low, high = rung["ci95"]
        assert 0 <= low <= rung["accuracy"] <= high <= 1
        assert rung["prompt_tokens"] > 0 and rung["seconds"] > 0
        trained = rung["trainable_parameters"]
        assert (trained > 0) == (rung["train_seconds"] > 0) == (rung["method"] in LADDER_TUNED)
    p_values = [rung["p_value_vs_previous"] for rung in written["rungs"]]
    assert p_values[0] is None and all(0 <= p <= 1 for p in p_values[1:])


LADDER_TUNED = ("prompt_tuning", "lora", "fine_tuning", "instruction_tuning")


def test_comparison_json_agrees_with_its_published_schema(ladder: Comparison):
    schema = json.loads((SCHEMAS / "comparison.schema.json").read_text())
    jsonschema.validate(json.loads((ladder.output_dir / "comparison.json").read_text()), schema)


def test_every_rung_is_compared_with_the_highest_below_that_trains_nothing(ladder: Comparison):
    assert ladder["zero_shot"].vs_reference is None
    assert ladder["chain_of_thought"].vs_reference == ladder["chain_of_thought"].vs_previous
    for name in LADDER_TUNED:
        assert ladder[name].vs_reference.method == "self_consistency"


def test_costs_are_those_of_the_technique(ladder: Comparison):
    zero, few, sampled = (ladder[m] for m in ("zero_shot", "few_shot", "self_consistency"))
    assert few.prompt_tokens > zero.prompt_tokens
    assert ladder["prompt_tuning"].prompt_tokens == zero.prompt_tokens + 4
    assert ladder["prompt_tuning"].trainable_parameters == 4 * 32
    assert ladder["fine_tuning"].trainable_parameters > ladder["lora"].trainable_parameters
    assert sampled.generated_tokens > ladder["chain_of_thought"].generated_tokens
    for name in ("accuracy_majority", "repeat_share", "abstained_candidates", "agreement"):
        assert 0 <= getattr(sampled, name) <= 1
    assert sampled.maj_at_k.keys() == sampled.distinct_at_k.keys() == {"1", "2", "3"}
    assert sampled.saved_share == 0
    assert zero.accuracy_majority is None and zero.maj_at_k is None


def test_instruction_tuning_is_judged_on_kinds_it_has_not_seen(ladder: Comparison):
    kinds = ladder["instruction_tuning"].unseen_categories
    assert len(kinds) > 1 and kinds["all"].p_value is not None
    assert all(0 <= kinds[kind].after <= 1 for kind in kinds)


def test_predictions_hold_every_question_candidate_answer_and_vote(ladder: Comparison):
    for rung in ladder.rungs:
        path = ladder.output_dir / "predictions" / f"{rung.method}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [row["question"] for row in rows] == [f"What is {n} + 1?" for n in range(50, 56)]
        assert [row["expected"] for row in rows] == [str(n + 1) for n in range(50, 56)]
        assert np.mean([row["correct"] for row in rows]) == pytest.approx(rung.accuracy)
        count = 3 if rung.method == "self_consistency" else 1
        assert all(len(row["candidates"]) == count and "counts" in row["vote"] for row in rows)
        tokens = [row["generated_tokens"] for row in rows]
        assert np.mean(tokens) == pytest.approx(rung.generated_tokens)


def test_the_picture_and_the_table_show_every_rung(ladder: Comparison):
    assert (ladder.output_dir / "ladder.png").read_bytes()[:4] == b"\x89PNG"
    file = io.StringIO()
    Console(file=file, width=80).print(ladder.table())
    text = " ".join(file.getvalue().split())  # captions wrap
    assert all(method in text for method in METHODS) and "categories it has not seen" in text


def test_the_decoder_is_left_as_it_was(ladder: Comparison, shallow):
    """Each prompted rung, and prompt tuning, was saved with the untouched decoder."""
    for method in ("zero_shot", "prompt_tuning"):
        assert ladder.adaptation(method).model.fingerprint == shallow.fingerprint
    assert ladder.adaptation("fine_tuning").model.fingerprint != shallow.fingerprint


def test_a_saved_rung_gives_the_measured_accuracy_again(ladder: Comparison, tmp_path: Path):
    task = load_task(write_task(tmp_path / "task"))
    for method in ("self_consistency", "lora"):
        path = ladder.output_dir / "predictions" / f"{method}.jsonl"
        before = [json.loads(line)["candidates"] for line in path.read_text().splitlines()]
        rows = evaluate(ladder.adaptation(method), task, max_concurrent_sequences=8).predictions
        after = [row.prediction.to_dict()["candidates"] for row in rows]
        texts = [[[c["text"] for c in row] for row in rows] for rows in (before, after)]
        assert texts[0] == texts[1]


def test_rungs_that_cannot_run_are_skipped_and_the_others_go_on(
    shallow_folder: Path, tmp_path: Path
):
    config = {
        "decoder": str(shallow_folder),
        "task": write_task(tmp_path / "task", reasoning=False),
        "methods": {"zero_shot": SHORT, "chain_of_thought": SHORT, "few_shot": SHORT},
    }
    result = compare(config, tmp_path / "run", progress=False)
    assert [rung.status for rung in result.rungs] == ["done", "done", "skipped"]
    rung = result["chain_of_thought"]
    assert "reasoning" in rung.reason and rung.accuracy is rung.prompt_tokens is rung.n is None
    assert not (tmp_path / "run" / "adaptations" / "chain_of_thought").exists()
    with pytest.raises(UserError, match="no adaptation, chain_of_thought was skipped"):
        result.adaptation("chain_of_thought")


def test_where_every_rung_was_skipped_asking_says_so(shallow_folder: Path, tmp_path: Path):
    config = {
        "decoder": str(shallow_folder),
        "task": write_task(tmp_path / "task", reasoning=False),
        "methods": {"chain_of_thought": SHORT},
    }
    result = compare(config, tmp_path / "run", progress=False)
    with pytest.raises(UserError, match="chain_of_thought was skipped; there are none"):
        result.adaptation("chain_of_thought")
    with pytest.raises(UserError, match="run: no adaptation, every rung was skipped"):
        open_adaptation(str(tmp_path / "run"), None)


def test_an_earlier_comparison_in_the_same_folder_is_replaced(shallow_folder: Path, tmp_path: Path):
    config = {
        "decoder": str(shallow_folder),
        "task": write_task(tmp_path / "task"),
        "methods": {"zero_shot": SHORT, "few_shot": SHORT | {"demonstrations": 1}},
    }
    compare(config, tmp_path / "run", progress=False)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    compare(config, tmp_path / "run", overrides={"methods_subset": "zero_shot"}, progress=False)
    left = {p.name for p in (tmp_path / "run" / "predictions").iterdir()}
    assert left == {"zero_shot.jsonl"} and (tmp_path / "run" / "notes.txt").exists()
    assert [p.name for p in (tmp_path / "run" / "adaptations").iterdir()] == ["zero_shot"]


def test_better_answers_are_found_better(shallow_folder: Path, tmp_path: Path, monkeypatch):
    """Scripted candidates: one rung is always right, the rung below never."""
    calls = []

    def say(name: str, number: int) -> str:
        calls.append(name)
        right = len(calls) > 30  # the first rung asks 30 questions
        return f" The answer is {int(answers[name]) + (0 if right else 1)}."

    config = {
        "decoder": str(shallow_folder),
        "task": write_task(tmp_path / "task", test=30),
        "methods": {"zero_shot": SHORT, "few_shot": SHORT | {"demonstrations": 1}},
    }
    answers = {example.id: example.answer for example in load_task(config["task"]).test}
    monkeypatch.setattr(session_module, "Engine", scripted(say))
    result = compare(config, tmp_path / "run", progress=False)
    assert [rung.accuracy for rung in result.rungs] == [0.0, 1.0] and result.best == "few_shot"
    assert result["few_shot"].p_value_vs_previous == pytest.approx(2 / 2**30)
    assert result["few_shot"].vs_previous.difference == 1.0
    assert result["few_shot"].vs_previous.method == "zero_shot"


def test_the_named_reference_is_compared_with(shallow_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(session_module, "Engine", scripted(lambda *_: " The answer is 51."))
    config = {
        "decoder": str(shallow_folder),
        "task": write_task(tmp_path / "task"),
        "methods": {
            "zero_shot": SHORT,
            "few_shot": SHORT | {"demonstrations": 1},
            "chain_of_thought": SHORT | {"demonstrations": 1},
        },
        "reference": "zero_shot",
    }
    result = compare(config, tmp_path / "run", progress=False)
    methods = [rung.vs_reference and rung.vs_reference.method for rung in result.rungs]
    assert methods == [None, "zero_shot", "zero_shot"]
    # all are equally right, so the cheapest one is enough
    assert result.best == "zero_shot" == result.result.recommendation.most_accurate
    assert result.adaptation().method == "zero_shot"
    with pytest.raises(UserError, match="no adaptation, lora did not run; there are zero_shot"):
        result.adaptation("lora")


def test_extensions_from_outside_work_in_a_comparison(
    shallow_folder: Path, tmp_path: Path, monkeypatch
):
    """A scorer, a metric and a vote, each a few lines in a file that --plugin names."""
    plugin = tmp_path / "comparison_plugin.py"
    plugin.write_text(PLUGIN)
    load_plugin(str(plugin))
    monkeypatch.setattr(
        session_module, "Engine", scripted(lambda name, number: f" The answer is {number + 50}.")
    )
    config = {
        "decoder": str(shallow_folder),
        "task": write_task(tmp_path / "task", test=2) | {"scorer": "nearness"},
        "methods": {
            "self_consistency": SHORT | {"demonstrations": 1, "candidates": 3, "vote": "largest"}
        },
    }
    try:
        rung = compare(config, tmp_path / "run", progress=False)["self_consistency"]
    finally:
        del SCORERS._entries["nearness"], METRICS._entries["questions"], VOTES._entries["largest"]
    lines = (tmp_path / "run" / "predictions" / "self_consistency.jsonl").read_text().splitlines()
    assert [json.loads(line)["answer"] for line in lines] == ["52", "52"]
    assert rung.scorer == "nearness" and rung.metrics["questions"] == 2.0
    assert rung.score == 1 and rung.accuracy == 0.5


PLUGIN = """
from adapt_jax.evaluation.metrics import METRICS
from adapt_jax.evaluation.scorers import SCORERS, Score
from adapt_jax.prompting.voting import VOTES

@SCORERS.register("nearness")
def nearness(predicted, example, task):
    return Score(min(1.0, float(predicted) / float(example.answer)), predicted == example.answer)

@METRICS.register("questions")
def questions(task, rows):
    return len(rows)

@VOTES.register("largest")
def largest(group):
    return float(group.candidates[0].answer)
"""


def test_two_runs_in_one_folder_are_refused(shallow_folder: Path, tmp_path: Path):
    config = {
        "decoder": str(shallow_folder),
        "task": write_task(tmp_path / "task"),
        "methods": {"zero_shot": SHORT},
    }
    with lock_folder(tmp_path / "run"), pytest.raises(UserError, match="run: another process is"):
        compare(config, tmp_path / "run", progress=False)
    assert not list((tmp_path / "run").iterdir())


def test_the_table_grows_row_by_row_on_a_terminal(
    shallow_folder: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(session_module, "Engine", scripted(lambda *_: " The answer is 51."))
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True)
    monkeypatch.setattr("adapt_jax.utils.progress.new_console", lambda: console)
    config = {
        "decoder": str(shallow_folder),
        "task": write_task(tmp_path / "task"),
        "methods": {"zero_shot": SHORT, "few_shot": SHORT | {"demonstrations": 1}},
    }
    compare(config, tmp_path / "run")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
    rows = re.findall(r"(zero_shot|few_shot) +[0-9.]+ %", shown)
    # the first row is drawn when it is measured, and again with the second one
    assert rows.count("zero_shot") > rows.count("few_shot") >= 1 and rows[0] == "zero_shot"
    assert "few_shot: answering" in shown and "…" not in shown


def test_tune_saves_one_adaptation_and_resumes(shallow_folder: Path, tmp_path: Path):
    config = {
        "decoder": str(shallow_folder),
        "task": write_task(tmp_path / "task"),
        "method": {"name": "lora", "rank": 2} | SHORT,
    }
    config["method"]["training"] = TRAINING | {"checkpoint_every": 2}
    tuned = tune(config, tmp_path / "run", progress=False)
    assert tuned.folder == tmp_path / "run" / "adaptation"
    assert (tmp_path / "run" / "training").is_dir()
    again = tune(config, tmp_path / "run", progress=False)  # all steps are in its checkpoint
    assert again.model.fingerprint == tuned.model.fingerprint
    assert Adaptation.load(tuned.folder).method == "lora"


def sampling(**options) -> dict:
    return {"methods": {"self_consistency": options}}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"methods": {"few_shots": {}}}, "unknown method 'few_shots'; did you mean 'few_shot'?"),
        (
            {"methods": {"lora": {"rang": 3}}},
            "methods.lora: unknown key 'rang'; did you mean 'rank'",
        ),
        ({"methods": {"lora": None}}, "no rung to climb"),
        (sampling(candidates=0), "self_consistency: candidates: Input should be greater than 0"),
        (sampling(temperature=0), "20 candidates at temperature 0 would all be the same"),
        (sampling(stop_at=0.5), "stop_at: expected a probability above 0.5 and below 1, or null"),
        (sampling(vote="majorty"), "unknown rule 'majorty'; did you mean 'majority'?; known:"),
        (
            {"methods": {"zero_shot": {}, "lora": None}, "methods_subset": "lora"},
            "methods_subset asks for lora, and methods.lora is null, which leaves it out",
        ),
        ({"reference": "lorra"}, "unknown method 'lorra'; did you mean 'lora'?"),
        ({"methods_subset": "zero_shot,lorra"}, "unknown method 'lorra'; did you mean 'lora'?"),
        ({"sed": 1}, "unknown key 'sed'; did you mean 'seed'?"),
        ({"decoder": "no/where"}, "no/where"),
        ({"task": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        (
            {"max_concurrent_sequences": 0},
            "max_concurrent_sequences: Input should be greater than 0, found 0",
        ),
    ],
)
def test_nothing_is_written_when_the_input_is_wrong(
    shallow_folder: Path, tmp_path: Path, change: dict, line: str
):
    task = write_task(tmp_path / "task")
    config = {
        "decoder": str(shallow_folder),
        "task": task,
        "methods": {"zero_shot": SHORT},
    } | change
    with pytest.raises(UserError) as told:
        compare(config, tmp_path / "run", progress=False)
    assert line in str(told.value) and "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


def test_the_public_names_are_all_there():
    for name in adapt_jax.__all__:
        assert getattr(adapt_jax, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        adapt_jax.nonsense  # noqa: B018
