"""Summaries through every rung: scored by ROUGE, chosen by similarity, compared by mean score."""

import json
from pathlib import Path

import pytest
from helpers import SHORT
from made_results import done_rung
from scripted import scripted

from adapt_jax.adaptation import session
from adapt_jax.comparison.compare import Comparison, compare
from adapt_jax.comparison.recommendation import paired_delta, recommend
from adapt_jax.evaluation.bootstrap import bootstrap_interval
from adapt_jax.evaluation.report.text import describe_notes

pytest.importorskip("rouge_score")
TRAINED = SHORT | {"training": {"steps": 2, "batch_size": 4, "warmup_steps": 0}}
METHODS = {
    "zero_shot": SHORT,
    "few_shot": SHORT | {"demonstrations": 1},
    "chain_of_thought": SHORT | {"demonstrations": 1},
    "self_consistency": SHORT | {"demonstrations": 1, "candidates": 4, "temperature": 1.0},
    "prompt_tuning": TRAINED | {"length": 2},
    "lora": TRAINED | {"rank": 1},
}


@pytest.fixture(scope="module")
def ladder(shallow_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("summaries")
    for split, first, count in (("train", 0, 8), ("test", 50, 5)):
        rows = [
            {"text": f"Joe has {n} apples.", "summary": f"Joe has apples.\nHe has {n} of them."}
            for n in range(first, first + count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "name": "summaries",
        "source": {"name": "jsonl"}
        | {split: str(folder / f"{split}.jsonl") for split in ("train", "test")},
        "fields": {"question": "text", "answer": "summary"},
        "answer_parser": "verbatim",
        "scorer": "rouge1",
        "instruction": "Summarize.",
    }
    config = {
        "decoder": str(shallow_folder),
        "task": task,
        "methods": METHODS,
        "max_concurrent_sequences": 8,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "Engine", scripted(summarize))
        return compare(config, folder / "run", progress=False)


def summarize(question: str, number: int) -> str:
    """What a decoder might say: candidates 1 to 3 are near each other and near the summary."""
    said = (
        "Hello there",
        "Joe has apples.",
        "Joe has some apples.",
        "Joe has apples, many of them.",
    )
    return said[number % 4]


def test_every_rung_that_needs_no_reasoning_runs(ladder: Comparison):
    assert [rung.method for rung in ladder.measured_rungs] == [
        *("zero_shot", "few_shot", "self_consistency", "prompt_tuning", "lora")
    ]
    for rung in ladder.measured_rungs:
        assert rung.scorer == "rouge1" and rung.abstained == 0
        low, high = rung.score_ci95
        assert low <= rung.score <= high
        scores = ladder.scores[rung.method]
        assert rung.score == pytest.approx(sum(scores) / len(scores))


def test_scores_are_those_of_the_library_on_the_written_predictions(ladder: Comparison):
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1"])
    for rung in ladder.measured_rungs:
        path = ladder.output_dir / "predictions" / f"{rung.method}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            found = scorer.score(row["expected"], row["answer"] or "")["rouge1"].fmeasure
            assert row["score"] == pytest.approx(found) and row["correct"] is False
        assert rung.score == pytest.approx(sum(row["score"] for row in rows) / len(rows))


def test_self_consistency_chooses_the_candidate_most_similar_to_the_others(ladder: Comparison):
    path = ladder.output_dir / "predictions" / "self_consistency.jsonl"
    for row in map(json.loads, path.read_text().splitlines()):
        assert row["vote"]["rule"] == "mbr_rouge1"
        counts = row["vote"]["counts"]
        assert counts[row["answer"]] == max(counts.values())
        assert row["answer"] == "Joe has apples."
        assert len(row["candidates"]) == 4


def test_the_table_shows_scores_and_hides_no_accuracy(ladder: Comparison):
    headings = [str(column.header) for column in ladder.table().columns]
    assert "score" in headings and "accuracy" not in headings and "correct" in headings
    notes = " ".join(describe_notes(ladder.result))
    assert "score: mean of rouge1, 0 to 100" in notes and "paired bootstrap" in notes
    rungs = {rung.method: rung for rung in ladder.measured_rungs}
    assert rungs["zero_shot"].score == 0 < rungs["self_consistency"].score
    assert rungs["self_consistency"].vs_previous.test == "paired_bootstrap"
    recommended = ladder.result.recommendation
    assert recommended.most_accurate == "self_consistency"
    assert "mean rouge1" in recommended.sentence


def test_a_finished_ladder_is_kept(ladder: Comparison, shallow_folder: Path):
    before = (ladder.output_dir / "comparison.json").read_bytes()
    assert Comparison.load(ladder.output_dir).result == ladder.result
    assert (ladder.output_dir / "comparison.json").read_bytes() == before


def test_graded_scores_decide_by_a_paired_bootstrap():
    better = [0.4 + 0.01 * (n % 7) for n in range(60)]
    worse = [one - 0.05 for one in better]
    same = [one + (0.02 if n % 2 else -0.02) for n, one in enumerate(better)]
    rungs = [
        done_rung(
            name,
            [False] * 60,
            scorer="rougeL",
            score=sum(scores) / 60,
            score_ci95=bootstrap_interval(scores),
            generated_tokens=tokens,
        )
        for name, scores, tokens in (
            ("zero_shot", worse, 5.0),
            ("few_shot", same, 50.0),
            ("lora", better, 500.0),
        )
    ]
    scores = {"zero_shot": worse, "few_shot": same, "lora": better}
    found = recommend(rungs, {name: [one] for name, one in scores.items()})
    assert found.most_accurate in ("lora", "few_shot") and found.method == "few_shot"
    assert "mean rougeL" in found.sentence and "McNemar" not in found.sentence
    delta = paired_delta("zero_shot", [better], [worse])
    assert (delta.test, round(delta.difference, 6)) == ("paired_bootstrap", 0.05)
    assert delta.ci95[0] > 0 and delta.p_value < 0.001
    assert paired_delta("zero_shot", [[1.0, 0.0]], [[0.0, 0.0]]).test == "mcnemar"
