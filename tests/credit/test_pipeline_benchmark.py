"""The benchmark of pipelines: its model against a simulated schedule, and its parts at toy size."""

import doctest
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))  # run from the checkout, never installed

from benchmarks import pipeline
from genprop.credit.pipeline import LAG


def simulated(seconds: list[float], updates: int, waits: bool) -> float:
    """When the last micro-step ends, each beginning as soon as what it needs is there."""
    ends = [[0.0] * (updates + LAG) for _ in seconds]
    for number in range(updates + LAG):
        for place, spent in enumerate(seconds):
            before = [ends[place][number - 1]] if number else []
            below = [ends[place - 1][number]] if place and number < updates else []
            late = waits and place + 1 < len(seconds) and number >= LAG
            above = [ends[place + 1][number - LAG]] if late else []
            lasts = spent if number < updates or late else 0.0
            ends[place][number] = max([0.0, *before, *below, *above]) + lasts
    return max(max(line) for line in ends)


@pytest.mark.parametrize("seconds", [[1.0, 1.0], [1.0, 3.0, 2.0], [3.0, 1.0], [2.0, 2.0, 1.0, 2.0]])
def test_the_model_is_the_schedules_time(seconds: list[float]) -> None:
    updates = 50
    model = updates * pipeline.predicted(seconds, 0.0, updates)
    assert simulated(seconds, updates, waits=False) == pytest.approx(model)
    # the last updates are made after the last mini-batch has passed
    assert model <= simulated(seconds, updates, waits=True) <= model + LAG * max(seconds)


def test_the_examples_in_its_functions() -> None:
    failed, tried = doctest.testmod(pipeline)
    assert tried
    assert not failed


@pytest.mark.parametrize("task", pipeline.TASKS)
def test_every_stage_is_timed_and_every_bar_judged(task: str) -> None:
    effort = pipeline.Effort(layers=3, width=8, updates=4, rounds=1)
    assert pipeline.together_seconds(task, effort) > 0
    stages = pipeline.stage_seconds(task, effort, (1, 2))
    assert len(stages) == 2
    assert min(stages) > 0
    row = pipeline._row(task, 2, (1, 2), [1.0, 1.0], 0.0, effort, 2.0, 1.25)
    assert row["model_gain"] == pytest.approx(1.6)
    assert [bar["holds"] for bar in pipeline.judge([row])] == [True, True]
