"""The first question of a session against the later ones: what keeping the encoded prefix saves.

python -m benchmarks.asking --size 60M

All code is compiled before anything is timed. The last line is JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def measure(ask: Callable[[str], Any], question: str) -> float:
    """Seconds that one question takes."""
    started = time.perf_counter()
    ask(question)
    return time.perf_counter() - started


def main() -> None:
    from benchmarks.shapes import SIZES, VOCAB, write_llama

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="60M")
    parser.add_argument("--prefix", type=int, default=900, help="tokens before the question")
    parser.add_argument("--question-tokens", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7, help="of which the median is taken")
    options = parser.parse_args()

    from adapt_jax.utils.cpu import choose_platform

    choose_platform()
    import numpy as np

    from adapt_jax.adaptation.adaptation import Adaptation
    from adapt_jax.pretrained.loading import load_pretrained
    from adapt_jax.prompting.prompt import Prompt
    from adapt_jax.sampling.types import GenerationConfig
    from adapt_jax.tasks.templates import Template

    draws = np.random.default_rng(0)

    def words(count: int) -> str:
        return " ".join(f"t{number}" for number in draws.integers(3, VOCAB, count))

    with tempfile.TemporaryDirectory() as temporary:
        model = load_pretrained(write_llama(Path(temporary), options.size))
    template = Template(
        instruction="{instruction} ", question="{question} t9", stop=("t31998 t31999",)
    )
    generation_config = GenerationConfig(max_new_tokens=options.new_tokens, stop=template.stop)
    prompt = Prompt(template, words(options.prefix), generation_config=generation_config)
    adaptation = Adaptation("benchmark", prompt, model)
    questions = [words(options.question_tokens) for _ in range(options.repeats)]

    adaptation.session().ask(words(options.question_tokens))  # compiles
    first, later = [], []
    for question in questions:  # in turn, so that other work on the machine meets both
        session = adaptation.session()
        first.append(measure(session.ask, question))
        later.append(measure(session.ask, words(options.question_tokens)))
    medians = {"first_s": statistics.median(first), "later_s": statistics.median(later)}
    found = vars(options) | medians | {"ratio": medians["first_s"] / medians["later_s"]}
    print(f"first question {medians['first_s']:.3f} s, later ones {medians['later_s']:.3f} s")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
