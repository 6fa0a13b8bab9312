"""Every block of the README and the how-to pages runs as it is printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.M | re.S)


def blocks(language: str) -> list[tuple[str, str, str]]:
    """(page, options, code) of every block in that language."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = []
    for page in pages:
        for number, (name, options, code) in enumerate(FENCE.findall(page.read_text())):
            if name == language:
                found.append(pytest.param(options, code, id=f"{page.name}-{number}"))
    return found


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A folder with the examples in it, as a user has after cloning."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("options", "code"), blocks("python"))
def test_python_blocks(options, code, workshop):
    """A block that names something gone, or prints another shape, misleads the first reader.

    Blocks marked `no-network` load published weights; of them only the syntax and every imported name are checked.
    """
    if "no-network" in options:
        compile(code, "README", "exec")
        imports = [line for line in code.splitlines() if re.match(r"(import|from) ", line)]
        exec("\n".join(imports), {})
        return
    exec(compile(code, "README", "exec"), {})


@pytest.mark.slow
@pytest.mark.parametrize(("options", "code"), blocks("sh"))
def test_shell_blocks(options, code, workshop):
    """A command line that fails on a fresh clone is the worst first impression.

    Lines that set up an environment (make, git, pip) are what runs this test; they are not run again. Blocks marked
    `no-network` need published weights, a server or hours; of them only that each command exists is checked.
    """
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for line in code.replace("\\\n", " ").splitlines():
        command = line.split(" #")[0].strip()
        if not command or command.startswith("#") or command.split()[0] in ("make", "git", "pip"):
            continue
        if "no-network" in options:
            if command.startswith("hierax "):
                from hierax.cli import COMMANDS

                words = command.split()
                assert words[1] in COMMANDS or " ".join(words[1:3]) in COMMANDS
            continue
        done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_links_exist():
    """A dead link in the README is a page that nobody wrote."""
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
