"""Digits in six views: hide some, draw them from the others. genprop beside what others do.

UCI's multiple features (mfeat.npz in ``--data``), 2,000 digits, 1,500 of them to train on and 500
to test on, split at random; views standardised by training rows. Each view in turn is hidden and
drawn from the other five; then all but 1, 2, 3 or 4 views at random. The same with 20 and 50 % of
the views missing at random in training rows.

error     squared error of the mean of 20 draws; a mean over elements, of standard deviation 1
energy    energy score of the draws, E|X - y| - 1/2 E|X - X'|, a mean over rows: less is better
accuracy  of five nearest neighbours, fitted on the view's training rows, that read one draw; beside
          it theirs on the views themselves, which have been hidden
log P     of the hidden view given the five others, nats, of the first 100 test rows: of the mixture
          of decoders of 200 codes drawn without it; of neighbours, regressions and chains there is
          none
fit, draw seconds; of the regressions all falls to the second

Each row and hidden view counts once in what is given below five views; with five, each view once.
A model of genprop draws by itself, and again by training rows with near codes that lend: values of
the 5 or 20 nearest, or errors of the 20 nearest ("residuals"); its density is its own.
What is asked for is genprop's best against the best of all others, in every line, over the splits
on which the other was measured. JNF's chains sample the first 50 test rows alone; --test 50 gives
the others the same. The file that
--json names is written after every run, and keeps those that are not made anew; --more makes only
those that it lacks.
"""

import argparse
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.neighbors import KNeighborsClassifier

from benchmarks import report
from benchmarks.joint import SETTINGS
from benchmarks.multimodal_peers import (
    PEERS,
    Array,
    Effort,
    Filled,
    Fit,
    Fitted,
    Views,
    absent,
    hidden_of,
)
from benchmarks.multimodal_rows import VIEWS, Split, measures, patterns, read, with_holes
from benchmarks.pool import run_all
from genprop.estimator import GenProp

MISSING = (0.0, 0.2, 0.5)
OURS = "genprop"
NETS: dict[str, Any] = {
    **SETTINGS,
    "units": (256,),
    "dropout": 0.2,
}
JOINT = {
    **NETS,
    "visible": "correlated",  # no code that 1,500 rows can teach holds all that is linear
    "top": (64,),
    "regress": True,  # or the encoder has to learn every pattern of given views by itself
    "activation": "relu",
    "samples": 2,
    "weight_decay": 2.0,  # the nets learn 1,500 rows by heart
}
# a code of 16 for each view, and a law of all; each view is encoded alone, so that hiding whole
# views would teach its encoder nothing
CODES = {**NETS, "hidden": (16,), "samples": 5, "hide": 0.25, "explain": False}
CHAINED = ("realnvp", "nsf", "neighbour", "gsn")  # of these codes given others are ends of chains
PRIORS = ("full", "mixture", "denoising", "parzen", *CHAINED)
JOINT_PRIORS = ("mixture", "vamp", "denoising", "nsf")  # of the joint code; else Gaussian
OURS_SETTINGS = {
    f"{OURS}, joint": JOINT,
    **{f"{OURS}, joint, {prior}": {**JOINT, "prior": prior} for prior in JOINT_PRIORS},
    **{f"{OURS}, {prior}": {**CODES, "prior": prior} for prior in PRIORS},
}
# further arguments of impute: without chains, which took 20 times as long
DRAWING: dict[str, Any] = {"method": "sir"}
# the same model's draws by training rows like them; the reader of one draw asks for the nearest
LENT: dict[str, dict[str, Any]] = {
    "residuals": {"method": "residuals"},
    "20 neighbours": {"method": "neighbours"},
    "5 neighbours": {"method": "neighbours", "neighbours": 5},
}
QUICK = Effort(epochs=2, draws=4, paths=10, train=200, test=20, chained=5, dense=5, chain=2)
# whether more is better
MEASURES = {"error": False, "energy": False, "accuracy": True, "log_prob": True}
PLOTTED = ("error", "energy", "accuracy")  # against the number of given views
REAL = "real"  # the accuracy that the hidden views themselves have
COLUMNS = {
    "contender": "contender",
    "missing": "missing",
    "given": "given",
    "error": "error",
    "error_sd": "± sd",
    "energy": "energy",
    "accuracy": "accuracy",
    REAL: "of real views",
    "log_prob": "log P, nats",
    "fit": "fit, s",
    "draw": "draw, s",
    "splits": "splits",
}

RUN_KEY = ("contender", "missing", "split")  # what a run of the file is told by
Key = tuple[int, str]  # how many views are given, and which is hidden: "" is the mean over all
Values = dict[str, dict[int, float]]  # of a measure, by contender and split


