"""What commands tell of their work: plain values for JSON, and tables of them for a person."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from genprop.holes import missing_cells


def fit_summary(model: Any, X: Any) -> dict[str, Any]:
    """What was fitted, and how well, in plain values."""
    history = model.history_
    known = history["validation"].notna().any()
    best = history.iloc[int(history["validation"].argmin()) if known else -1]
    prior = model.model_.summit
    above = (s for name, s in model.model_.all_stacks() if name not in model.encodings_)
    return {
        "rows": len(next(iter(X.values())) if isinstance(X, dict) else X),
        "modalities": {name: _modality(model, name, X) for name in model.encodings_},
        "top": [_sizes(stack) for stack in above],
        "prior": " ".join([type(prior).__name__, getattr(prior, "covariance", "")]).strip(),
        "rule": model.rule,
        "samples": model.samples,
        "epochs": len(history),
        "best_epoch": int(best["epoch"]),
        "train": float(best["train"]),
        "validation": float(best["validation"]),
        "seconds": float(history["seconds"].sum()),
    }


def _modality(model: Any, name: str, X: Any) -> dict[str, Any]:
    encoding, stack = model.encodings_[name], model.model_.stacks[name]
    return {
        "event": encoding.event,
        "missing": missing_cells(np.asarray(X[name] if isinstance(X, dict) else X)).mean(),
        "family": encoding.family,
        "layers": _sizes(stack),
        "standardised": bool(encoding.scale),
        "columns": encoding.report().to_dict("records") if encoding.family == "columns" else [],
    }


def _sizes(stack: Any) -> list[int]:
    return [stack.elements, *(layer.above for layer in stack.layers)]


def fit_table(summary: Mapping[str, Any]) -> Table:
    """The summary of a fit."""
    table = _grid()
    table.add_row("data", f"{summary['data']}: {summary['rows']:,} rows")
    for name, part in summary["modalities"].items():
        table.add_row("modality", f"{name}: {_described(part)}")
        for column in part["columns"]:
            table.add_row("", f"{column['column']}: {column['family']} ({column['why']})")
    for sizes in summary["top"]:
        table.add_row("top", f"the codes side by side, {_layers(sizes)}")
    table.add_row("prior", summary["prior"])
    table.add_row("rule", f"{summary['rule']}, {summary['samples']} samples a row")
    if summary.get("members", 1) > 1:
        table.add_row("members", f"{summary['members']} models, by seed; told is the first")
    table.add_row("epochs", f"{summary['epochs']}, the best was {summary['best_epoch']}")
    table.add_row("bound", _bounds(summary))
    table.add_row("saved in", str(summary["model"]))
    return table


def _described(part: Mapping[str, Any]) -> str:
    event = part["event"] or (1,)
    shape = " by ".join(f"{size:,}" for size in event)
    columns = "" if len(event) > 1 else " column" if event[0] == 1 else " columns"
    missing = f"{part['missing']:.1%} missing"
    return f"{shape}{columns}, {missing}, {part['family']}, {_layers(part['layers'])}"


def _layers(sizes: Sequence[int]) -> str:
    return f"layers {'-'.join(str(size) for size in sizes)}"


def _bounds(summary: Mapping[str, Any]) -> str:
    held = "" if np.isnan(summary["validation"]) else f", {summary['validation']:.2f} validation"
    scaled = any(part["standardised"] for part in summary["modalities"].values())
    unit = "nats a row of standardised columns" if scaled else "nats a row"
    return f"{summary['train']:.2f} training{held} (on -log P(x), {unit})"


def scores_summary(estimate: Any, given: Sequence[str] = ()) -> dict[str, Any]:
    """An estimate of log P(x), or given some modalities of the others, over all rows."""
    return {
        "given": list(given),
        "log_prob": estimate.mean,
        "std_error": estimate.mean_std_error,
        "bits_per_dimension": estimate.bits_per_dimension,
        "rows": estimate.rows,
        "median_ess": float(np.median(estimate.ess)),
        "khat_above_0.7": estimate.unreliable,
        "samples": estimate.samples,
        "bound": estimate.bound,
        "method": estimate.method,
    }


def scores_table(scores: Mapping[str, Any]) -> Table:
    """The summary of an estimate."""
    table = _grid()
    mean, error = scores["log_prob"], scores["std_error"]
    what = f"log P(rest | {', '.join(scores['given'])})" if scores["given"] else "log P(x)"
    table.add_row(what, f"{mean:.2f} ± {error:.2f} nats a row, of {scores['rows']:,} rows")
    if not np.isnan(scores["bits_per_dimension"]):
        table.add_row("", f"{scores['bits_per_dimension']:.4f} bits a seen variable (-log2 P)")
    table.add_row("estimate", _estimated(scores))
    if scores["samples"]:
        table.add_row("ESS", f"{scores['median_ess']:.0f} (median of the rows)")
        table.add_row("k-hat", f"above 0.7 in {scores['khat_above_0.7']:.0%} of the rows")
    return table


def _estimated(scores: Mapping[str, Any]) -> str:
    if not scores["samples"] and scores["bound"] == "point":
        return f"exact, by {scores['method']}"
    side = {"point": "value"}.get(scores["bound"], f"{scores['bound']} bound")
    effort = f", {scores['samples']:,} samples" if scores["samples"] else ""
    return f"{side} by {scores['method']}{effort}"


def hidden_summary(found: Any, rate: float, mechanism: str, draws: int) -> dict[str, Any]:
    """How draws of hidden cells, or of hidden modalities, compare with the truth."""
    how = {"rate": rate, "mechanism": mechanism, "draws": draws}
    if hasattr(found, "scores"):
        return {**how, "modalities": found.scores.to_dict("records")}
    return {
        **how,
        "numbers": found.numbers.to_dict("index"),
        "categories": found.categories.to_dict("index"),
        "coverage_90": found.coverage(0.9),
        "crps": found.mean("crps") if len(found.numbers) else np.nan,
        "accuracy": found.mean("accuracy") if len(found.categories) else np.nan,
    }


def hidden_table(summary: Mapping[str, Any]) -> RenderableType:
    """The summary of hidden cells, a line for each column, or of hidden modalities."""
    s, grid = summary, _grid()
    grid.add_row("hidden", f"{s['rate']:.0%} of the cells, {s['mechanism']}; {s['draws']} draws")
    if "modalities" in s:
        return Group(grid, _modalities_table(s["modalities"]))
    kinds = {
        "numbers": {"RMSE, sd": "rmse", "CRPS, sd": "crps", "in 90 %": "coverage_90",
                    "width, sd": "width_90"},
        "categories": {"accuracy": "accuracy", "log score": "log", "Brier": "brier"},
    }  # fmt: skip
    parts: list[RenderableType] = [grid]
    for kind, columns in kinds.items():
        if s[kind]:
            table = Table(title=kind, title_justify="left")
            for heading in ("column", "cells", *columns):
                table.add_column(heading, justify="left" if heading == "column" else "right")
            for name, line in s[kind].items():
                scores = (f"{line[score]:.3f}" for score in columns.values())
                table.add_row(name, f"{line['cells']:.0f}", *scores)
            parts.append(table)
    return Group(*parts)


def _modalities_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="each hidden whole given the others; cells of all", title_justify="left")
    for heading in ("modality", "hidden", "score"):
        table.add_column(heading)
    for heading in ("cells", "drawn", "baseline"):
        table.add_column(heading, justify="right")
    for line in lines:
        words = (line["modality"], line["hidden"], line["score"], f"{line['cells']:,}")
        table.add_row(*words, f"{line['drawn']:.3f}", f"{line['baseline']:.3f}")
    return table


def checkup_summary(checkup: Any, pictures: Sequence[Path]) -> dict[str, Any]:
    """What chains of a model's hidden values say of themselves, and where it is drawn."""
    found = checkup.diagnosis
    return {
        "rows": found.acceptance.size,
        "sampler": type(checkup.kernel).__name__,
        "chains": found.chains,
        "draws": found.draws,
        "warmup": checkup.warmup,
        "acceptance": float(found.acceptance.mean()),
        "least_acceptance": float(found.acceptance.min()),
        "divergences": int(found.divergences.sum()),
        "variables": found.to_pandas().to_dict("index"),
        "worst": checkup.worst().to_dict("records"),
        "trusted": found.trusted,
        "verdict": found.verdict,
        "pictures": list(pictures),
    }


