"""The command line: every command, every kind of file, and one sentence where it cannot."""

import gzip
import inspect
import json
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from genprop import GenProp, cli
from genprop.accounts import checkup_summary
from genprop.checkup import check_up
from genprop.config import ARGUMENTS, read_settings
from genprop.files import json_text

QUICK = ("--hidden", "3,2", "--units", "8", "--epochs", "2", "--random-state", "0")
SIR = ("--method", "sir", "--seed", "1")
COLUMNS = ["height", "width", "depth", "weight"]


class Done(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """What a command says that could not do its work: one line."""
        assert self.status == 2
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("genprop: ")
        return line.removeprefix("genprop: ")


Genprop = Callable[..., Done]


@pytest.fixture
def genprop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Genprop:
    """Runs a command line in an empty folder, as the script does."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Done:
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in words])
        written = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return Done(stop.value.code, written.out, written.err)

    return run


def table(rows: int = 24, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    values = rng.normal(5.0, 2.0, (rows, len(COLUMNS)))
    values[rng.random(values.shape) < 0.2] = np.nan
    return pd.DataFrame(values, columns=COLUMNS)


def images(rows: int = 24) -> np.ndarray:
    return (np.random.default_rng(0).random((rows, 3, 2)) < 0.5).astype(np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a table, saved."""
    folder = tmp_path_factory.mktemp("fitted") / "model"
    small = {"hidden": (3, 2), "units": (8,), "epochs": 2, "random_state": 0, "verbose": 0}
    GenProp(**small).fit(table()).save(folder)
    return folder


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior of the table itself, without a layer, saved."""
    folder = tmp_path_factory.mktemp("fitted") / "flat"
    GenProp(hidden=(), prior="full", epochs=1, verbose=0).fit(table()).save(folder)
    return folder


def write_idx(path: Path) -> None:
    values = images()
    header = struct.pack(">HBB3I", 0, 8, 3, *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes()))


def arrays(name: str) -> list[np.ndarray]:
    with np.load(name) as archive:
        return list(archive.values())


WRITERS: dict[str, Callable[[Path], object]] = {
    "rows.npy": lambda path: np.save(path, table().to_numpy()),
    "images.npy": lambda path: np.save(path, images()),
    "rows.npz": lambda path: np.savez(path, x=table().to_numpy()),
    "parts.npz": lambda path: np.savez(path, image=images(), size=table().to_numpy()),
    "rows.csv": lambda path: table().to_csv(path, index=False),
    "rows.csv.gz": lambda path: table().to_csv(path, index=False),
    "rows.parquet": lambda path: table().to_parquet(path),
    "digits-idx3-ubyte.gz": write_idx,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_fitted_drawn_completed_and_scored(genprop: Genprop, name: str) -> None:
    WRITERS[name](Path(name))
    ending = ".csv" if name.startswith("rows") else ".npz"
    fitted = genprop("fit", name, "--out", "model", *QUICK)
    assert (fitted.status, fitted.err) == (0, "")
    assert "24 rows" in fitted.out
    drawn = genprop("sample", "model", "--n", 3, "--out", f"drawn{ending}")
    assert (drawn.status, drawn.out) == (0, "")
    likely = genprop("impute", "model", name, "--method", "map", "--out", f"full{ending}")
    assert (likely.status, likely.err) == (0, f"Wrote 1 completion of {name} to full{ending}\n")
    filled = genprop("impute", "model", name, "--draws", 2, "--out", f"full{ending}", *SIR)
    assert filled.status == 0
    scored = genprop("evaluate", "model", name, "--samples", 10, "--json")
    assert json.loads(scored.out)["rows"] == 24
    if ending == ".npz":
        assert {part.shape[:2] for part in arrays("full.npz")} == {(2, 24)}
        assert {len(part) for part in arrays("drawn.npz")} == {3}
    else:
        whole = pd.read_csv("full.csv")
        assert whole.shape == (48, 2 + 4)
        assert not whole.isna().any(axis=None)
        assert pd.read_csv("drawn.csv").shape == (3, 4)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".csv", ".csv.gz", ".parquet"])
def test_samples_are_written_in_every_format(genprop: Genprop, model: Path, ending: str) -> None:
    done = genprop("sample", model, "--n", 5, "--out", f"new{ending}", "--seed", 1)
    assert done.err == f"Wrote 5 samples to new{ending}\n"
    assert Path(f"new{ending}").stat().st_size


def test_seeds_make_samples_again(genprop: Genprop, model: Path) -> None:
    for name, seed in (("a.npy", 1), ("b.npy", 1), ("c.npy", 2)):
        genprop("sample", model, "--n", 2, "--out", name, "--seed", seed)
    assert np.array_equal(np.load("a.npy"), np.load("b.npy"))
    assert not np.array_equal(np.load("a.npy"), np.load("c.npy"))


def test_rows_of_a_file_lend_what_others_lack(genprop: Genprop, model: Path) -> None:
    table().to_csv("rows.csv", index=False)
    lent = ("--method", "neighbours", "--donors", "rows.csv", "--draws", 2)
    done = genprop("impute", model, "rows.csv", "--out", "full.csv", *lent)
    assert done.err == "Wrote 2 completions of rows.csv to full.csv\n"
    known, full = pd.read_csv("rows.csv"), pd.read_csv("full.csv")
    for column in known:
        # one has the digits of the model's precision
        apart = np.abs(full[column].to_numpy()[:, None] - known[column].dropna().to_numpy())
        assert apart.min(1).max() < 1e-5


def test_observed_cells_come_back_letter_by_letter(genprop: Genprop, model: Path) -> None:
    table().to_csv("rows.csv", index=False)
    done = genprop("impute", model, "rows.csv", "--draws", 3, "--out", "full.csv", "--samples", 10)
    assert done.err == "Wrote 3 completions of rows.csv to full.csv\n"
    head, *rows = (line.split(",") for line in Path("rows.csv").read_text().splitlines())
    named, *filled = (line.split(",") for line in Path("full.csv").read_text().splitlines())
    assert named == ["draw", "row", *head]
    for place, line in enumerate(filled):
        draw, row = divmod(place, len(rows))
        assert line[:2] == [str(draw), str(row)]
        assert all(new == old if old else new for old, new in zip(rows[row], line[2:], strict=True))


def test_one_step_fits_and_imputes_a_table_of_many_kinds(genprop: Genprop) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"n": rng.normal(size=30), "c": rng.choice(["u", "v"], 30)})
    frame.mask(rng.random(frame.shape) < 0.3).to_csv("holes.csv", index=False)
    done = genprop("impute", "holes.csv", "--fit", "--draws", 2, "--out", "full.csv", *SIR)
    assert "c: category (2 different texts)" in " ".join(done.err.split())
    assert "Wrote 2 completions of holes.csv to full.csv" in done.err
    assert pd.read_csv("full.csv").notna().all(axis=None)
    two = genprop("impute", "holes.csv", "--draws", 2, "--out", "full.csv")
    assert two.status == 2
    assert "Expected MODELDIR and DATA, or --fit and DATA" in two.err


def test_one_step_fits_and_imputes_modalities(genprop: Genprop) -> None:
    size = np.random.default_rng(0).normal(size=(40, 2))
    label = np.where(np.arange(40) < 5, np.nan, size[:, 0] > 0)
    np.savez("holes.npz", size=size, label=label)
    done = genprop("impute", "holes.npz", "--fit", "--draws", 2, "--out", "full.npz")
    assert "modality  label: 1 column," in done.err
    with np.load("full.npz") as full:
        assert (full["size"] == size).all()
        assert (full["label"][:, 5:] == label[5:]).all()
        assert np.isin(full["label"], (0, 1)).all()


def test_hidden_cells_are_drawn_and_compared(genprop: Genprop, model: Path) -> None:
    table().to_csv("rows.csv", index=False)
    words = ("evaluate", model, "rows.csv", "--hide", 0.3, "--draws", 5, "--seed", 0)
    told = json.loads(genprop(*words, "--json").out)
    assert told["rate"] == 0.3
    assert told["mechanism"] == "mcar"
    assert {**told["numbers"], **told["categories"]}
    assert told["draws"] == 5
    assert "30% of the cells, mcar; 5 draws" in genprop(*words).out


def test_modalities_are_hidden_and_given(genprop: Genprop) -> None:
    WRITERS["parts.npz"](Path("parts.npz"))
    genprop("fit", "parts.npz", "--out", "model", *QUICK)
    words = ("evaluate", "model", "parts.npz", "--json")
    hidden = json.loads(genprop(*words, "--hide", 0.3, "--draws", 2).out)["modalities"]
    assert [(line["modality"], line["hidden"]) for line in hidden] == [
        (name, what) for name in ("image", "size") for what in ("whole", "cells")
    ]
    few = ("--samples", 50, "--seed", 0)
    told = json.loads(genprop(*words, "--given", "image", *few).out)
    X = {"image": images(), "size": table().to_numpy()}
    same = GenProp.load("model").log_likelihood(X, given=["image"], samples=50, random_state=0)
    assert told["log_prob"] == pytest.approx(same.mean)
    assert told["given"] == ["image"]
    assert "given names" in genprop(*words, "--given", "foo").sentence
    assert "leave --given out" in genprop(*words, "--given", "image", "--hide", 0.3).sentence


def test_names_of_rows_are_kept(genprop: Genprop, model: Path) -> None:
    named = table(3).set_index(pd.Index(["ann", "bob", "cid"], name="who"))
    named.to_csv("rows.csv")
    pd.read_csv("rows.csv").set_index("who").to_parquet("rows.parquet")
    genprop("impute", model, "rows.parquet", "--draws", 1, "--out", "full.parquet")
    assert pd.read_parquet("full.parquet").index.names == ["draw", "who"]
    genprop("evaluate", model, "rows.parquet", "--samples", 10, "--out", "scores.csv")
    scores = pd.read_csv("scores.csv", index_col="who")
    assert list(scores)[:4] == ["log_prob", "std_error", "ess", "khat"]
    assert list(scores.index) == ["ann", "bob", "cid"]


def test_samples_given_rows_are_their_completions(genprop: Genprop, model: Path) -> None:
    table(5).to_parquet("rows.parquet")
    words = ("--out", "drawn.csv", "--given", "rows.parquet")
    done = genprop("sample", model, "--n", 2, *words)
    assert done.err == "Wrote 2 samples of each row of rows.parquet to drawn.csv\n"
    drawn = pd.read_csv("drawn.csv")
    assert len(drawn) == 10
    seen = table(5).notna()
    pd.testing.assert_frame_equal(drawn.loc[5:, COLUMNS].reset_index(drop=True)[seen], table(5))


def test_draws_beside_what_is_given_are_a_picture(genprop: Genprop) -> None:
    WRITERS["parts.npz"](Path("parts.npz"))
    genprop("fit", "parts.npz", "--out", "model", *QUICK)
    np.savez("given.npz", image=images(2), size=np.full((2, len(COLUMNS)), np.nan))
    words = ("sample", "model", "--n", 2, "--out", "new.npz")
    assert genprop(*words, "--given", "given.npz", "--plot", "new.png").status == 0
    assert Path("new.png").read_bytes().startswith(b"\x89PNG")
    assert "name rows by --given" in genprop(*words, "--plot", "other.png").sentence
    wrong = genprop(*words, "--given", "given.npz", "--plot", "new.txt").sentence
    assert wrong.startswith("Expected a file that ends in")


ANGLES = np.linspace(0, 3, 30)
SIDES = {"left": np.cos(ANGLES)[:, None], "right": np.sin(ANGLES)[:, None], "label": ANGLES // 1}


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two sides and a label, of which some miss, saved."""
    folder = tmp_path_factory.mktemp("fitted") / "sides"
    small = {"hidden": (), "top": (2,), "epochs": 1, "random_state": 0, "verbose": 0}
    label = np.where(np.arange(30) % 3 == 0, np.nan, SIDES["label"])
    GenProp(**small).fit({**SIDES, "label": label}).save(folder)
    return folder


@pytest.mark.parametrize("words", ["left.npz", "all.npz --key left", "left.npy", "folder"])
def test_other_modalities_are_drawn_given_one_however_it_is_kept(
    genprop: Genprop, sides: Path, words: str
) -> None:
    Path("folder").mkdir()
    for name in ("left.npy", "folder/left.npy"):
        np.save(name, SIDES["left"])
    np.savez("left.npz", left=SIDES["left"])
    np.savez("all.npz", **SIDES)
    done = genprop("sample", sides, "--given", *words.split(), "--n", 2, "--out", "new.npz")
    assert done.status == 0
    with np.load("new.npz") as drawn:
        shapes = {name: part.shape for name, part in drawn.items()}
        np.testing.assert_array_equal(drawn["left"], np.stack([SIDES["left"]] * 2))
        assert drawn["label"].dtype == np.int64
    assert shapes == {name: (2, *side.shape) for name, side in SIDES.items()}
    for method in ("sir", "mean"):
        full = ("--out", f"{method}.npz", "--method", method)
        assert genprop("impute", sides, *words.split(), *full).status == 0
    scored = genprop("evaluate", sides, *words.split(), "--samples", 10, "--seed", 0, "--json")
    expected = GenProp.load(sides).log_likelihood(
        {"left": SIDES["left"]}, samples=10, random_state=0
    )
    assert json.loads(scored.out)["log_prob"] == pytest.approx(expected.mean)


def test_a_folder_is_fitted_completed_and_drawn_as_a_folder(genprop: Genprop) -> None:
    Path("rows").mkdir()
    np.save("rows/left.npy", SIDES["left"])
    pd.DataFrame({"a": ANGLES, "b": np.where(ANGLES > 1, "u", "v")}).to_csv("rows/table.csv")
    words = np.array(["no", "", "yes", "yes"])[SIDES["label"].astype(int)]
    pd.DataFrame({"label": words}).to_csv("rows/label.csv", index=False)
    told = json.loads(genprop("fit", "rows", "--out", "model", *QUICK, "--json").out)
    families = {name: part["family"] for name, part in told["modalities"].items()}
    assert families == {"label": "categorical", "left": "gaussian", "table": "columns"}
    assert told["modalities"]["label"]["missing"] == pytest.approx((words == "").mean())
    assert genprop("sample", "model", "--n", 4, "--out", "new").status == 0
    scored = genprop("evaluate", "model", "new", "--samples", 10, "--json")
    assert json.loads(scored.out)["rows"] == 4
    assert genprop("impute", "model", "rows", "--draws", 2, "--out", "full", *SIR).status == 0
    full = np.load("full/label.npy")
    assert (full[:, words != ""] == words[words != ""]).all()
    assert set(full.ravel()) <= {"no", "yes"}
    assert list(pd.read_csv("full/table.csv")) == ["draw", "row", "a", "b"]


def test_fit_tells_what_it_did(genprop: Genprop) -> None:
    WRITERS["parts.npz"](Path("parts.npz"))
    sizes = "image=3,2 size=2"
    done = genprop("fit", "parts.npz", "--out", "model", *QUICK, "--hidden", sizes, "--json")
    told = json.loads(done.out)
    assert told["rows"] == 24
    assert told["modalities"]["image"]["layers"] == [6, 3, 2]
    assert told["modalities"]["image"]["family"] == "bernoulli"
    assert told["modalities"]["size"]["layers"] == [4, 2]
    assert told["modalities"]["size"]["missing"] == pytest.approx(table().isna().mean(axis=None))
    assert told["prior"] == "MixturePrior full"
    assert told["epochs"] == 2
    assert np.isfinite([told["train"], told["validation"]]).all()
    assert GenProp.load("model").hidden == {"image": (3, 2), "size": (2,)}
    assert told["top"] == []
    genprop("fit", "parts.npz", "--key", "image", "--out", "one", *QUICK)
    assert GenProp.load("one").n_features_in_ == 3


def test_fit_tells_of_what_is_above_all_modalities(genprop: Genprop) -> None:
    WRITERS["parts.npz"](Path("parts.npz"))
    how = ["parts.npz", "--out", "model", *QUICK, "--hidden", "image=3,2 size=2", "--top", 3]
    told = json.loads(genprop("fit", *how, "--json").out)
    assert told["top"] == [[4, 3]]
    assert told["prior"] == "GaussianPrior standard"
    assert "the codes side by side, layers 4-3" in genprop("fit", *how).out


def test_evaluation_is_an_estimate_with_its_error(genprop: Genprop, model: Path) -> None:
    table().to_csv("rows.csv", index=False)
    words = ("evaluate", model, "rows.csv", "--samples", 20, "--seed", 0)
    told = json.loads(genprop(*words, "--json").out)
    estimate = GenProp.load(model).log_likelihood(table(), samples=20, random_state=0)
    assert told["log_prob"] == pytest.approx(estimate.mean)
    assert told["std_error"] == pytest.approx(estimate.mean_std_error)
    assert (told["samples"], told["bound"]) == (20, "lower")
    plain = genprop(*words, "--out", "scores.csv")
    assert f"{estimate.mean:.2f} ± {estimate.mean_std_error:.2f} nats" in plain.out
    assert plain.err == "Wrote 24 rows to scores.csv\n"
    assert pd.read_csv("scores.csv")["log_prob"].mean() == pytest.approx(estimate.mean)


DIAGNOSE = ("--rows", 3, "--chains", 2, "--draws", 20, "--warmup", 10, "--seed", 0)


def test_a_diagnosis_is_tables_a_verdict_and_pictures(genprop: Genprop, model: Path) -> None:
    table().to_csv("rows.csv", index=False)
    done = genprop("diagnose", model, "rows.csv", *DIAGNOSE)
    # chains this short are not to be trusted, which is a result and no failure
    assert (done.status, done.err) == (0, "")
    said = " ".join(done.out.split())
    assert "HMC, 2 chains of 20 draws after 10, in each of 3 rows" in said
    assert "verdict Do not trust" in said
    for word in ("R-hat", "bulk ESS", "tail ESS", "MCSE", "acceptance", "divergences", "x.2"):
        assert word in said
    for name in ("trace.png", "rank.png"):
        assert Path("genprop-diagnosis", name).read_bytes().startswith(b"\x89PNG")


def test_a_diagnosis_is_that_of_the_chains(genprop: Genprop, model: Path) -> None:
    table().to_csv("rows.csv", index=False)
    words = ("diagnose", model, "rows.csv", *DIAGNOSE, "--out", "seen", "--json")
    told = json.loads(genprop(*words).out)
    fitted = GenProp.load(model)
    checked, other = (check_up(fitted, table(), 3, 2, 20, 10, random_state=n) for n in (0, 1))
    assert checked.chain.draws.shape == (2, 20, 3, 5)
    assert told["verdict"] == checked.diagnosis.verdict
    assert told["variables"]["x.1"]["coordinates"] == 9
    assert told["worst"] == json.loads(json_text(checked.worst().to_dict("records")))
    assert told["pictures"] == ["seen/trace.png", "seen/rank.png"]
    assert not torch.equal(checked.chain.draws, other.chain.draws)


def test_discrete_levels_are_diagnosed_by_gibbs() -> None:
    small = {"hidden": (3, 2), "units": (8,), "epochs": 2, "random_state": 0, "verbose": 0}
    checked = check_up(GenProp(**small, latent="bernoulli").fit(images()), images(), 3, 2, 20, 10)
    assert checkup_summary(checked, [])["sampler"] == "Gibbs"
    assert set(checked.chain.draws.unique().tolist()) == {0.0, 1.0}
    assert set(checked.diagnosis.variables) == {"x.1", "x.2"}


def test_options_are_the_arguments_of_genprop() -> None:
    arguments = set(inspect.signature(GenProp).parameters)
    others = {"data", "out", "config", "key", "json"}
    assert set(inspect.signature(cli.fit).parameters) - others == arguments
    assert set(ARGUMENTS) == arguments


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_default_that_is_told_is_the_default(name: str) -> None:
    told = {"no": False}.get(ARGUMENTS[name].default, ARGUMENTS[name].default)
    default = inspect.signature(GenProp).parameters[name].default
    assert read_settings({name: told}) == {name: default}


def test_modalities_are_hidden_whole_in_shares_of_their_own(genprop: Genprop) -> None:
    rng = np.random.default_rng(0)
    np.savez("rows.npz", image=rng.random((40, 4)), label=rng.integers(2, size=40))
    words = ["--hide", "label=0.5 image=0.1", "--epochs", "1", "--hidden", "2"]
    assert genprop("fit", "rows.npz", "--out", "model", *words).status == 0
    assert GenProp.load("model").hide == {"label": 0.5, "image": 0.1}
    wrong = genprop("fit", "rows.npz", "--out", "new", "--hide", "lable=0.5")
    assert wrong.sentence.startswith("hide names 'lable'")
    assert "is 'label' meant?" in wrong.sentence
    assert not Path("new").exists()


def test_help_names_every_option(genprop: Genprop) -> None:
    text = genprop("fit", "--help").out
    assert all(f"--{name.replace('_', '-')}" in text for name in ARGUMENTS)


def test_options_come_before_toml_and_toml_before_defaults(genprop: Genprop) -> None:
    table().to_csv("rows.csv", index=False)
    Path("how.toml").write_text(
        'hidden = [3, 2]\nunits = 8\nepochs = 1\nlatent = ["gaussian", "gaussian"]\nlr = 0.002\n'
        'patience = "none"\nskip = true\nrandom_state = 3\n'
    )
    words = [
        "--config",
        "how.toml",
        "--lr",
        "0.004",
        "--no-skip",
        "--clip",
        "1",
        "--weight-decay",
        "2",
    ]
    assert genprop("fit", "rows.csv", "--out", "model", *words).status == 0
    used = GenProp.load("model").get_params()
    expected = {"hidden": (3, 2), "units": (8,), "lr": 0.004, "skip": False, "clip": 1.0}
    expected |= {"patience": None, "random_state": 3, "latent": ("gaussian", "gaussian")}
    expected["weight_decay"] = 2.0
    assert {name: used[name] for name in expected} == expected
    assert used["samples"] == 5


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("epoch = 2\nhiden = [3]", "how.toml sets epoch, hiden, but GenProp's arguments are"),
        ('lr = "fast"', "lr in how.toml must be a number, but is 'fast'."),
        ("epochs = true", "epochs in how.toml must be a whole number, but is True."),
        ("compile = 1", "compile in how.toml must be true or false, but is 1."),
        ("hidden = [3.5]", "hidden in how.toml must be sizes such as 64,32"),
        ("lr = = 2", "how.toml is not TOML: "),
    ],
)
def test_toml_errors_are_sentences(genprop: Genprop, content: str, sentence: str) -> None:
    table().to_csv("rows.csv", index=False)
    Path("how.toml").write_text(content)
    done = genprop("fit", "rows.csv", "--out", "model", "--config", "how.toml")
    assert done.sentence.startswith(sentence)
    assert not Path("model").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("fit", "Missing argument"),
        ("fit rows.csv", "Missing option '--out'"),
        ("fti", "No such command 'fti'"),
        ("fit rows.csv --out new --hiden 3", "No such option: --hiden"),
        ("fit rows.csv --out new --lr fast", "--lr must be a number, but is 'fast'."),
        ("fit rows.csv --out new --hidden 3,b", "--hidden must be sizes such as 64,32"),
        ("fit rows.csv --out new --batch-size x", "--batch-size must be a whole number or auto"),
        ("fit rows.csv --out new --prior odd", "prior must be a Prior or one of"),
        ("fit rows.csv --out new --device cuda:99", "there is no device 'cuda:99'"),
        ("fit rows.csv --out new --config no.toml", "Expected a TOML file at no.toml"),
        ("fit rows.csv --out new --key a", "The key 'a' names an array of an .npz archive"),
        ("fit none.csv --out new", "Expected a data file at none.csv, but there is none."),
        ("fit empty.csv --out new", "Expected empty.csv to be a CSV table"),
        ("fit words.csv --out new --visible gaussian", "column 'b' holds"),
        ("fit rows.csv --out rows.csv", "Expected a folder at rows.csv, but rows.csv is a file."),
        ("fit rows.csv --out foreign", "foreign/config.json was not written by genprop"),
        ("sample none --out new.csv", "a saved model is a directory, but there is none at none"),
        ("sample MODEL --out new.txt", "Expected a file that ends in .npy"),
        ("sample MODEL --out none/new.csv", "Expected a folder at none"),
        ("sample MODEL --out new.csv --n 0", "Invalid value for '--n'"),
        ("impute MODEL wide.csv --out new.csv", "The feature names should match"),
        ("impute MODEL rows.csv --out new.csv --draws many", "Invalid value for '--draws'"),
        ("impute MODEL rows.csv --out a.csv --method residuals", "method='residuals' needs donors"),
        ("evaluate MODEL rows.csv --processes 2", "Processes share what --parts keeps"),
        ("evaluate MODEL rows.csv --out new.npy", "Expected a file that ends in .csv"),
        ("fit parts.npz --out new --visible siez=gaussian", "visible names 'siez', but the"),
        ("evaluate MODEL parts.npz", "the model was fitted on modalities ['x']"),
        ("diagnose MODEL wide.csv", "The feature names should match"),
        ("diagnose MODEL rows.csv --out rows.csv", "Expected a folder at rows.csv"),
        ("diagnose MODEL rows.csv --draws 3", "Invalid value for '--draws'"),
        ("diagnose FLAT rows.csv", "no stack has a layer"),
        ("demo --out rows.csv", "Expected a folder at rows.csv"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    genprop: Genprop, model: Path, flat: Path, words: str, sentence: str
) -> None:
    table().to_csv("rows.csv", index=False)
    table().assign(more=1.0).to_csv("wide.csv", index=False)
    WRITERS["parts.npz"](Path("parts.npz"))
    Path("empty.csv").touch()
    Path("words.csv").write_text("a,b\n1,x\n2,y\n3,z\n")
    Path("foreign").mkdir()
    Path("foreign", "config.json").write_text("{}")
    before = sorted(Path().rglob("*"))
    done = genprop(*words.replace("MODEL", str(model)).replace("FLAT", str(flat)).split())
    assert done.sentence.startswith(sentence)
    assert sorted(Path().rglob("*")) == before


