"""What is shown while a step takes long: log lines where there is no terminal."""

import re

import pytest

from lpft import progress as module
from lpft.ntk.sweep import metered
from lpft.progress import progress, visible_progress


@pytest.fixture
def logged(caplog, monkeypatch):
    """The log lines of five items, with no time between two lines."""
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0.0)

    def lines(items, **keywords):
        caplog.clear()
        with caplog.at_level("INFO", logger="lpft"):
            assert list(progress(items, "counting", **keywords)) == [0, 1, 2, 3, 4]
        return caplog.messages

    return lines


def test_lines_say_what_share_is_done(logged):
    with visible_progress():
        lines = logged(range(5))
    assert [line.partition(" %")[0] for line in lines if "left" in line][-1] == "counting: 100"
    assert all("left" in line for line in lines)


def test_of_steps_without_a_known_end_lines_say_how_many_are_done(logged):
    with visible_progress():
        lines = logged(iter(range(5)))
    assert lines[-1] == "counting: 5 done"


def test_nothing_is_said_unless_progress_is_visible(logged):
    assert logged(range(5)) == []


def test_short_steps_say_nothing(caplog):
    with visible_progress(), caplog.at_level("INFO", logger="lpft"):
        assert len(list(progress(range(5), "counting"))) == 5
    assert caplog.messages == []


def test_work_beyond_what_was_expected_does_not_begin_at_zero_again(caplog, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0.0)
    with (
        visible_progress(),
        caplog.at_level("INFO", logger="lpft"),
        metered(200e9) as count,
    ):
        for _ in range(300):
            count(1e9)
    shares = [int(re.search(r"(\d+) %", line)[1]) for line in caplog.messages]
    assert shares == sorted(shares)
    assert shares[-2:] == [99, 100]  # the end is reached when the work is
