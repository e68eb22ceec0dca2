"""lm-evaluation-harness with the model adapt_jax against its own model hf, on few-shot prompts.

python -m benchmarks.harness path/to/a/decoder --documents 8 --shots 8

Both score the same multiple-choice task, whose questions share their solved examples, and generate
answers to it, in turns. adapt_jax compiles in its first turn. The last line is JSON.
"""

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

THINGS = ("apples", "oranges", "books", "pens", "marbles", "stamps")
SHOTS = {"fewshot_config": {"sampler": "first_n"}, "doc_to_text": "Question: {{q}}\nAnswer:"}
TASKS: dict[str, dict[str, Any]] = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}],
    },
    "answers": {
        "output_type": "generate_until",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 24},
        "metric_list": [{"metric": "exact_match"}],
    },
}


def write_tasks(folder: Path, documents: int, shots: int) -> None:
    """Writes both tasks with their data."""
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
        values = (total, total + 10, first + second, total - 1)
        return {"q": q, "choices": [f"She has {value} {thing}." for value in values]}

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
            **SHOTS,
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
    import lm_eval
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
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in options.tasks}
    responses: dict[str, dict[str, Any]] = {name: {} for name in options.tasks}
    with tempfile.TemporaryDirectory() as temporary:
        write_tasks(Path(temporary), options.documents, options.shots)
        manager = TaskManager(include_path=temporary, include_defaults=False)
        for _ in range(options.turns):
            for task in options.tasks:
                for name, model in models.items():
                    started = time.perf_counter()
                    results = lm_eval.simple_evaluate(
                        model=model, tasks=[task], task_manager=manager, bootstrap_iters=0
                    )
                    taken = time.perf_counter() - started
                    seconds[task].setdefault(name, []).append(round(taken, 2))
                    responses[task][name] = [one["resps"] for one in results["samples"][task]]
                    print(task, name, f"{taken:.2f} s", flush=True)
    report: dict[str, Any] = {"decoder": Path(options.decoder).name, "options": vars(options)}
    for task in options.tasks:
        theirs, ours = (responses[task][name] for name in models)
        report[task] = {
            "seconds": seconds[task],
            "ratio": round(seconds[task]["hf"][-1] / seconds[task]["adapt_jax"][-1], 2),
            "largest_difference": _compare(theirs, ours),
        }
    print(json.dumps(report))


def _compare(theirs: list[Any], ours: list[Any]) -> float:
    """The largest difference of two log-likelihoods; texts count 0 or 1."""
    differences = [0.0]
    for one, other in zip(theirs, ours, strict=True):
        for [expected], [found] in zip(one, other, strict=True):
            if isinstance(expected, str):
                differences.append(float(expected != found))
            else:
                differences.append(abs(expected[0] - found[0]))
    return max(differences)


if __name__ == "__main__":
    main()
