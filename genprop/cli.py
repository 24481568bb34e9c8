"""The command line: genprop demo, fit, sample, impute, evaluate and diagnose."""

import importlib
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from genprop.accounts import (
    checkup_summary,
    checkup_table,
    fit_summary,
    fit_table,
    hidden_summary,
    hidden_table,
    scores_summary,
    scores_table,
)
from genprop.config import ARGUMENTS, MODEL, read_settings, read_toml
from genprop.files import check_place, check_writable, json_text, read_data, write_data
from genprop.sentences import sentence, warnings_as_sentences

BAD_INPUT = 2
READABLE = "A .npy, .npz, .csv, .parquet or IDX file (.gz too), or a folder of modalities' files."
WRITABLE = "File to write: .npy, .npz, .csv or .parquet; without an ending a folder of files."
TABLES = (".csv", ".csv.gz", ".parquet")
MODALITIES = {"hidden": (), "top": (16,), "explain": True}  # how several are fitted by impute
MODEL_FILES = ("config.json", "model.safetensors")
USAGE_ERRORS: Any = typer.BadParameter.__bases__  # UsageError, which typer does not export
FAILURES = (OSError, ValueError, TypeError, FloatingPointError)

app = typer.Typer(
    help="Deep generative models of arrays, tables and images: fit, sample, impute, evaluate.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main(words: Sequence[str] | None = None) -> None:
    """Runs a command and exits; bad input is one sentence on stderr, and status 2.

    Args:
        words: the command line, by default the process's own.
    """
    words = sys.argv[1:] if words is None else list(words)
    with warnings_as_sentences(_say):
        try:
            status = app(words or ["--help"], prog_name="genprop", standalone_mode=False)
        except USAGE_ERRORS as error:
            status = _refused(error.format_message())
        except FAILURES as error:
            status = _refused(sentence(error))
    sys.exit(status or 0)


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"genprop {importlib.metadata.version('genprop')}")
        raise typer.Exit
    return asked


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_version),
    ] = False,
) -> None:
    """Deep generative models of arrays, tables and images: fit, sample, impute, evaluate."""


def _argument(name: str) -> Any:
    """The option for an argument of GenProp; the default is only told: TOML has a say before it."""
    argument = ARGUMENTS[name]
    return typer.Option(
        help=f"{argument.help} [dim]\\[default: {argument.default}][/dim]",
        metavar=argument.kind.metavar or None,
        rich_help_panel="Model" if name in MODEL else "Training",
    )


Data = Annotated[Path, typer.Argument(metavar="DATA", help=READABLE)]
Out = Annotated[Path, typer.Option(help=WRITABLE)]
Key = Annotated[str | None, typer.Option(metavar="NAME", help="The array meant in an .npz file.")]
ModelFolder = Annotated[
    Path, typer.Argument(metavar="MODELDIR", help="The folder that fit saved a model in.")
]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Seed, in place of the one the model was fitted with.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Text = str | None
Switch = bool | None


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("genprop-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of training and sampling.")] = 0,
    json: Json = False,
) -> None:
    """Model handwritten digits: a table of likelihoods, and pictures, in about a minute."""
    check_place(out)
    results = _load("genprop.demo").run_demo(out, seed, None if json else Console())
    if json:
        typer.echo(json_text(results))


@app.command()
def fit(
    data: Data,
    out: Annotated[Path, typer.Option(metavar="MODELDIR", help="Folder to save the model in.")],
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="TOML file of the options below, by their names."),
    ] = None,
    key: Key = None,
    json: Json = False,
    hidden: Annotated[Text, _argument("hidden")] = None,
    visible: Annotated[Text, _argument("visible")] = None,
    latent: Annotated[Text, _argument("latent")] = None,
    top: Annotated[Text, _argument("top")] = None,
    prior: Annotated[Text, _argument("prior")] = None,
    rule: Annotated[Text, _argument("rule")] = None,
    samples: Annotated[Text, _argument("samples")] = None,
    units: Annotated[Text, _argument("units")] = None,
    activation: Annotated[Text, _argument("activation")] = None,
    skip: Annotated[Switch, _argument("skip")] = None,
    dropout: Annotated[Text, _argument("dropout")] = None,
    regress: Annotated[Switch, _argument("regress")] = None,
    weights: Annotated[Text, _argument("weights")] = None,
    hide: Annotated[Text, _argument("hide")] = None,
    explain: Annotated[Switch, _argument("explain")] = None,
    practise: Annotated[Switch, _argument("practise")] = None,
    balance: Annotated[Text, _argument("balance")] = None,
    missing: Annotated[Text, _argument("missing")] = None,
    epochs: Annotated[Text, _argument("epochs")] = None,
    batch_size: Annotated[Text, _argument("batch_size")] = None,
    lr: Annotated[Text, _argument("lr")] = None,
    optimizer: Annotated[Text, _argument("optimizer")] = None,
    weight_decay: Annotated[Text, _argument("weight_decay")] = None,
    schedule: Annotated[Text, _argument("schedule")] = None,
    clip: Annotated[Text, _argument("clip")] = None,
    validation: Annotated[Text, _argument("validation")] = None,
    held_out: Annotated[Text, _argument("held_out")] = None,
    patience: Annotated[Text, _argument("patience")] = None,
    device: Annotated[Text, _argument("device")] = None,
    precision: Annotated[Text, _argument("precision")] = None,
    compile: Annotated[Switch, _argument("compile")] = None,
    random_state: Annotated[Text, _argument("random_state")] = None,
    verbose: Annotated[Text, _argument("verbose")] = None,
) -> None:
    """Fit a model to data and save it. What is left out comes from the TOML file, if any."""
    written = {name: value for name, value in locals().items() if name in ARGUMENTS}
    settings = read_toml(config) if config else {}
    settings |= read_settings(written, lambda name: f"--{name.replace('_', '-')}")
    _check_model_folder(out)
    X = read_data(data, key)
    model = _load("genprop.estimator").GenProp(**settings).fit(X)
    model.save(out)
    summary = {"data": data, **fit_summary(model, X), "model": out}
    _show(summary, fit_table(summary), json)


