"""lm-evaluation-harness with the model adapt_jax against its own model hf, on local tasks.

python -m benchmarks.harness path/to/a/decoder --documents 8 --shots 8

Both answer the same tasks in turns: choices, letters, last words, whole texts and generations,
most of them behind solved examples that the questions share. adapt_jax compiles in its first turn.
The last line is JSON: seconds and processor time of an evaluation, seconds of the model alone,
scores, and how far the responses to a request differ.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

THINGS = ("apples", "oranges", "books", "pens", "marbles", "stamps")
LETTERS = ["A", "B", "C", "D"]
QUESTION = "Question: {{q}}\nAnswer:"
SHARED_SHOTS = {"fewshot_config": {"sampler": "first_n"}}
ACCURACY = {"metric_list": [{"metric": "acc"}]}
CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_text": QUESTION,
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
TASKS: dict[str, dict[str, Any]] = {
    "choices": CHOICES | SHARED_SHOTS,
    "choices_drawn_shots": CHOICES,  # other solved examples for each question
    "letters": {
        **SHARED_SHOTS,
        **ACCURACY,
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
        "D. {{choices[3]}}\nAnswer:",
        "doc_to_choice": LETTERS,
        "doc_to_target": "gold",
    },
    "last_word": {
        **SHARED_SHOTS,
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' ' + text.split(' ')[-1]}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "texts": {
        "output_type": "loglikelihood_rolling",
        "num_fewshot": 0,
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "answers": {
        **SHARED_SHOTS,
        "output_type": "generate_until",
        "doc_to_text": QUESTION,
        "doc_to_target": "{{choices[gold]}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 24},
        "metric_list": [{"metric": "exact_match"}],
    },
    "continuations": {
        "output_type": "generate_until",
        "num_fewshot": 0,
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{q}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 24},
        "metric_list": [{"metric": "bleu"}],
    },
}


def write_tasks(folder: Path, documents: int, shots: int) -> None:
    """Writes all tasks with their data."""
    import numpy as np
    import yaml

    draws = np.random.default_rng(0)

    def write_document() -> dict[str, Any]:
        first, second, third = (int(one) for one in draws.integers(5, 60, 3))
        thing = THINGS[int(draws.integers(len(THINGS)))]
        q = (
            f"Jane has {first} {thing}. She buys {second} more on Monday and gets {third} from "
            f"her brother on Tuesday. How many {thing} does she have now?"
        )
        total = first + second + third
        values = [total, total + 10, first + second, total - 1]
        order = [int(one) for one in draws.permutation(len(values))]
        choices = [f"She has {values[at]} {thing}." for at in order]
        text = f"{q} She has {first} and {second} and {third}, which makes {total} {thing}."
        return {"q": q, "choices": choices, "gold": order.index(0), "text": text}

    files = {}
    for split, count in (("train", shots), ("test", documents)):
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(write_document()) + "\n" for _ in range(count)))
        files[split] = str(path)
    for name, task in TASKS.items():
        whole = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
            "training_split": "train",
            "test_split": "test",
            "num_fewshot": shots,
            **task,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(whole))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("decoder")
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8, help="of the model hf")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    options = parser.parse_args()

    from adapt_jax.utils.cpu import choose_platform

    choose_platform()
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from adapt_jax.harness.model import AdaptJaxLM

    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    models = {
        "hf": HFLM(
            pretrained=options.decoder,
            device="cpu",
            dtype="float32",
            batch_size=options.batch_size,
        ),
        "adapt_jax": AdaptJaxLM(options.decoder, dtype="float32"),
    }
    measured: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        write_tasks(Path(temporary), options.documents, options.shots)
        manager = TaskManager(include_path=temporary, include_defaults=False)
        for _ in range(options.turns):
            for task in options.tasks:
                for name, model in models.items():
                    found = evaluate(model, task, manager)
                    measured.setdefault(task, {}).setdefault(name, []).append(found)
                    print(task, name, f"{found['seconds']:.2f} s", flush=True)
    report = {task: _compare(*(measured[task][name] for name in models)) for task in options.tasks}
    print(json.dumps({"decoder": Path(options.decoder).name, "options": vars(options), **report}))


def evaluate(model: Any, task: str, manager: Any) -> dict[str, Any]:
    """Seconds, processor time, seconds of the model alone, scores, and each response."""
    import lm_eval

    inside: list[float] = []
    with _time_calls(model, inside):
        started, busy = time.perf_counter(), time.process_time()
        results = lm_eval.simple_evaluate(
            model=model, tasks=[task], task_manager=manager, bootstrap_iters=0
        )
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
    scores = results["results"][task].items()
    return {
        "seconds": seconds,
        "processor": busy,
        "model": sum(inside),
        "scores": {name: one for name, one in scores if isinstance(one, float)},
        "responses": [response for one in results["samples"][task] for [response] in one["resps"]],
    }


@contextmanager
def _time_calls(model: Any, seconds: list[float]) -> Iterator[None]:
    """Adds the seconds of each call of the model that answers requests."""
    names = ("loglikelihood", "loglikelihood_rolling", "generate_until")

    def time_one(answer: Any) -> Any:
        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return answer(*arguments, **options)
            finally:
                seconds.append(time.perf_counter() - started)

        return timed

    for name in names:
        setattr(model, name, time_one(getattr(model, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(model, name)


def _compare(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, Any]:
    """Ratios of the last turn, and the largest differences of its scores and responses."""
    pairs = list(zip(theirs[-1]["responses"], ours[-1]["responses"], strict=True))
    scores = [
        [theirs[-1]["scores"][name], ours[-1]["scores"][name]] for name in theirs[-1]["scores"]
    ]
    report: dict[str, Any] = {}
    for what in ("seconds", "processor", "model"):
        report[what] = [[round(one[what], 2) for one in turns] for turns in (theirs, ours)]
        report[f"{what}_ratio"] = round(theirs[-1][what] / ours[-1][what], 2)
    report |= {
        "requests": len(pairs),
        "scores": dict(zip(theirs[-1]["scores"], scores, strict=True)),
    }
    if isinstance(pairs[0][0], str):
        return report | {"other_texts": sum(one != other for one, other in pairs)}
    numbers = [[_read_number(one) for one in pair] for pair in pairs]
    return report | {
        "largest_difference": max(abs(one - other) for one, other in numbers),
        "largest_log_likelihood": max(abs(one) for one, _ in numbers),
        "other_greedy": sum(_is_greedy(one) != _is_greedy(other) for one, other in pairs),
    }


def _read_number(response: Any) -> float:
    """The log-likelihood, with which a response may say whether it is greedy."""
    return float(response if isinstance(response, float) else response[0])


def _is_greedy(response: Any) -> bool | None:
    return None if isinstance(response, float) else bool(response[1])


if __name__ == "__main__":
    main()
