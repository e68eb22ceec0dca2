"""The command line: what it prints, what it writes, and how it fails."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from helpers import SHORT, fails, prompt, write_task
from scripted import scripted

from adapt_jax.adaptation import session as session_module
from adapt_jax.adaptation.adaptation import Adaptation
from adapt_jax.cli.main import main, rewrite_overrides
from adapt_jax.cli.options import collect_overrides
from adapt_jax.utils.errors import UserError

QUESTION = "Jane has 2 apples. She bought 3 more. How many apples does she have in total?"


@pytest.fixture
def saved(tiny, tmp_path: Path) -> Path:
    """A saved adaptation of the tiny random decoder."""
    return Adaptation("chain_of_thought", prompt(), tiny).save(tmp_path / "saved")


@pytest.fixture
def config(tiny_folder: Path, tmp_path: Path) -> Path:
    """A comparison of one rung, with a task of its own."""
    run = {
        "decoder": str(tiny_folder),
        "task": write_task(tmp_path / "task"),
        "methods": {"zero_shot": SHORT},
        "output_dir": str(tmp_path / "run"),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    return tmp_path / "run.yaml"


def test_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"adapt-jax {version('adapt-jax')}\n"


def test_compare_prints_a_table_and_asks_to_be_asked(config: Path, tmp_path: Path, capsys):
    assert main(["compare", str(config), "--seed", "3", "--task.splits.test=4"]) == 0
    out = capsys.readouterr().out
    assert "zero_shot" in out and f"results: {tmp_path / 'run'}" in out
    written = json.loads((tmp_path / "run" / "comparison.json").read_text())
    assert written["seed"] == 3 and written["rungs"][0]["n"] == 4
    assert main(["ask", str(tmp_path / "run"), QUESTION]) == 0  # the best rung of the comparison


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"instructon": "x"}, "unknown key 'instructon'; did you mean 'instruction'"),
        ({"source": {"name": "jsonl"}}, "source: expected either 'path' or some of train"),
        ({"source": {"name": "jsonl", "pth": "x"}}, "source: unknown key 'pth'"),
        ({"splits": {"test": 1.5}}, "splits.test: expected a number"),
        ({"scorer": "exakt"}, "scorer: unknown scorer 'exakt'; did you mean 'exact'"),
        ({"answer_parser": "numbr"}, "answer_parser: unknown answer parser 'numbr'"),
        ({"template": {"question": "x"}}, "template.question: lacks {question}"),
        ({"answer_pattern": "("}, "answer_pattern: '(' is no regular expression"),
        ({"choices": ["one"]}, "choices: expected two or more"),
    ],
)
def test_a_mistake_in_a_task_names_its_file(
    change: dict, line: str, config: Path, tmp_path: Path, capsys
):
    task = tmp_path / "sums.yaml"
    task.write_text(yaml.safe_dump(write_task(tmp_path / "task") | change))
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"task": "sums.yaml"}))
    assert f"error: {task}: {line}" in fails(capsys, "compare", config)


def test_a_plugin_that_ends_the_command_later_does_not_look_like_success(
    config: Path, tmp_path: Path, capsys
):
    plugin = tmp_path / "exiting_plugin.py"
    plugin.write_text(
        "import sys\nfrom adapt_jax.tasks.sources import SOURCES\n"
        "@SOURCES.register('exiting')\ndef exiting(request):\n    sys.exit(0)\n"
    )
    arguments = ("--plugin", plugin, "--task.source", "{name: exiting}")
    assert "ended the command (exit code 0)" in fails(capsys, "compare", config, *arguments)


def test_ctrl_c_while_a_plugin_is_imported_is_an_interruption(tmp_path: Path, capsys):
    (tmp_path / "slow_plugin.py").write_text("raise KeyboardInterrupt\n")
    assert main(["compare", "none.yaml", "--plugin", str(tmp_path / "slow_plugin.py")]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_output_dir_on_the_command_line_wins(config: Path, tmp_path: Path, capsys):
    elsewhere = tmp_path / "elsewhere"
    assert main(["compare", str(config), "--output-dir", str(elsewhere), "--quiet"]) == 0
    assert (elsewhere / "comparison.json").exists() and not (tmp_path / "run").exists()


def test_tune_saves_what_ask_and_evaluate_use(config: Path, tmp_path: Path, capsys):
    run = yaml.safe_load(config.read_text())
    del run["methods"]
    training = {"steps": 2, "batch_size": 2, "warmup_steps": 0}
    run["method"] = {"name": "prompt_tuning", "length": 3, "training": training} | SHORT
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump(run))
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(run["task"]))
    assert main(["tune", str(tmp_path / "tune.yaml"), "--method.length", "2"]) == 0
    assert f"saved: {tmp_path / 'run' / 'adaptation'}" in capsys.readouterr().out
    results = tmp_path / "judged"
    arguments = [str(tmp_path / "run"), str(tmp_path / "task.yaml"), "--output-dir", str(results)]
    assert (
        main(["evaluate", *arguments, "--task.splits.test", "5", "--max-concurrent-sequences", "4"])
        == 0
    )
    out = capsys.readouterr().out
    assert "accuracy" in out and "sums: test: 5 examples" in out
    written = json.loads((results / "evaluation.json").read_text())
    assert (written["n"], written["method"]) == (5, "prompt_tuning")
    assert len((results / "predictions.jsonl").read_text().splitlines()) == 5


def test_ask_prints_the_bare_answer_and_on_demand_the_reasonings(
    saved: Path, tiny, capsys, monkeypatch
):
    said = [
        " 2 and 3 are 5. The answer is 5.",
        " So 5. The answer is 5.",
        " Four. The answer is 4.",
    ]
    sampled = prompt(candidates=3, temperature=1.0)
    Adaptation("self_consistency", sampled, tiny).save(saved)
    monkeypatch.setattr(session_module, "Engine", scripted(lambda _, number: said[number]))
    assert main(["ask", str(saved), QUESTION]) == 0
    assert capsys.readouterr().out == "5\n"
    assert main(["ask", str(saved), QUESTION, "--show-reasoning"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "5: 2 votes (distinct)",
        "  - 2 and 3 are 5.",
        "  - So 5.",
        "4: 1 vote (distinct)",
        "  - Four.",
        "5",
    ]


def test_predict_answers_every_line_and_resumes(saved: Path, tmp_path: Path, capsys, monkeypatch):
    asked = []

    def say(name: str, number: int) -> str:
        asked.append(name)
        return " The answer is 7."

    monkeypatch.setattr(session_module, "Engine", scripted(say))
    source, target = tmp_path / "in.jsonl", tmp_path / "out" / "out.jsonl"
    rows = [{"id": f"q{n}", "question": f"What is {n}?"} for n in range(4)] + [{"question": "Why?"}]
    source.write_text("\n".join(json.dumps(row) for row in rows))
    assert main(["predict", str(saved), str(source), str(target)]) == 0
    whole = target.read_text()
    answers = {row["id"]: row["answer"] for row in map(json.loads, whole.splitlines())}
    assert list(answers.values()) == ["7"] * 5 and {"q0", "q1", "q2", "q3"} < answers.keys()

    lines = whole.splitlines(keepends=True)
    target.write_text("".join(lines[:2]) + lines[2][:30])  # interrupted in the third line
    asked.clear()
    assert main(["predict", str(saved), str(source), str(target)]) == 0
    assert len(asked) == 3 and "3 questions answered, 2 kept" in capsys.readouterr().out
    again = [json.loads(line) for line in target.read_text().splitlines()]
    assert {row["id"]: row["answer"] for row in again} == answers and len(again) == 5


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"question": "a"}\n{"question": ', "in.jsonl, line 2: not valid JSON"),
        ('{"question": "a"}\n{"text": "b"}', "line 2: no text in field 'question'; it has: text"),
        ('{"question": ""}', "in.jsonl, line 1: no text in field 'question'"),
        ('{"question": "a", "choices": "b"}', "in.jsonl, line 1: 'choices' is no list: 'b'"),
        ('{"id": 1, "question": "a"}\n{"id": 1, "question": "b"}', "line 2: the id '1' occurs"),
        ("\n", "in.jsonl: holds no question"),
    ],
)  # fmt: skip
def test_predict_names_the_line_that_is_wrong_and_writes_nothing(
    saved: Path, tmp_path: Path, capsys, text: str, line: str
):
    (tmp_path / "in.jsonl").write_text(text)
    assert line in fails(capsys, "predict", saved, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_predict_refuses_answers_of_another_adaptation_or_seed(
    saved: Path, tiny, tmp_path: Path, capsys, monkeypatch
):
    asked = []

    def say(name: str, number: int) -> str:
        asked.append(name)
        return " The answer is 7."

    monkeypatch.setattr(session_module, "Engine", scripted(say))
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"question": "a"}\n{"question": "b"}\n')
    arguments = ["predict", str(saved), str(source), str(target)]
    assert main(arguments) == 0
    before = target.read_text()
    line = "out.jsonl, line 1: answered by another adaptation, or with another seed; choose another"
    assert line in fails(capsys, *arguments, "--seed", "1")
    other = Adaptation("zero_shot", prompt(max_new_tokens=3), tiny).save(tmp_path / "other")
    source.write_text('{"question": "c"}\n')  # nor are answers of two mixed in one file
    assert line in fails(capsys, "predict", other, source, target)
    assert target.read_text() == before
    asked.clear()
    source.write_text('{"question": "a", "choices": ["7", "8"]}\n{"question": "b"}\n')
    assert main(arguments) == 0
    assert asked == ["1"]  # with its choices it is another question
    assert len(target.read_text().splitlines()) == 3


def test_a_mistake_found_before_the_first_answer_leaves_no_file(
    saved: Path, config: Path, tmp_path: Path, capsys, monkeypatch
):
    monkeypatch.setattr("adapt_jax.sampling.memory.free_bytes", lambda: 2 * 2**20)
    (tmp_path / "in.jsonl").write_text('{"question": "a"}\n')
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(yaml.safe_load(config.read_text())["task"]))
    out = tmp_path / "out"
    predict = ["predict", saved, tmp_path / "in.jsonl", out / "a.jsonl"]
    evaluate = ["evaluate", saved, tmp_path / "task.yaml", "--output-dir", out]
    for command in (predict, evaluate):
        flag = "--max-concurrent-sequences"
        assert f'"0" for {flag}. Must be >= 1' in fails(capsys, *command, flag, "0")
        assert f'{flag}: unable to convert "x" into int' in fails(capsys, *command, flag, "x")
        assert "Must be >= 0" in fails(capsys, *command, "--seed", "-1")
        assert "5000 do not fit into memory" in fails(
            capsys, *command, "--max-concurrent-sequences", "5000"
        )
    assert not list(out.iterdir())


def test_predict_leaves_files_alone_that_are_not_its_own(saved: Path, tmp_path: Path, capsys):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"question": "a"}\n')
    target.write_text("my diary\n")
    line = fails(capsys, "predict", saved, source, target)
    assert "out.jsonl, line 1: not an answer of an earlier run" in line
    target.write_text("my diary")
    assert "not the answers of an earlier run" in fails(capsys, "predict", saved, source, target)
    assert target.read_text() == "my diary"
    assert "is the input" in fails(capsys, "predict", saved, source, source)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--methods.zero_shot.max_new_token", "3"], "zero_shot: unknown key 'max_new_token'; did"),
        (["--tsk.seed", "3"], "run.yaml: unknown key 'tsk'; did you mean 'task'?"),
        (["--task.sed", "3"], "unknown key 'sed'; did you mean 'seed'?"),
        (["--task.splits.test", "0"], "empty"),
        (["--decoder", "no/such/folder"], "no/such/folder"),
        (["--seed", "many"], "run.yaml: seed: Input should be a valid integer"),
        (["--seed"], "--seed requires an argument"),
        (["--task.fields.question", "text"], "train.jsonl, line 1: no field 'text'"),
        (["--task.answer_pattern", "####"], "answer_pattern: to YAML '####' is a comment"),
    ],
)
def test_a_wrong_override_is_one_line(config: Path, tmp_path: Path, capsys, arguments, line: str):
    assert line in fails(capsys, "compare", config, *arguments)
    assert not (tmp_path / "run").exists()


def test_bad_decoders_are_one_line(config: Path, make_tiny_llama, tmp_path: Path, capsys):
    bare = make_tiny_llama(tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    assert "bare: no weights" in fails(capsys, "compare", config, "--decoder", bare)
    wrong = make_tiny_llama(tmp_path / "wrong")
    described = json.loads((wrong / "config.json").read_text()) | {"intermediate_size": 48}
    (wrong / "config.json").write_text(json.dumps(described))
    assert "config.json" in fails(capsys, "compare", config, "--decoder", wrong)
    assert not (tmp_path / "run").exists()


def test_a_malformed_line_of_the_task_is_named(config: Path, tmp_path: Path, capsys):
    with (tmp_path / "task" / "train.jsonl").open("a") as file:
        file.write('{"question": \n')
    assert "train.jsonl, line 13: not valid JSON" in fails(capsys, "compare", config)


def test_a_command_that_cannot_be_parsed_is_one_line(saved: Path, capsys):
    line = fails(capsys, "ask", saved)
    assert "QUESTION requires an argument" in line and "(see adapt-jax ask --help)" in line
    assert 'Unknown command "tunee". Did you mean "tune"?' in fails(capsys, "tunee", saved)
    assert "--choice requires an argument" in fails(capsys, "ask", saved, "a", "--choice")


def test_ask_refuses_what_it_cannot_answer(saved: Path, tmp_path: Path, capsys):
    assert "too long" in fails(capsys, "ask", saved, "How many? " * 400)
    assert "the question is empty" in fails(capsys, "ask", saved, "")
    assert "nowhere: no such folder" in fails(capsys, "ask", tmp_path / "nowhere", "a")
    assert "no adaptation here" in fails(capsys, "ask", tmp_path, "a")
    assert "Unknown option: --sed. Did you mean --seed?" in fails(
        capsys, "ask", saved, "a", "--sed", "3"
    )


def test_an_adaptation_whose_decoder_was_moved_says_so(saved: Path, tiny_folder, capsys):
    description = json.loads((saved / "adaptation.json").read_text())
    (saved / "adaptation.json").write_text(json.dumps(description | {"decoder": "/gone/away"}))
    assert "/gone/away" in fails(capsys, "ask", saved, QUESTION)
    assert main(["ask", str(saved), QUESTION, "--decoder", str(tiny_folder)]) == 0


def test_a_place_that_cannot_be_written_is_one_line(config: Path, tmp_path: Path, capsys):
    (tmp_path / "taken").write_text("a file")
    assert "taken: is a file" in fails(
        capsys, "compare", config, "--output-dir", tmp_path / "taken"
    )
    deeper = tmp_path / "taken" / "run"
    assert "taken is a file; expected a folder" in fails(
        capsys, "compare", config, "--output-dir", deeper
    )


def test_interrupting_ends_with_130(config: Path, monkeypatch, capsys):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("adapt_jax.comparison.compare.compare", interrupt)
    assert main(["compare", str(config)]) == 130


def test_dotted_options_become_overrides_wherever_they_stand():
    tokens, plugins = rewrite_overrides(
        ["--task.seed", "-1", "x.yaml", "--a.b=c=d", "--plugin", "p", "--plugin=q", "--only=a,b"]
    )
    assert tokens == ["--set=task.seed=-1", "x.yaml", "--set=a.b=c=d", "--only=a,b"]
    assert plugins == ["p", "q"]
    tokens, _ = rewrite_overrides(["ask", "x", "--seed", "2", "--", "--why.not?"])
    assert tokens == ["ask", "x", "--seed", "2", "--", "--why.not?"]
    with pytest.raises(UserError, match="--task.seed lacks its value"):
        rewrite_overrides(["compare", "x.yaml", "--task.seed"])


def test_overrides_are_keys_with_values():
    given = collect_overrides(["task.seed=-1", "a.b=c=d"], {"context-length": "5", "mesh": "null"})
    assert given == {"task.seed": "-1", "a.b": "c=d", "context_length": "5", "mesh": "null"}
    with pytest.raises(UserError, match="--set task.seed: expected KEY=VALUE"):
        collect_overrides(["task.seed"], {})


def test_a_question_that_looks_like_an_option_follows_two_dashes(saved: Path, capsys):
    assert "Unknown option" in fails(capsys, "ask", saved, "--why")
    assert main(["ask", str(saved), "--", "--why?"]) == 0


def test_a_plugin_is_loaded_or_named(saved: Path, tmp_path: Path, capsys):
    line = fails(capsys, "ask", saved, "a", "--plugin", "no_such_module")
    assert "--plugin no_such_module: cannot be imported" in line
    broken = tmp_path / "broken_plugin.py"
    broken.write_text("1 / 0\n")
    assert "ZeroDivisionError" in fails(capsys, "--plugin", broken, "ask", saved, "a")


def test_errors_are_one_short_line_without_control_characters(saved: Path, capsys):
    line = fails(capsys, "ask", saved, "a", "--seed", "\x1b[31m" + "9" * 5000)
    assert len(line) < 1500 and "\x1b" not in line


@pytest.mark.parametrize("command", ["compare", "tune", "evaluate", "predict", "ask", "pretrain"])
def test_help_teaches_and_succeeds(command: str, capsys):
    assert main([command, "--help"]) == 0
    assert "Usage: adapt-jax " + command in capsys.readouterr().out


def test_help_comes_without_loading_jax():
    code = "import sys, adapt_jax.cli.main as c\nc.main(['--help'])\n"
    check = "sys.exit(3 if 'jax' in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True)
    assert done.returncode == 0 and "climb the ladder" in done.stdout


def test_the_module_is_the_command():
    command = [sys.executable, "-m", "adapt_jax", "compare"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "CONFIG" in done.stderr