@app.command()
def sample(
    model_folder: ModelFolder,
    out: Out,
    n: Annotated[int, typer.Option(min=1, help="How many; of each given row, if any.")] = 100,
    seed: Seed = None,
    given: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Rows with missing cells to complete, n times each."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Picture of what is given beside what is drawn, as a .png.")
    ] = None,
    key: Key = None,
) -> None:
    """Draw rows from a model."""
    check_writable(out)
    if plot is not None:
        if given is None:
            raise ValueError("--plot shows draws beside what is given; name rows by --given.")
        _load("genprop.plots").check_picture(plot)
    model = _loaded(model_folder)
    rows = None if given is None else _rows(given, key, model)
    if plot is not None:
        _load("genprop.modal_plots").check_drawable(model.encodings_)
    drawn = model.sample(n, given=rows, random_state=seed)
    write_data(out, _rows_named(drawn))
    if plot is not None:
        _load("genprop.plots").save_figure(
            _load("genprop.modal_plots").completions(rows, drawn), plot
        )
    of_each = "" if given is None else f" of each row of {given}"
    _say(f"Wrote {_counted(n, 'sample')}{of_each} to {out}")


@app.command()
def impute(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="[MODELDIR] DATA", help="The model's folder, unless --fit; rows."),
    ],
    out: Out,
    fit: Annotated[bool, typer.Option("--fit", help="Fit a model to the rows first.")] = False,
    draws: Annotated[int, typer.Option(min=1, help="Completions of each row.")] = 5,
    method: Annotated[
        str,
        typer.Option(
            help="auto, sir, prior, gibbs, hmc, mean, map; of donors residuals, neighbours."
        ),
    ] = "auto",
    samples: Annotated[
        int, typer.Option(min=1, help="Paths from which each draw is resampled.")
    ] = 200,
    donors: Annotated[Path | None, typer.Option(help="Rows that lend what others lack.")] = None,
    seed: Seed = None,
    key: Key = None,
) -> None:
    """Complete rows: missing cells are drawn given the others, which stay as they are.

    The draws come one after the other: as the first axis of an array, as blocks of a table.
    """
    check_writable(out)
    if len(paths) != (1 if fit else 2):
        wanted = "DATA alone" if fit else "MODELDIR and DATA, or --fit and DATA"
        raise ValueError(f"Expected {wanted}, but got {' '.join(map(str, paths))}.")
    model = None if fit else _loaded(paths[0])
    X = _rows(paths[-1], key, model)
    draws = 1 if method in _load("genprop.tables.imputation").SINGLE else draws
    model = model or _imputer(X, seed)
    how = {"draws": draws, "method": method, "samples": samples, "random_state": seed}
    how["donors"] = None if donors is None else _rows(donors, key, model)
    write_data(out, _rows_named(model.impute(X, **how)))
    _say(f"Wrote {_counted(draws, 'completion')} of {paths[-1]} to {out}")


