"""What a run says of its progress."""

from __future__ import annotations

import json

from hierax.train.report import Report


def test_time_left_is_of_this_sessions_speed(tmp_path, monkeypatch):
    """Time since the resume over all steps since the start promised 0:00:04 where half a minute was left."""
    shown = []
    monkeypatch.setattr("hierax.console.show", lambda text, **given: shown.append(text))
    earlier = [json.dumps({"step": step, "losses": [1.0]}) + "\n" for step in range(1, 81)]
    (tmp_path / "log.jsonl").write_text("".join(earlier))
    clock = {"now": 1000.0}
    monkeypatch.setattr("time.perf_counter", lambda: clock["now"])
    made = Report(tmp_path, True, 100, 1, baseline=None)
    made.open(80)
    clock["now"] += 5.0  # reading the first batch takes long; it is part of this session's time
    for step in range(81, 86):
        clock["now"] += 1.0
        made.step(step, 1.0, samples=4, wait_s=0.5, lr=0.1)
    assert len(made.losses) == 85
    assert shown[-1].endswith("ETA 0:00:30")  # 10 s for 5 steps, 15 to go
    assert "step 85/100" in shown[-1]


def test_only_the_main_process_talks(tmp_path, capsys):
    """Four processes that all say the same thing, or write the same log."""
    quiet = Report(tmp_path, False, 10, 1, baseline=None)
    quiet.open(0)
    quiet.step(1, 1.0, samples=4, wait_s=0.0, lr=0.1)
    quiet.close()
    assert capsys.readouterr().err == ""
    assert not list(tmp_path.iterdir())
