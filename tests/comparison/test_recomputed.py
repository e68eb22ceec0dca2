"""Every number of a comparison and an evaluation, computed again from predictions/*.jsonl."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import SHORT
from recomputed import compare as compare_rungs
from recomputed import find_differences, holm, label_scores, measure, read_rows
from recomputed import mcnemar as recompute_mcnemar
from scripted import scripted

from adapt_jax.adaptation import session as session_module
from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.cli.main import main
from adapt_jax.comparison.compare import compare
from adapt_jax.sampling.engine import Candidate

LABELS = ("billing", "parcel", "refund")
SAMPLED = SHORT | {"demonstrations": 1, "candidates": 5, "temperature": 1.0}
SKILL = {"zero_shot": 0.35, "few_shot": 0.6, "self_consistency": 0.65}


@pytest.fixture(scope="module")
def run(shallow_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rungs on labels, some answers of which cannot be read, are cut off, or repeat."""
    folder = tmp_path_factory.mktemp("recomputed")
    rng = np.random.default_rng(0)
    rows = [
        {"text": f"Ticket {n}.", "label": str(rng.choice(LABELS, p=[0.5, 0.3, 0.2])), "why": f"{n}"}
        for n in range(90)
    ]
    (folder / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "name": "tickets",
        "source": str(folder / "tickets.jsonl"),
        "fields": {"question": "text", "answer": "label", "reasoning": "why"},
        "choices": list(LABELS),
        "answer_parser": "label",
        "splits": {"train": 20, "test": 70},
    }
    (folder / "task.yaml").write_text(json.dumps(task))
    gold = {f"tickets-{n + 1}": row["label"] for n, row in enumerate(rows)}
    asked: list[str] = []
    stream = Adaptation.stream

    def watched(self, *arguments, **options):
        asked.append(self.method)
        return stream(self, *arguments, **options)

    def say(name: str, number: int) -> Candidate:
        method = asked[-1]
        rng = np.random.default_rng([int(name.split("-")[1]), number, len(method)])
        label = gold[name] if rng.random() < SKILL[method] else str(rng.choice(LABELS))
        text = f" Way {rng.integers(3)}. The answer is {label}."
        finish = "length" if rng.random() < 0.2 else "stop"
        if rng.random() < 0.15:
            text = " I cannot say"
        tokens = tuple(range(int(rng.integers(2, 6))))
        return Candidate(text, tokens, -float(rng.random()), finish)

    config = {"decoder": str(shallow_folder), "task": str(folder / "task.yaml")}
    config["methods"] = {
        "zero_shot": SHORT,
        "few_shot": SHORT | {"demonstrations": 1},
        "self_consistency": SAMPLED,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Adaptation, "stream", watched)
        patch.setattr(session_module, "Engine", scripted(say))
        compare(config, folder / "run", progress=False)
        adaptation = str(folder / "run" / "adaptations" / "self_consistency")
        arguments = [adaptation, str(folder / "task.yaml"), "--output-dir", str(folder / "asked")]
        assert main(["evaluate", *arguments, "--quiet"]) == 0
    return folder


def test_every_number_of_every_rung_comes_out_again(run: Path):
    written = json.loads((run / "run" / "comparison.json").read_text())
    verdicts = {}
    for rung in written["rungs"]:
        rows = read_rows(run / "run" / "predictions" / f"{rung['method']}.jsonl")
        verdicts[rung["method"]] = [row["correct"] for row in rows]
        computed = measure(rows, [{row["expected"]} for row in rows])
        computed |= label_scores([row["expected"] for row in rows], [row["answer"] for row in rows])
        assert find_differences(rung, computed) == []
        assert 0.02 < rung["accuracy"] < 0.98 and rung["unreadable"] > 0 and rung["cut_off"] > 0
    sampled = written["rungs"][-1]
    assert sampled["maj_at_k"].keys() == {"1", "2", "4", "5"} and sampled["repeat_share"] > 0
    # the differences between rungs
    for name, (difference, p_value) in compare_rungs(verdicts, list(verdicts)).items():
        [found] = [one["vs_previous"] for one in written["rungs"] if one["method"] == name]
        assert (found["difference"], found["p_value"]) == pytest.approx((difference, p_value))
    # the recommendation, and the baseline
    advice = written["recommendation"]
    best = max(verdicts, key=lambda name: sum(verdicts[name]))
    assert advice["most_accurate"] == best
    p_values = {
        test["method"]: recompute_mcnemar(verdicts[test["method"]], verdicts[best])
        for test in advice["tests"]
    }
    corrected = holm(p_values)
    assert len(p_values) == 2
    for test in advice["tests"]:
        assert test["p_value"] == pytest.approx(p_values[test["method"]])
        assert test["p_value_holm"] == pytest.approx(corrected[test["method"]])
        assert test["significant"] == (corrected[test["method"]] < 0.05)
    rows = read_rows(run / "run" / "predictions" / "zero_shot.jsonl")
    label, share = written["baseline"]["label"], written["baseline"]["accuracy"]
    assert share == pytest.approx(np.mean([row["expected"] == label for row in rows]))


def test_every_number_of_an_evaluation_comes_out_again(run: Path):
    written = json.loads((run / "asked" / "evaluation.json").read_text())
    rows = read_rows(run / "asked" / "predictions.jsonl")
    computed = measure(rows, [{row["expected"]} for row in rows])
    computed |= label_scores([row["expected"] for row in rows], [row["answer"] for row in rows])
    assert find_differences(written, computed) == []
    # asked in the same way, it answers the same
    again = read_rows(run / "run" / "predictions" / "self_consistency.jsonl")
    assert [row["answer"] for row in rows] == [row["answer"] for row in again]
