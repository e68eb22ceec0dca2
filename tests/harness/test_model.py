"""Adaptations behind the harness's prompts, sampled answers, caches, and the command line."""

import json
import sys
from dataclasses import replace
from functools import partialmethod
from typing import Any

import jax
import pytest
from harness_tasks import write_tasks
from helpers import fails, prompt

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.model import CachingLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from adapt_jax.adaptation.adaptation import Adaptation  # noqa: E402
from adapt_jax.cli.main import main  # noqa: E402
from adapt_jax.decoders.prefix import Prefix, SoftPrompt  # noqa: E402
from adapt_jax.harness.model import AdaptJaxLM  # noqa: E402
from adapt_jax.prompting.prompt import Prompt  # noqa: E402
from adapt_jax.sampling.likelihood import (  # noqa: E402
    MultipleChoiceRequest,
    log_likelihood,
    score_continuations,
)
from adapt_jax.tasks.templates import Template  # noqa: E402
from adapt_jax.utils.errors import UserError  # noqa: E402

CONTEXT, CONTINUATION = "Q: Jane has 2 apples.\nA:", " She has 2."


def ask(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(kind, {}, one, 0) for one in arguments]


def score(model: AdaptJaxLM, context: str, continuation: str) -> float:
    [(found, _)] = model.loglikelihood(ask("loglikelihood", (context, continuation)), True)
    return found


def generate(model: AdaptJaxLM, context: str, times: int = 1, **arguments: Any) -> list[str]:
    return model.generate_until(ask("generate_until", (context, arguments)) * times, True)


@pytest.mark.parametrize("before_bos", [True, False])
def test_prompts_are_asked_behind_a_soft_prompt(tiny, before_bos):
    embeddings = jax.random.normal(jax.random.key(0), (5, tiny.config.embed_dim))
    soft_prompt = SoftPrompt(embeddings, before_bos)
    model = AdaptJaxLM(adaptation=Adaptation("prompt_tuning", Prompt(), tiny, soft_prompt))
    assert model.max_length == tiny.config.context_length - 5
    bos, *context = tiny.encode(CONTEXT)
    continuation = tiny.encode(CONTEXT + CONTINUATION)[1 + len(context) :]
    tokens = (bos, *context)
    prefix = Prefix((soft_prompt,)) if before_bos else Prefix(((bos,), soft_prompt))
    request = MultipleChoiceRequest(tokens if before_bos else tokens[1:], (tuple(continuation),))
    [(_, [expected])] = score_continuations(tiny, prefix, [request])
    found = score(model, CONTEXT, CONTINUATION)
    assert found == pytest.approx(expected.log_probability, abs=1e-5)
    if not before_bos:
        with pytest.raises(UserError, match="empty context cannot be scored after a soft prompt"):
            score(model, "", "x")


def test_prompts_are_asked_behind_an_instruction_and_demonstrations(tiny):
    model = AdaptJaxLM(adaptation=Adaptation("few_shot", prompt(), tiny))
    before = prompt().text
    expected = log_likelihood(tiny, before + CONTEXT, CONTINUATION).log_probability
    assert score(model, CONTEXT, CONTINUATION) == pytest.approx(expected, abs=1e-5)
    bare = AdaptJaxLM(tiny)
    options = {"until": ["\n"], "max_gen_toks": 6}
    assert generate(model, CONTEXT, **options) == generate(bare, before + CONTEXT, **options)
    # an empty context becomes the adaptation's text
    alone = log_likelihood(tiny, before, "Q: What").log_probability
    assert score(model, "", "Q: What") == pytest.approx(alone, abs=1e-5)
    [rolling] = model.loglikelihood_rolling(ask("loglikelihood_rolling", ("Q: What",)), True)
    assert rolling == pytest.approx(alone, abs=1e-5)


def test_sampled_requests_that_repeat_get_different_answers_and_greedy_ones_the_same(tiny):
    model = AdaptJaxLM(tiny)
    sampled = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 8, "until": []}
    texts = generate(model, CONTEXT, 4, **sampled)
    assert len(set(texts)) > 1 and texts == generate(model, CONTEXT, 4, **sampled)
    assert len(set(generate(model, CONTEXT, 3, max_gen_toks=8))) == 1


def test_answers_are_kept_in_the_harness_cache(tiny, tmp_path, monkeypatch):
    cached = CachingLM(AdaptJaxLM(tiny), str(tmp_path / "cache.db"))
    requests = ask("loglikelihood", (CONTEXT, CONTINUATION), ("A", " b"))
    first = cached.loglikelihood(requests)
    monkeypatch.setattr(AdaptJaxLM, "_score", lambda self, pairs: iter(()))
    assert cached.loglikelihood(requests) == first


def test_the_thought_before_an_answer_is_dropped(tiny):
    whole = generate(AdaptJaxLM(tiny), CONTEXT, max_gen_toks=12)[0]
    end = whole[3]
    expected = whole.split(end)[-1].lstrip()
    found = generate(AdaptJaxLM(tiny, think_end_token=end), CONTEXT, max_gen_toks=12)
    assert found == [expected]


