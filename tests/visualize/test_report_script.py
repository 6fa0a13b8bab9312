"""The script of the report, run by node on a table that has what the script asks of a browser's."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from hierax.visualize import page

NODE = shutil.which("node")
STAND_IN = """
const cell = (text) => ({textContent: text});
const heads = HEADS.map((text) => ({
  textContent: text, marks: {}, heard: null,
  addEventListener(_, call) { this.heard = call; },
  getAttribute(name) { return this.marks[name] ?? null; },
  setAttribute(name, value) { this.marks[name] = value; },
  removeAttribute(name) { delete this.marks[name]; },
}));
const body = {
  rows: ROWS.map((row) => ({cells: row.map(cell)})),
  append(...rows) { this.rows = this.rows.filter((row) => !rows.includes(row)).concat(rows); },
};
const document = {querySelectorAll: (wanted) => wanted === "table.sortable"
  ? [{tBodies: [body], tHead: {rows: [{cells: heads}]}}] : []};
SCRIPT
const seen = CLICKS.map((column) => {
  heads[column].heard();
  return [body.rows.map((row) => row.cells[0].textContent), heads.map((head) => head.getAttribute("aria-sort"))];
});
console.log(JSON.stringify(seen));
"""


@pytest.mark.skipif(NODE is None, reason="node")
def test_a_columns_name_sorts_by_it():
    """Numbers sorted as text put 100 before 9; a second click that does nothing, or two columns marked, misleads."""
    rows = [["kind 10", "9", "0.5"], ["kind 9", "100", "n/a"], ["kind 2", "20", "0.25"]]
    script = Path(page.__file__).with_name("report.js").read_text("utf-8").replace('"use strict";', "")
    filled = {"HEADS": json.dumps(["class", "count", "F1"]), "ROWS": json.dumps(rows), "CLICKS": "[0, 1, 1, 2]"}
    code = STAND_IN.replace("SCRIPT", script)
    for name, value in filled.items():
        code = code.replace(name, value)
    done = subprocess.run([NODE, "-e", code], capture_output=True, text=True, timeout=600, check=True)
    assert json.loads(done.stdout) == [
        [["kind 2", "kind 9", "kind 10"], ["ascending", None, None]],
        [["kind 10", "kind 2", "kind 9"], [None, "ascending", None]],
        [["kind 9", "kind 2", "kind 10"], [None, "descending", None]],
        [["kind 2", "kind 10", "kind 9"], [None, None, "ascending"]],
    ]
