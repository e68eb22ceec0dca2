"""What all launch scripts of other machines have in common, and containers."""

import re
import shutil
from pathlib import Path

import pytest
from fake_tools import ASK, ROOT, SCRIPTS, Elsewhere, option

pytestmark = pytest.mark.slow  # each test starts a shell and fake tools


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_says_what_goes_on_costing_and_runs_no_tool(
    elsewhere: Elsewhere, script: str
) -> None:
    done = elsewhere.run(script, "--dry-run", *SCRIPTS[script], *ASK)
    assert done.returncode == 0, done.stderr
    assert "left running" in done.stdout
    assert not elsewhere.calls()
    assert not list(elsewhere.folder.glob("tmp*")) and not (elsewhere.checkout / "runs").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_every_option(elsewhere: Elsewhere, script: str) -> None:
    done = elsewhere.run(script, "--help")
    assert done.returncode == 0
    text = (ROOT / "launch" / script).read_text()
    found = re.search(r'^parse_options "(.*?)" "(.*?)"', text, re.MULTILINE)
    assert found is not None
    options = " ".join(found.groups()).split()
    assert options and all(f"--{name}" in done.stdout for name in [*options, "dry-run", "help"])


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_missing_tool_is_named(elsewhere: Elsewhere, script: str, tmp_path: Path) -> None:
    tools = tmp_path / "few"
    tools.mkdir()
    for tool in ("bash", "dirname", "basename", "rm", "awk", "sed", "mktemp", "cat"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    elsewhere.environment["PATH"] = str(tools)
    done = elsewhere.run(script, *SCRIPTS[script], *ASK)
    assert done.returncode == 2
    assert re.search(r"^error: \w+ is not installed", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nome", "x"], "unknown option --nome"),
        (["compare"], "expected -- before the command, found compare"),
    ],
)
def test_a_wrong_option_is_named_in_one_line(
    elsewhere: Elsewhere, script: str, arguments: list[str], message: str
) -> None:
    done = elsewhere.run(script, *SCRIPTS[script], *arguments)
    assert done.returncode == 2
    assert done.stderr == f"error: {message} (launch/{script} --help)\n"
    assert done.stdout == ""


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "container.sh"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no adapt-jax command"),
        (["--"], "no adapt-jax command"),
        (["--", "compare", "c.yaml", "--output-dir", "out"], "--output-dir out: expected a folder"),
        (["--", "tune", "c.yaml", "--output-dir=runs/../x"], "--output-dir runs/../x: expected"),
        (["--name", "My_job", *ASK], "--name My_job: expected at most 40 of"),
        (["--name", *ASK], "--name needs a value"),
    ],
)
def test_a_wrong_command_is_refused(
    elsewhere: Elsewhere, script: str, arguments: list[str], message: str
) -> None:
    done = elsewhere.run(script, *SCRIPTS[script], *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1
    assert not elsewhere.calls()


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_script_needs_is_asked_for(elsewhere: Elsewhere, script: str) -> None:
    arguments = SCRIPTS[script]
    for place in range(0, len(arguments), 2):
        fewer = arguments[:place] + arguments[place + 2 :]
        done = elsewhere.run(script, *fewer, *ASK)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {arguments[place]} is missing")


# containers


@pytest.mark.parametrize("target", ["cuda", "tpu"])
def test_a_container_holds_the_last_commit_and_nothing_else(
    elsewhere: Elsewhere, target: str
) -> None:
    elsewhere.when("git archive*", 0, "the commit")
    arguments = ["--target", target, "--image", f"r/adapt_jax:{target}", "--push"]
    done = elsewhere.run("container.sh", *arguments)
    assert done.returncode == 0, done.stderr
    build, push = elsewhere.calls("docker")
    assert build["stdin"] == "the commit" and build["words"][-1] == "-"
    assert option(build["words"], "--target") == target
    assert option(build["words"], "--file") == "launch/Dockerfile"
    assert push["words"] == ["docker", "push", f"r/adapt_jax:{target}"]
    assert f"FROM base AS {target}\n" in (ROOT / "launch" / "Dockerfile").read_text()


def test_an_unknown_container_is_refused(elsewhere: Elsewhere) -> None:
    done = elsewhere.run("container.sh", "--target", "gpu", "--image", "x")
    assert done.returncode == 2 and "--target gpu: expected cuda or tpu" in done.stderr