class Job(NamedTuple):
    """One contender on one split.

    Attributes:
        contender: its name.
        missing: share of the training rows' views that are not seen.
        split: its seed.
        effort: how much is computed.
        data: folder of data files.
    """

    contender: str
    missing: float
    split: int
    effort: Effort
    data: Path


def fit_genprop(settings: Mapping[str, Any], train: Views, seed: int, effort: Effort) -> Fitted:
    """GenProp with these settings on all views."""
    how = {"epochs": effort.epochs, "batch_size": effort.batch, "random_state": seed}
    model = GenProp(**settings, **how).fit(train)

    def fill(rows: Views, **how: Any) -> Filled:
        drawn = model.impute(rows, draws=effort.draws, samples=effort.paths, **how)
        draws = {name: np.asarray(drawn[name], np.float32) for name in hidden_of(rows)}
        return Filled({name: x.mean(0) for name, x in draws.items()}, draws)

    def density(rows: Views, hidden: str) -> Array:
        given = [name for name in rows if name != hidden]
        found = model.log_likelihood(rows, method="predictive", samples=effort.paths, given=given)
        return np.asarray(found.log_prob, np.float32)

    # all training rows would need chains for every pattern
    alone = "top" not in settings and settings["prior"] in CHAINED
    lent = {way: partial(fill, donors=train, **how) for way, how in LENT.items()}
    return Fitted(partial(fill, **DRAWING), density, {} if alone else lent)


CONTENDERS: dict[str, Fit] = {
    **{name: partial(fit_genprop, settings) for name, settings in OURS_SETTINGS.items()},
    **PEERS,
}


def run(job: Job) -> list[report.Row]:
    """Fits a contender and scores what it draws, in every way it can, or says what went wrong."""
    torch.manual_seed(job.split)
    head = {name: getattr(job, name) for name in RUN_KEY} | {"epochs": job.effort.epochs}
    rows = read(job.data, job.split, job.effort)
    holed = with_holes(rows.train, job.missing, job.split)
    start = time.perf_counter()
    try:
        fitted = CONTENDERS[job.contender](holed, job.split, job.effort)
    except FloatingPointError as error:
        return [{**head, "scores": [], "note": str(error)}]
    seconds = time.perf_counter() - start
    ways = {"": fitted} | {f", {way}": Fitted(fill) for way, fill in fitted.others.items()}
    made = []
    for way, each in ways.items():
        scores, drawing = scored(each, rows, job)
        name = {"contender": job.contender + way}
        made.append({**head, **name, "scores": scores, "fit": seconds, "draw": drawing})
    return made


def scored(fitted: Fitted, rows: Split, job: Job) -> tuple[list[report.Row], float]:
    """The measures by what is given and hidden, and the seconds of drawing."""
    readers = {
        name: KNeighborsClassifier(5).fit(x, rows.train_labels) for name, x in rows.train.items()
    }
    real = {name: (readers[name].predict(x) == rows.labels) * 1.0 for name, x in rows.test.items()}
    dense = {name: x[: job.effort.dense] for name, x in rows.test.items()}
    count = min(len(rows.labels), job.effort.chained if job.contender == "JNF" else 10**9)
    found: dict[Key, list[dict[str, Array]]] = {}
    seconds = 0.0
    for given_count, given, chosen in patterns(count, job.split):
        asked = {
            name: x[chosen] if name in given else np.full_like(x[chosen], np.nan)
            for name, x in rows.test.items()
        }
        start = time.perf_counter()
        filled = fitted.fill(asked)
        seconds += time.perf_counter() - start
        for name in hidden_of(asked):
            measured = measures(
                name, filled, rows.test[name][chosen], rows.labels[chosen], readers[name]
            )
            measured[REAL] = real[name][chosen]
            if fitted.density is not None and given_count == len(VIEWS) - 1:
                measured["log_prob"] = fitted.density(dense, name)
            for key in ((given_count, name), (given_count, "")):
                found.setdefault(key, []).append(measured)
    heads = ({"given": given_count, "view": name} for given_count, name in found)
    return [h | _means(parts) for h, parts in zip(heads, found.values(), strict=True)], seconds


def _means(parts: Sequence[dict[str, Array]]) -> dict[str, float]:
    return {
        measure: float(np.concatenate([part[measure] for part in parts]).mean())
        for measure in parts[0]
    }