def test_a_result_that_cannot_be_written_leaves_the_old_file(genprop: Genprop) -> None:
    np.save("images.npy", images())
    genprop("fit", "images.npy", "--out", "model", *QUICK)
    Path("full.csv").write_text("precious")
    done = genprop("impute", "model", "images.npy", "--out", "full.csv")
    assert done.sentence.startswith("Expected an array of shape (rows, columns)")
    assert Path("full.csv").read_text() == "precious"


def test_only_models_are_replaced(genprop: Genprop) -> None:
    table().to_csv("rows.csv", index=False)
    genprop("fit", "rows.csv", "--out", "model", *QUICK)
    assert genprop("fit", "rows.csv", "--out", "model", *QUICK, "--hidden", "2").status == 0
    assert GenProp.load("model").hidden == (2,)


def test_a_warning_is_a_line(genprop: Genprop) -> None:
    table().to_csv("rows.csv", index=False)
    done = genprop("fit", "rows.csv", "--out", "model", *QUICK, "--lr", "1e30")
    lines = done.err.splitlines()
    assert done.status == 2
    assert all(line.startswith("warning: ") for line in lines[:-1])
    assert "went back to the last good weights" in lines[0]
    assert lines[-1].startswith("genprop: ")
    assert not Path("model").exists()


def test_no_words_show_the_help(genprop: Genprop) -> None:
    done = genprop()
    assert done.status == 0
    assert "evaluate" in done.out


def process(*words: str | Path, folder: Path) -> Done:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def test_the_installed_command_answers(tmp_path: Path, model: Path) -> None:
    script = Path(sysconfig.get_path("scripts"), "genprop")
    bad = process(script, "evaluate", model, "none.csv", folder=tmp_path)
    assert bad.sentence == "Expected a data file at none.csv, but there is none."
    good = process(script, "sample", model, "--n", "2", "--out", "new.csv", folder=tmp_path)
    assert (good.status, good.err) == (0, "Wrote 2 samples to new.csv\n")


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = process(sys.executable, "-m", "genprop", "--version", folder=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("genprop 0.")
