"""Runs launch scripts of other machines against fake tools, which record what they are asked."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("gcloud", "xpk", "kubectl", "sbatch", "sky", "docker", "git", "sleep", "srun", "scontrol")
# A fake tool writes its words into a file of their own, and its standard input beside it. A rule is
# a file of a pattern, an exit code and what to print; the first rule that fits is used up.
FAKE = r"""#!/usr/bin/env python3
import fnmatch, json, pathlib, sys
folder = pathlib.Path(__file__).resolve().parent.parent
words = [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]
stdin = sys.stdin.read() if words[0] in ("kubectl", "docker") else ""
files = [pathlib.Path(w).read_text() for w in words if words[0] == "sky" and "adapt_jax_job" in w]
with open(folder / "calls", "a") as calls:
    calls.write(json.dumps({"words": words, "stdin": stdin, "files": files}) + "\n")
rules = json.loads((folder / "rules").read_text())
for rule in rules:
    if fnmatch.fnmatchcase(" ".join(words), rule[0]):
        if rule[3]:
            rules.remove(rule)
            (folder / "rules").write_text(json.dumps(rules))
        print(rule[2], end="")
        sys.exit(rule[1])
"""
SCRIPTS = {
    "tpu_vm.sh": ["--name", "ladder", "--zone", "us-west4-a", "--type", "v5litepod-8"],
    "gke.sh": [
        *("--name", "pod", "--image", "r/adapt_jax:tpu", "--accelerator", "tpu-v6e-slice"),
        *("--topology", "4x8", "--bucket", "gs://my-bucket/pod"),
    ],
    "xpk.sh": [
        *("--name", "pod", "--cluster", "c", "--zone", "us-east5-b", "--type", "v6e-32"),
        *("--image", "r/adapt_jax:tpu", "--storage", "results"),
    ],
    "slurm.sh": ["--name", "ladder", "--time", "4:00:00"],
    "skypilot.sh": ["--name", "ladder", "--accelerators", "L4:1", "--bucket", "s3://my-bucket/l"],
    "container.sh": ["--target", "tpu", "--image", "r/adapt_jax:tpu"],
}
ASK = ["--", "ask", "runs/a", 'It\'s 2 + 3; what is "$HOME" `really`?\\n']
BUCKET = ["--bucket", "gs://my-bucket/ladder"]


class Elsewhere:
    """Runs launch scripts in a checkout whose tools are fakes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rules = folder, []  # type: tuple[Path, list[list[Any]]]
        self.checkout = folder / "checkout"
        shutil.copytree(ROOT / "launch", self.checkout / "launch")
        tools = folder / "tools"
        tools.mkdir()
        (tools / "fake").write_text(FAKE)
        (tools / "fake").chmod(0o755)
        for tool in TOOLS:
            (tools / tool).symlink_to("fake")
        self.environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
        self.environment |= {"TMPDIR": str(folder)}

    def when(self, pattern: str, code: int = 0, output: str = "", always: bool = False) -> None:
        """Tools that are asked for ``pattern`` print and exit so: once, in the order of rules."""
        self.rules.append([pattern, code, output, not always])

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "rules").write_text(json.dumps(self.rules))
        (self.folder / "calls").unlink(missing_ok=True)
        command = ["bash", str(self.checkout / "launch" / script), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=self.environment
        )

    def calls(self, tool: str = "") -> list[dict[str, Any]]:
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        calls = [json.loads(line) for line in lines]
        return [call for call in calls if call["words"][0] == tool or not tool]

    def words(self, tool: str = "") -> list[list[str]]:
        return [call["words"] for call in self.calls(tool)]


def option(words: list[str], name: str) -> str:
    """The value of an option, written with = or as the next word."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == name:
            return following
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    raise AssertionError(f"{name} is not in {words}")