@app.command()
def evaluate(
    model_folder: ModelFolder,
    data: Data,
    method: Annotated[
        str,
        typer.Option(
            help="auto (exact where that is possible, else importance), exact, importance, "
            "annealed, csl, biased-csl, deterministic or, with --given, predictive."
        ),
    ] = "auto",
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Samples for each row; 1000 of importance sampling by default."),
    ] = None,
    seed: Seed = None,
    out: Annotated[
        Path | None, typer.Option(help="Table to write, one line a row: .csv or .parquet.")
    ] = None,
    hide: Annotated[
        float | None,
        typer.Option(help="Hide this share of the cells instead, draw them, and compare."),
    ] = None,
    mechanism: Annotated[
        str, typer.Option(help="Which cells to hide: mcar, mar, self or quantile.")
    ] = "mcar",
    draws: Annotated[int, typer.Option(min=2, help="Draws of each hidden cell.")] = 50,
    given: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Modalities, by commas: log P(rest | these) instead."),
    ] = None,
    parts: Annotated[
        Path | None,
        typer.Option(help="Folder where parts are kept, to go on after an interruption."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="That share the rows; --parts.")] = 1,
    key: Key = None,
    json: Json = False,
) -> None:
    """Estimate log P(x) of rows, or how well hidden cells are drawn, and how far to trust it."""
    if out is not None:
        check_writable(out, TABLES)
    if processes > 1 and parts is None:
        raise ValueError("Processes share what --parts keeps; name a folder by it.")
    if hide is not None and given is not None:
        raise ValueError("--hide draws what it hides itself; leave --given out.")
    model = _loaded(model_folder)
    X = _rows(data, key, model)
    if hide is not None:
        judge = _load("genprop.tables.hidden_cells").evaluate_hidden
        summary = hidden_summary(
            judge(model, X, hide, mechanism, draws, seed), hide, mechanism, draws
        )
        _show(summary, hidden_table(summary), json)
        return
    names = [name.strip() for name in given.split(",")] if given else []
    how = {"method": method, "samples": samples, "random_state": seed, "given": names or None}
    if parts is None:
        estimate = model.log_likelihood(X, **how)
    else:
        estimate = _load("genprop.shards").sharded(model, X, parts, processes=processes, **how)
    if out is not None:
        table = estimate.to_pandas()
        table.index = getattr(X, "index", table.index)
        write_data(out, table)
        _say(f"Wrote {_counted(estimate.rows, 'row')} to {out}")
    scores = scores_summary(estimate, names)
    _show(scores, scores_table(scores), json)


@app.command()
def diagnose(
    model_folder: ModelFolder,
    data: Data,
    rows: Annotated[int, typer.Option(min=1, help="The first so many rows of the data.")] = 8,
    chains: Annotated[int, typer.Option(min=1, help="Chains of each row.")] = 4,
    draws: Annotated[int, typer.Option(min=4, help="Draws of each chain.")] = 500,
    warmup: Annotated[int, typer.Option(min=0, help="Transitions before the first draw.")] = 500,
    seed: Seed = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("genprop-diagnosis"),
    key: Key = None,
    json: Json = False,
) -> None:
    """Sample the hidden values of rows by Markov chains, and say how far to trust such chains."""
    check_place(out)
    model = _loaded(model_folder)
    X = _rows(data, key, model)
    examine = _load("genprop.checkup").check_up
    checkup = examine(model, X, rows, chains, draws, warmup, random_state=seed)
    summary = checkup_summary(checkup, checkup.write_pictures(out))
    _show(summary, checkup_table(summary), json)


def _rows(path: Path, key: str | None, model: Any) -> Any:
    """Rows for a model; those of one of its several modalities alone keep that one's name."""
    known = list(getattr(model, "encodings_", ["x"]))
    return read_data(path, key, [] if known == ["x"] else known)


def _rows_named(drawn: Any) -> Any:
    """Tables keyed by draw and row with both names written above them; all else as it is."""
    if isinstance(drawn, dict):
        return {name: _rows_named(part) for name, part in drawn.items()}
    names: Any = getattr(getattr(drawn, "index", None), "names", ())
    return drawn.rename_axis(["draw", names[1] or "row"]) if len(names) == 2 else drawn


def _load(module: str) -> Any:
    """A module that takes seconds to import, for which `--help` does not wait."""
    return importlib.import_module(module)


def _loaded(folder: Path) -> Any:
    return _load("genprop.estimator").GenProp.load(folder)


def _imputer(X: Any, seed: int | None) -> Any:
    """Models of the rows, their size fitted to them; what they made of the columns is told."""
    if isinstance(X, dict):
        kind, how = _load("genprop.estimator").GenProp, MODALITIES
    else:
        kind, how = _load("genprop.tables.imputer").GenPropImputer, {"n_jobs": -1}
    imputer = kind(**how, random_state=seed or 0, verbose=1).fit(X)
    models = getattr(imputer, "models_", [imputer])
    model, count = models[0], len(models)
    summary = {"data": "fitted to", **fit_summary(model, X), "members": count, "model": "no folder"}
    Console(stderr=True).print(fit_table(summary))
    return imputer


def _show(content: Mapping[str, Any], table: RenderableType, json: bool) -> None:
    if json:
        typer.echo(json_text(dict(content)))
    else:
        Console().print(table)


def _counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _check_model_folder(folder: Path) -> None:
    """Likewise if no model can be saved there: only a model of ours is ever replaced."""
    check_place(folder)
    if any((folder / name).exists() for name in MODEL_FILES):
        _load("genprop.persistence").load(folder)


def _refused(why: str) -> int:
    _say(f"genprop: {why}")
    return BAD_INPUT
