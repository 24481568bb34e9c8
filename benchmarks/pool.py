"""Training runs side by side, one thread each."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from joblib import cpu_count

from benchmarks import report

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def run_all(
    run: Callable[[Job], Outcome], jobs: Sequence[Job], said: Callable[[Job, Outcome], str]
) -> Iterator[Outcome]:
    """The outcomes in the order of the jobs, as many at once as there are cores to run on."""
    if not jobs:
        return
    workers = min(cpu_count(), len(jobs))
    with multiprocessing.get_context("spawn").Pool(workers, torch.set_num_threads, (1,)) as pool:
        outcomes = zip(jobs, pool.imap(run, jobs), strict=True)
        for number, (job, outcome) in enumerate(outcomes, 1):
            report.tell(f"[{number}/{len(jobs)}] {said(job, outcome)}")
            yield outcome
