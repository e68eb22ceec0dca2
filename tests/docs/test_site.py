"""The documentation site: it builds without a warning, and its Python examples run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "contributing").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_the_site_builds_without_warnings_and_every_link_leads_somewhere(tmp_path: Path):
    pytest.importorskip("mkdocs", reason="the documentation needs the docs extra")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"DISABLE_MKDOCS_2_WARNING": "true", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "techniques" / "self_consistency" / "index.html").is_file()


# Runs each page in a fork: what a page registers stays out of the others, and all share one import.
RUN_PAGES = """
import json, os, runpy, sys
import adapt_jax.comparison.compare
for page in sys.argv[1:]:
    if (child := os.fork()) == 0:
        runpy.run_path(page, run_name="__main__")
        os._exit(0)
    print(json.dumps([page, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]), flush=True)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """By the name of a page: the exit code of its Python examples, and all pages' stderr."""
    folder, programs = tmp_path_factory.mktemp("pages"), []
    for page in PAGES:
        if blocks := BLOCK.findall(page.read_text(encoding="utf-8")):
            programs.append(folder / f"{page.stem}.py")
            programs[-1].write_text("\n".join(blocks), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RUN_PAGES, *map(str, programs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return {Path(page).stem: (code, done.stderr) for page, code in rows}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_examples_of_a_page_run(page: Path, results: dict[str, tuple[int, str]]):
    if not BLOCK.search(page.read_text(encoding="utf-8")):
        pytest.skip("this page has no Python")
    code, errors = results[page.stem]
    assert code == 0, errors[-3000:]