def checkup_table(summary: Mapping[str, Any]) -> RenderableType:
    """The summary of chains: how they ran, the worst and the median, the worst ones, a verdict."""
    s, grid = summary, _grid()
    length = f"{s['chains']} chains of {s['draws']:,} draws after {s['warmup']:,}"
    grid.add_row("sampler", f"{s['sampler']}, {length}, in each of {s['rows']:,} rows")
    least = f"{s['least_acceptance']:.2f} in the row with the least"
    grid.add_row("acceptance", f"{s['acceptance']:.2f}, {least}")
    grid.add_row("divergences", f"{s['divergences']:,}")
    parts = [grid, _variables_table(s["variables"])]
    if s["worst"]:
        parts.append(_worst_table(s["worst"]))
    end = _grid()
    end.add_row("verdict", s["verdict"])
    if s["pictures"]:
        end.add_row("pictures", ", ".join(str(path) for path in s["pictures"]))
    return Group(*parts, end)


def _variables_table(variables: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="of all rows: the worst, the median", title_justify="left")
    table.add_column("level")
    for heading in ("elements", "R-hat", "bulk ESS", "tail ESS", "MCSE / sd"):
        table.add_column(heading, justify="right")
    for name, v in variables.items():
        moving = f"{v['coordinates'] - v['still']:.0f}"
        rhat = f"{v['rhat_worst']:.3f}, {v['rhat_median']:.3f}"
        ess = (f"{v[f'{e}_worst']:.0f}, {v[f'{e}_median']:.0f}" for e in ("ess_bulk", "ess_tail"))
        table.add_row(name, moving, rhat, *ess, f"{v['mcse_worst']:.3f}, {v['mcse_median']:.3f}")
    return table


def _worst_table(worst: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="the worst coordinates", title_justify="left")
    table.add_column("coordinate")
    for heading in ("mean", "sd", "MCSE", "R-hat", "bulk ESS", "tail ESS"):
        table.add_column(heading, justify="right")
    for w in worst:
        law = (f"{w[part]:.3f}" for part in ("mean", "sd", "mcse", "rhat"))
        ess = (f"{w[part]:.0f}" for part in ("ess_bulk", "ess_tail"))
        table.add_row(f"{w['variable']}[{w['element']}] in row {w['row']}", *law, *ess)
    return table


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    return table
