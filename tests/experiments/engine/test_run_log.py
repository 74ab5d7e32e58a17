"""The log of a run, whose writer may be killed in the middle of a line."""

from experiments.engine import log


def test_event_after_one_that_was_cut_is_kept(tmp_path):
    log.note(tmp_path, "started", pid=1)
    file = tmp_path / log.NAME
    whole = file.read_text()
    file.write_text(whole + whole[: len(whole) // 2])
    log.note(tmp_path, "started", pid=2)
    log.note(tmp_path, "failed", why="no luck")
    assert [event["event"] for event in log.events(tmp_path)] == ["started", "started", "failed"]
    assert log.attempts(tmp_path) == 2
    assert len(file.read_text().splitlines()) == 4