CHAT = replace(prompt(), template=Template(chat=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda tiny: AdaptJaxLM(tiny, max_lenght=3), "max_lenght: not known.*max_length"),
        (lambda tiny: AdaptJaxLM(), "name a decoder"),
        (lambda tiny: AdaptJaxLM("embedded", dtype="float33"), "dtype: 'float33'"),
        (lambda tiny: AdaptJaxLM("/nowhere"), "/nowhere"),
        (lambda tiny: generate(AdaptJaxLM(tiny), "a", beams=3), "beams: not known"),
        (lambda tiny: generate(AdaptJaxLM(tiny), "a", num_beams=3), "num_beams: 3 is not"),
        (lambda tiny: generate(AdaptJaxLM(tiny), "a", max_gen_toks=512), "leave no room"),
        (lambda tiny: score(AdaptJaxLM(tiny), "a", ""), "has 0 tokens"),
        (lambda tiny: score(AdaptJaxLM(tiny), "a", "Zq" * 600), "expected 1 to 512"),
        (
            lambda tiny: score(AdaptJaxLM(adaptation=Adaptation("lora", CHAT, tiny)), "a", "b"),
            "--apply_chat_template asks",
        ),
        (
            lambda tiny: AdaptJaxLM(
                adaptation=Adaptation("few_shot", prompt(), tiny)
            ).apply_chat_template([{"role": "user", "content": "x"}]),
            "leave out --apply_chat_template",
        ),
    ],
)
def test_what_cannot_be_asked_is_one_clear_line(tiny, make, message):
    with pytest.raises(UserError, match=message) as raised:
        make(tiny)
    assert len(str(raised.value)) < 400 and "\n" not in str(raised.value)


def test_messages_of_an_adaptation_come_before_the_harness_messages(tiny, monkeypatch):
    model = AdaptJaxLM(adaptation=Adaptation("few_shot", CHAT, tiny))
    seen: list[Any] = []

    def render(messages: list[dict[str, str]], **_: Any) -> str:
        seen.append([(one["role"], one["content"]) for one in messages])
        return "text"

    monkeypatch.setattr(model, "tokenizer", type("Fake", (), {"apply_chat_template": render}))
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]
    model.apply_chat_template(own)
    [(system, text), *shown, last] = seen[0]
    assert (system, text) == ("system", "Solve it.\n\nBe brief.")
    assert [role for role, _ in shown] == ["user", "assistant"]
    assert last == ("user", "1 + 1?")


@pytest.fixture
def own_tasks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness's own tasks, of which there are thousands, are not looked through."""
    whole = partialmethod(TaskManager.__init__, include_defaults=False)
    monkeypatch.setattr(TaskManager, "__init__", whole)


@pytest.mark.usefixtures("own_tasks_alone")
def test_the_command_runs_the_harness_with_the_model(tiny_folder, tmp_path, capsys):
    tasks = write_tasks(tmp_path / "tasks", documents=2)
    code = main(
        ["lm-eval", "run", "--model", "adapt_jax", "--model_args", f"pretrained={tiny_folder}"]
        + ["--tasks", "mc_letters", "--include_path", str(tasks), "--log_samples"]
        + ["--output_path", str(tmp_path / "out")]
    )
    assert code == 0 and "|mc_letters" in capsys.readouterr().out.replace(" ", "")
    [results] = (tmp_path / "out").rglob("results_*.json")
    config = json.loads(results.read_text())["config"]
    assert config["model"] == "adapt_jax" and config["model_sha"]
    assert list((tmp_path / "out").rglob("samples_mc_letters_*.jsonl"))


def test_the_model_is_known_by_its_name_from_python(tiny_folder, tmp_path):
    manager = TaskManager(include_path=str(write_tasks(tmp_path)), include_defaults=False)
    results = lm_eval.simple_evaluate(
        model="adapt_jax",
        model_args=f"pretrained={tiny_folder},dtype=float32",
        tasks=["mc_letters"],
        task_manager=manager,
        limit=2,
        bootstrap_iters=0,
    )
    assert results["n-samples"]["mc_letters"]["effective"] == 2


def test_the_exit_codes_of_the_harness_are_kept(capsys):
    assert main(["lm-eval", "run", "--nope"]) == 2
    assert "unrecognized arguments: --nope" in capsys.readouterr().err
    assert main(["lm-eval", "run", "--help"]) == 0
    assert "--include_path" in capsys.readouterr().out


@pytest.mark.usefixtures("own_tasks_alone")
def test_mistakes_in_the_command_are_one_line(tmp_path, capsys):
    tasks = write_tasks(tmp_path / "tasks", documents=2)
    run = [
        "lm-eval",
        "run",
        "--model",
        "adapt_jax",
        "--tasks",
        "sums",
        "--include_path",
        str(tasks),
    ]
    capsys.readouterr()
    assert main([*run, "--model_args", "pretrained=/nowhere"]) == 2
    assert "error: /nowhere" in capsys.readouterr().err


def test_without_the_harness_the_command_says_what_to_install(monkeypatch, capsys):
    for name in ("lm_eval", "lm_eval.__main__", "lm_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "adapt_jax.harness.model")
    assert "pip install adapt-jax[eval]" in fails(capsys, "lm-eval", "ls", "tasks")
