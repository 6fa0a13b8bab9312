"""Print the oldest versions that pyproject.toml allows, as constraints for pip."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
wanted = [*project["dependencies"], *(item for extra in project["optional-dependencies"].values() for item in extra)]
for requirement in sorted(set(wanted)):
    floor = re.match(r"([\w-]+)(?:\[[\w,]*\])?>=([\w.]+)", requirement)
    if floor:
        print(f"{floor[1]}=={floor[2]}")
