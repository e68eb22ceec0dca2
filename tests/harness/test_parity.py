"""Scores and answers of each request are those of the harness's own model ``hf``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from family_models import make
from harness_tasks import TASKS, write_tasks
from real_decoders import find_real_decoder
from tiny_llama import BOS, EOS, tiny_tokenizer, write_tiny_llama

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from adapt_jax.harness.model import AdaptJaxLM  # noqa: E402

TOLERANCE = 1e-4
SHOTS = "Question: 2 + 2?\nAnswer: 4\n\nQuestion: Wo wohnst du?\nAnswer: 東京 é 🙂\n\n"
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TaskManager:
    folder = write_tasks(tmp_path_factory.mktemp("tasks"))
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[HFLM, AdaptJaxLM]]:
    """Makes a tiny checkpoint, and gives the harness's model of it and ours."""

    def load(
        case: str = "", chat: bool = False, bos: bool = True, **arguments: Any
    ) -> tuple[HFLM, AdaptJaxLM]:
        folder = write_tiny_llama(tmp_path_factory.mktemp("decoder"))
        if case:
            make(folder, case)
        write_tokenizer(folder, bos)
        if chat:
            (folder / "chat_template.jinja").write_text(CHAT)
        theirs = HFLM(
            pretrained=str(folder), device="cpu", dtype="float32", batch_size=2, **arguments
        )
        return theirs, AdaptJaxLM(pretrained=str(folder), **arguments)

    return load


def write_tokenizer(folder: Path, bos: bool) -> None:
    tokenizer = tiny_tokenizer()
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS}
    if bos:
        named["bos_token"] = BOS
    else:
        tokenizer.post_processor = None
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


def ask(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(kind, {}, one, 0) for one in arguments]


def check_close(found: list[tuple[float, bool]], expected: list[tuple[float, bool]]) -> None:
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    numbers = [number for number, _ in found]
    assert numbers == pytest.approx([n for n, _ in expected], abs=TOLERANCE, rel=TOLERANCE / 10)


def check_same(manager: TaskManager, models: tuple[HFLM, AdaptJaxLM], **options: Any) -> None:
    """All tasks give the same scores, and the same response to each request."""
    options = {"tasks": list(TASKS), "task_manager": manager, "bootstrap_iters": 0} | options
    theirs, ours = (lm_eval.simple_evaluate(model=model, **options) for model in models)
    for name in options["tasks"]:
        for one, other in zip(theirs["samples"][name], ours["samples"][name], strict=True):
            assert one["arguments"] == other["arguments"]
            for (expected,), (found,) in zip(one["resps"], other["resps"], strict=True):
                if isinstance(expected, str):
                    assert found == expected
                elif isinstance(expected, tuple):
                    check_close([found], [expected])
                else:
                    assert found == pytest.approx(expected, abs=TOLERANCE, rel=TOLERANCE / 10)
        for metric, value in theirs["results"][name].items():
            if isinstance(value, float):
                assert ours["results"][name][metric] == pytest.approx(value, rel=1e-4), metric


def test_tasks_of_every_output_type_score_as_with_hf(tasks, load):
    check_same(tasks, load())


@pytest.mark.parametrize(("case", "bos"), [("gpt2", False), ("qwen3", True)])
def test_other_families_score_as_with_hf(tasks, load, case, bos):
    check_same(tasks, load(case, bos=bos), tasks=["mc_shared_shots", "texts", "sums"], limit=2)


def test_chat_templates_score_as_with_hf(tasks, load):
    options = {"apply_chat_template": True, "system_instruction": "Be brief.", "limit": 3}
    names = ["mc_random_shots", "sums"]
    check_same(tasks, load(chat=True), tasks=names, fewshot_as_multiturn=True, **options)


LIKELIHOODS = (
    *((SHOTS + f"Question: {n}?\nAnswer:", c) for n in range(3) for c in (" yes", " no way", "\n")),
    *(("", "hello"), ("", "A"), ("", BOS + "A"), (BOS + "Q: 1", " 2"), (" ", "x"), ("a\n \n", "b")),
    *(("tail  ", " x"), ("a", "ab" * 30), ("🙂 é", "東京"), ("Hello wor", "ld"), ("1", "2 3")),
    *((SHOTS * 9 + "end", " of it"), (SHOTS, "東京"), (SHOTS + "Question: 0?\nAnswer:", " yes")),
)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"max_length": 90}, {"add_bos_token": False}, {"prefix_token_id": 7}],
    ids=str,
)
def test_odd_requests_score_as_with_hf(load, arguments):
    theirs, ours = load(**arguments)
    requests = ask("loglikelihood", *LIKELIHOODS)
    if arguments.get("add_bos_token") is False:
        requests = [one for one in requests if one.args[0].strip()]  # hf has no token before these
    check_close(ours.loglikelihood(requests, True), theirs.loglikelihood(requests, True))
    texts = ask("loglikelihood_rolling", (SHOTS,), ("x",), (SHOTS * 6,), ("東京 🙂",), (SHOTS,))
    found, expected = (model.loglikelihood_rolling(texts, True) for model in (ours, theirs))
    assert found == pytest.approx(expected, abs=TOLERANCE, rel=TOLERANCE / 10)


def test_odd_generation_requests_are_answered_as_by_hf(load):
    theirs, ours = load(max_length=160)
    arguments = (
        {"until": ["\n\n", "e o"], "max_gen_toks": 12},
        {"until": "e", "do_sample": False, "temperature": 0.7, "max_new_tokens": 9},
        {"until": [BOS, "zzz"], "max_gen_toks": 60, "repetition_penalty": 1.3},
        {"max_gen_toks": 5, "do_sample": False, "top_p": 0.5, "num_beams": 1},
    )
    contexts = ("Once", SHOTS + "Q", SHOTS * 4, "🙂", BOS + "Jane", SHOTS + "Q")
    requests = ask("generate_until", *((c, dict(a)) for c in contexts for a in arguments))
    found = ours.generate_until(requests, True)
    alone = [theirs.generate_until([one], True)[0] for one in requests]
    assert found == alone


def test_contexts_that_differ_in_their_last_token_alone_are_answered_as_by_hf(load):
    theirs, ours = load()
    arguments = {"until": ["\n\n"], "max_gen_toks": 9}
    # so many that they share a prefix, behind which one token is left of each
    requests = ask("generate_until", *((SHOTS * 2 + end, dict(arguments)) for end in "abcdefghij"))
    alone = [theirs.generate_until([one], True)[0] for one in requests]
    assert ours.generate_until(requests, True) == alone


def test_a_real_decoder_scores_as_with_hf(tasks):
    folder = str(find_real_decoder("smollm2"))
    theirs = HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=2)
    check_same(tasks, (theirs, AdaptJaxLM(folder)), tasks=["mc_letters", "last_word"], limit=2)