def summarise(runs: Iterable[report.Row]) -> list[report.Row]:
    """A row for each contender, missing rate, count of given views and hidden view."""
    groups: dict[tuple[float, str], list[report.Row]] = {}
    for made in runs:
        groups.setdefault((made["missing"], made["contender"]), []).append(made)
    rows = []
    for (missing, contender), each in groups.items():
        head = {"contender": contender, "missing": missing}
        rows += [{**head, "note": made["note"]} for made in each if "note" in made]
        keys = {_key(score) for made in each for score in made["scores"]}
        for key in sorted(keys, key=lambda k: (-k[0], k[1])):
            rows.append({**head, "given": key[0], "view": key[1], **summary(each, key)})
    return sorted(rows, key=lambda row: (row["missing"], -row.get("given", 9)))


def summary(runs: Sequence[report.Row], key: Key) -> report.Row:
    """Means over splits, and the deviation of the error from split to split."""
    whole = [made for made in runs if made["scores"]]
    scores = [score for made in whole for score in made["scores"] if _key(score) == key]
    found: report.Row = {
        m: statistics.fmean(s[m] for s in scores) for m in (*MEASURES, REAL) if m in scores[0]
    }
    errors = [score["error"] for score in scores]
    found["error_sd"] = statistics.stdev(errors) if len(errors) > 1 else None
    found |= {name: statistics.fmean(made[name] for made in whole) for name in ("fit", "draw")}
    return {**found, "splits": len(scores)}


def _key(score: report.Row) -> Key:
    return score["given"], score["view"]


def judge(runs: Iterable[report.Row], by_view: bool) -> list[report.Row]:
    """genprop's best against the best of the others, in each line and measure."""
    lines: dict[tuple[float, int, str], dict[str, Values]] = {}
    for made in runs:
        for score in made["scores"]:
            if bool(score["view"]) != by_view:
                continue
            line = lines.setdefault((made["missing"], *_key(score)), {})
            for measure in (m for m in MEASURES if np.isfinite(score.get(m, np.nan))):
                by_split = line.setdefault(measure, {}).setdefault(made["contender"], {})
                by_split[made["split"]] = score[measure]
    order = sorted(lines, key=lambda line: (line[0], -line[1], line[2]))
    return [
        judged(line, measure, lines[line][measure])
        for line in order
        for measure in MEASURES
        if measure in lines[line]
    ]


def judged(line: tuple[float, int, str], measure: str, values: Values) -> report.Row:
    """One bar, which holds where genprop is better than every other, not where it is as good.

    It is told beside the one that it leads least, over the splits on which that was measured.
    """
    missing, given, view = line
    hidden = f" to draw {view}" if view else ""
    name = f"{measure}, {given} views given{hidden}, {missing:.0%} missing in training"
    sign = 1 if MEASURES[measure] else -1
    duels = []
    for peer, theirs in values.items():
        ours = [
            statistics.fmean(own[split] for split in theirs)
            for contender, own in values.items()
            if contender.startswith(OURS) and theirs.keys() <= own.keys()
        ]
        if ours and not peer.startswith(OURS):
            best, bar = max(sign * x for x in ours), sign * statistics.fmean(theirs.values())
            duels.append((best - bar, sign * best, sign * bar, peer))
    if not duels:
        return report.bar(name, None, "the best of all others", None)
    lead, ours_best, theirs_best, peer = min(duels)
    told = f"{'>' if sign > 0 else '<'} {theirs_best:.4g} ({peer})"
    return report.bar(name, ours_best, told, lead > 0)


