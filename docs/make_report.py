"""Draws docs/pictures/report.png: the page of a run on rendered shapes, as a browser shows it.

Run `python docs/make_report.py`; it needs Chromium, and takes two minutes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from make_tutorials import keep
from PIL import Image

import hierax

PICTURE = Path(__file__).with_name("pictures") / "report.png"
WIDTH, HEIGHT = 1000, 1640
HOME = "/home/me"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def page(folder: Path) -> Path:
    """The page of a short run, as if it had been made in `HOME`."""
    settings = {"steps": 60, "batch_size": 16, "validate_every": 10, "workers": 0, "device": "cpu", "lr": 2e-3}
    run = {"recipe": "small_finetune", "validation_fraction": 0.4, **settings}
    made = hierax.finetune("shapes:640@3", folder / "shapes", **run).out / "report.html"
    made.write_text(made.read_text("utf-8").replace(str(folder.resolve()), HOME), "utf-8")
    return made


def photograph(shown: Path, picture: Path) -> None:
    """What a browser shows of a page in a window of `WIDTH` x `HEIGHT` pixels."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"A picture of a page needs a browser; none of {', '.join(BROWSERS)} is installed.")
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={picture.parent}",
    ]
    window = [f"--window-size={WIDTH},{HEIGHT + 200}", f"--screenshot={picture}"]  # a bar of the browser counts too
    subprocess.run([browser, *options, *window, shown.resolve().as_uri()], check=True, capture_output=True, timeout=120)
    with Image.open(picture) as image:
        whole = image.crop((0, 0, WIDTH, HEIGHT))
    whole.save(picture)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        photograph(page(Path(folder)), drawn := Path(folder, "report.png"))
        keep(drawn, PICTURE)
    sys.stderr.write(f"{PICTURE}\n")
