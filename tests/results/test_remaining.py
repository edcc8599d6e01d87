"""The estimate of what is left: means of like runs, shared by the workers, and how sure it is."""

from pathlib import Path

import pytest

from lpft.runs.remaining import Pace, duration
from lpft.settings.configs import make_config


def config(method="ft", **settings):
    return make_config({"task": "cb", "method": method, **settings}, Path("run"))


def test_nothing_is_said_of_runs_unlike_any_that_was_timed():
    pace = Pace()
    assert pace.left([config()], 1) == "1 left, too early to say how long they take"
    pace.add(config("lp"), 1)
    assert pace.left([config(), config()], 1) == "2 left, too early to say how long they take"
    assert pace.left([], 1) == "none left"


def test_like_runs_take_their_mean_and_workers_share_them():
    pace = Pace()
    pace.add(config(seed=0), 100)
    pace.add(config(seed=1, learning_rate=1e-3), 140)
    left = [config(seed=seed) for seed in (2, 3, 4)]
    assert pace.left(left, 1) == "about 6 min left"
    assert pace.left(left, 3) == "about 2 min left"
    assert pace.left(left, 9) == "about 2 min left"


def test_runs_of_another_kind_are_guessed_by_their_method_and_that_is_said():
    pace = Pace()
    pace.add(config(epochs=1), 30)
    left = [config(epochs=1, seed=1), config(epochs=9), config(epochs=9, seed=1)]
    assert pace.left(left, 1) == "perhaps 2 min left (kinds of run not timed yet: 1)"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (41.2, "41 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (5300, "88 min"),
        (5400, "1 h 30 min"),
        (12000, "3 h 20 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