def draw(rows: Sequence[report.Row], quick: bool) -> Figure:
    """Each measure over the number of given views, at each missing rate."""
    rates = sorted({row["missing"] for row in rows})
    names = list(dict.fromkeys(row["contender"] for row in rows))
    figure = Figure(figsize=(3.6 * len(rates) + 2.4, 8.0), layout="constrained")
    panels = figure.subplots(len(PLOTTED), len(rates), squeeze=False, sharex=True, sharey="row")
    for column, rate in enumerate(rates):
        panels[0, column].set_title(f"{rate:.0%} of the views missing in training", fontsize=9)
        panels[-1, column].set_xlabel("views given")
        for line, measure in enumerate(PLOTTED):
            panels[line, 0].set_ylabel(measure)
            for number, name in enumerate(names):
                mine = [r for r in rows if (r["contender"], r["missing"]) == (name, rate)]
                points = sorted((r["given"], r[measure]) for r in mine if measure in r)
                style = "o-" if name.startswith(OURS) else "s:"
                colour = f"C{number % 10}"
                at, values = [p[0] for p in points], [p[1] for p in points]
                panels[line, column].plot(at, values, style, color=colour, label=name, ms=3)
            panels[line, column].grid(alpha=0.3)
    labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside right center", fontsize=8)
    if quick:
        figure.suptitle(report.NO_RESULT, fontsize=9)
    return figure


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments, the data's folder among them."""
    made = report.parser("multimodal", __doc__)
    made.add_argument("--splits", type=int, metavar="N", help="random splits (5; quick: 1)")
    made.add_argument("--missing", type=float, nargs="+", metavar="RATE", help="of views")
    made.add_argument("--only", action="append", metavar="NAME", help="contenders with it in name")
    made.add_argument("--more", action="store_true", help="only runs that the file does not hold")
    made.add_argument("--epochs", type=int, metavar="N", help=f"({Effort().epochs})")
    made.add_argument("--chained", type=int, metavar="N", help="test rows that JNF's chains sample")
    made.add_argument("--test", type=int, metavar="N", help="test rows of all contenders (500)")
    made.add_argument("--plot", type=Path, metavar="FILE", help="where a picture is drawn (.png)")
    arguments = report.parse(made, argv)
    if arguments.data is None or not (arguments.data / "mfeat.npz").exists():
        made.error("--data must name a folder with mfeat.npz")
    arguments.splits = arguments.splits or (1 if arguments.quick else 5)
    arguments.missing = arguments.missing or ((0.0, 0.5) if arguments.quick else MISSING)
    if not all(0 <= rate < 1 for rate in arguments.missing):
        made.error("--missing takes shares from 0 to below 1")
    if not chosen(arguments):
        made.error(f"--only {arguments.only} names none of {', '.join(CONTENDERS)}")
    return arguments


def chosen(arguments: argparse.Namespace) -> list[str]:
    """The contenders that were asked for and are installed."""
    gone = absent()
    return [name for name in report.named(CONTENDERS, arguments.only) if name not in gone]


def plan(arguments: argparse.Namespace) -> list[Job]:
    """All jobs, split by split."""
    effort = QUICK if arguments.quick else Effort()
    for name in ("epochs", "chained", "test"):
        if getattr(arguments, name):
            effort = effort._replace(**{name: getattr(arguments, name)})
    return [
        Job(name, missing, split, effort, arguments.data)
        for split in range(arguments.splits)
        for missing in arguments.missing
        for name in chosen(arguments)
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures all contenders; prints a table, writes the JSON and the picture."""
    arguments = parse(argv)
    jobs = plan(arguments)
    runs, commands = report.kept(arguments.json, arguments.quick, "runs")
    commands.append(arguments.command)
    effort = jobs[0].effort
    if other := {made["epochs"] for made in runs} - {effort.epochs}:
        raise SystemExit(f"{arguments.json} has runs of {other} epochs; give --json another file")
    if arguments.more:
        there = {tuple(made[name] for name in RUN_KEY) for made in runs}
        jobs = [job for job in jobs if (job.contender, job.missing, job.split) not in there]
    for made in run_all(run, jobs, _said):
        runs = report.merged(runs, made, RUN_KEY)
        result(arguments, effort, runs, commands).write(arguments.json)
    result(arguments, effort, runs, commands).show(COLUMNS)
    for name in absent():
        report.make_console().print(f"{name} was not measured: multivae is not installed.")
    if arguments.plot is not None:
        means = [row for row in summarise(runs) if not row.get("view")]
        draw([row for row in means if "given" in row], arguments.quick).savefig(arguments.plot)


def result(
    arguments: argparse.Namespace, effort: Effort, runs: list[report.Row], commands: list[str]
) -> report.Report:
    """All runs as a report."""
    table = summarise(runs)
    means = [row for row in table if not row.get("view")]
    more = {
        "commands": commands,
        "runs": runs,
        "views": [row for row in table if row.get("view")],
        "bars_by_view": judge(runs, by_view=True),
        "settings": {**OURS_SETTINGS, **LENT},
        "effort": effort._asdict(),
        "absent": absent(),
        "versions": report.versions(("multivae", "pythae")),
    }
    splits = sorted({made["split"] for made in runs})
    bars = judge(runs, by_view=False)
    return report.Report(
        "multimodal", arguments.quick, arguments.command, splits, means, bars, more
    )


def _said(job: Job, made: Sequence[report.Row]) -> str:
    return "\n".join(_line(job, way) for way in made)


def _line(job: Job, made: report.Row) -> str:
    head = f"split {job.split}, {job.missing:.0%} missing, {made['contender']}"
    if "note" in made:
        return f"{head}: {made['note']}"
    (whole,) = (score for score in made["scores"] if _key(score) == (5, ""))
    scores = ", ".join(f"{m} {report.cell(whole[m])}" for m in MEASURES if m in whole)
    return f"{head}: {scores}, fit {made['fit']:.1f} s, draw {made['draw']:.1f} s"


if __name__ == "__main__":
    main()
