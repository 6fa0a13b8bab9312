"""Days of users, each a script that can be read, and run, from top to bottom: in an empty folder, offline, as they type.

Shell stories end at the first command that fails (`set -e`); Python stories assert what a user would look at.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hierax

from . import photos

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STORIES = sorted([*HERE.glob("*.sh"), *(p for p in HERE.glob("*.py") if p.name not in ("__init__.py", "photos.py", "test_stories.py"))])  # fmt: skip
VERSIONS = ("3.10", "3.11", "3.12", "3.13")


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, for each story to copy."""
    folder = tmp_path_factory.mktemp("album")
    photos.write(folder)
    return folder


def environment(folder: Path, album: Path) -> dict[str, str]:
    """What a user's shell has: `hierax` and `python` on the path, and no network."""
    tools = folder / "tools"
    tools.mkdir()
    for name, command in (("hierax", f'"{sys.executable}" -m hierax'), ("python", f'"{sys.executable}"')):
        (tools / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (tools / name).chmod(0o755)
    sources = Path(hierax.__file__).parents[1]
    others = [shutil.which(f"python{version}") for version in VERSIONS]
    others += [
        str(path) for version in VERSIONS for path in Path.home().glob(f".pyenv/versions/{version}.*/bin/python")
    ]
    return {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder / "home"),
        "PYTHONPATH": str(sources),
        "SOURCES": str(sources),
        "PHOTOS": str(album),
        "README": str(ROOT / "README.md"),
        "OTHER_PYTHONS": " ".join(filter(None, others)),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
    }


@pytest.mark.slow
@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.stem)
def test_story(story, tmp_path, album):
    """Whoever breaks a step of it breaks it for people."""
    work = tmp_path / "work"
    work.mkdir()
    shell = ["bash", "-euo", "pipefail", str(story)]
    command = shell if story.suffix == ".sh" else [sys.executable, str(story)]
    done = subprocess.run(
        command, cwd=work, env=environment(tmp_path, album), capture_output=True, text=True, check=False, timeout=1800
    )
    assert done.returncode == 0, f"{story.name}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    # A story reads as a user writes: public names only, and what it looks at is said.
    text = story.read_text("utf-8")
    assert not re.search(r"\bhierax\.\w*\._|import _|monkeypatch|pytest", text)
    assert text.splitlines()[0].startswith(("# I ", '"""'))


def test_all_days_are_there():
    """A story that is renamed away is a kind of user that nobody tries to be any more."""
    assert {story.stem for story in STORIES} >= {
        "embed_photos", "search_photos", "switch_from_birder", "switch_from_transformers", "finetune_and_convert",
        "pretrain", "detector_features", "notebook", "mistakes", "other_pythons", "read_the_docs",
    }  # fmt: skip
