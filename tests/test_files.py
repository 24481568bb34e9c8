import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from genprop.files import (
    atomic,
    check_writable,
    json_text,
    read_data,
    write_data,
    write_json,
)
from genprop.idx import TYPES

MATRIX = np.array([[0.5, np.nan, -1.0], [2.0, 3.25, 1e-30]])


def idx_bytes(array: np.ndarray, code: int = 0x08) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return header + array.astype(TYPES[code]).tobytes()


def table(index: pd.Index | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {"age": [31.5, np.nan, 2.0], "n": [1, 2, 3], "city": ["Ulm", None, "Bern"]}, index=index
    )


@settings(max_examples=40, deadline=None)
@given(
    npst.arrays(
        st.sampled_from(["f8", "f4", "i8", "u1", "?", ">f4", "U3"]),
        npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
    ),
    st.sampled_from(["npy", "npz"]),
)
def test_any_array_comes_back(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, ending: str
) -> None:
    path = tmp_path_factory.mktemp("arrays") / f"data.{ending}"
    write_data(path, array)
    back = read_data(path)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_named_modalities_come_back(tmp_path: Path) -> None:
    modalities = {"image": np.eye(3), "label": np.arange(3), "file": np.zeros((3, 1))}
    write_data(tmp_path / "m.npz", modalities)
    back = read_data(tmp_path / "m.npz")
    assert list(back) == list(modalities)
    for name, array in modalities.items():
        np.testing.assert_array_equal(back[name], array)
    np.testing.assert_array_equal(read_data(tmp_path / "m.npz", key="label"), np.arange(3))


def test_numpy_reads_what_is_written(tmp_path: Path) -> None:
    write_data(tmp_path / "m.npz", MATRIX)
    with np.load(tmp_path / "m.npz") as archive:
        np.testing.assert_array_equal(archive["data"], MATRIX)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("index", [None, pd.Index(list("abc")), pd.Index([7, 5, 6])])
def test_tables_come_back(tmp_path: Path, ending: str, index: pd.Index | None) -> None:
    path = tmp_path / f"table.{ending}"
    write_data(path, table(index))
    back = read_data(path)
    pd.testing.assert_frame_equal(back, table(index), check_index_type=False)


def test_a_named_index_is_a_column_of_csv(tmp_path: Path) -> None:
    write_data(tmp_path / "t.csv", table(pd.RangeIndex(3, name="patient")))
    assert list(read_data(tmp_path / "t.csv").columns) == ["patient", "age", "n", "city"]


def test_levels_of_an_index_get_names(tmp_path: Path) -> None:
    draws = pd.concat({0: table(), 1: table()}, names=["draw"])
    write_data(tmp_path / "t.csv", draws)
    back = read_data(tmp_path / "t.csv")
    assert list(back.columns) == ["draw", "level_1", "age", "n", "city"]
    assert list(back["draw"]) == [0, 0, 0, 1, 1, 1]
    assert draws.index.names == ["draw", None]


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_arrays_as_tables(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"array.{ending}"
    write_data(path, MATRIX)
    back = read_data(path)
    assert list(back.columns) == ["x0", "x1", "x2"]
    np.testing.assert_array_equal(back.to_numpy(), MATRIX)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_draws_are_stacked_under_each_other(tmp_path: Path, ending: str) -> None:
    draws = np.arange(24.0).reshape(2, 3, 4)
    path = tmp_path / f"draws.{ending}"
    write_data(path, draws)
    back = read_data(path)
    assert list(back.columns) == ["draw", "row", "x0", "x1", "x2", "x3"]
    assert list(back["draw"]) == [0, 0, 0, 1, 1, 1]
    assert list(back["row"]) == [0, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(back.iloc[:, 2:].to_numpy().reshape(2, 3, 4), draws)


def test_times_of_csv_files_are_times_and_other_texts_are_not(tmp_path: Path) -> None:
    table = pd.DataFrame({
        "day": ["2014-07-29", None, "2015-01-01"],
        "moment": ["2014-07-29 12:30", "2014-07-29T12:30:59.5", None],
        "wrong": ["2014-02-31", "2014-07-29", None],
        "code": ["2014-07-29", "none", None],
        "nothing": [None, None, None],
    })  # fmt: skip
    table.to_csv(tmp_path / "t.csv", index=False)
    back = read_data(tmp_path / "t.csv")
    times = [name for name in back if pd.api.types.is_datetime64_any_dtype(back[name])]
    assert times == ["day", "moment"]
    assert back["day"].tolist()[::2] == [pd.Timestamp(2014, 7, 29), pd.Timestamp(2015, 1, 1)]
    assert back["day"].isna().tolist() == [False, True, False]
    assert back["wrong"].tolist()[:2] == ["2014-02-31", "2014-07-29"]


def test_one_column_of_values(tmp_path: Path) -> None:
    write_data(tmp_path / "one.csv", np.array([1.0, 2.0]))
    assert (tmp_path / "one.csv").read_text() == "x0\n1.0\n2.0\n"


@pytest.mark.parametrize("code", list(TYPES))
@pytest.mark.parametrize(
    "name", ["train-images-idx3-ubyte", "x.idx", "t10k-images-idx3-ubyte.gz", "x.idx.gz", "plain"]
)
def test_idx_files_of_every_type_and_name(tmp_path: Path, code: int, name: str) -> None:
    images = np.arange(24).reshape(2, 3, 4)
    content = idx_bytes(images, code)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    back = read_data(path)
    assert back.dtype == np.dtype(TYPES[code]).newbyteorder("=")
    assert back.dtype.isnative
    np.testing.assert_array_equal(back, images)
    back += 1


@settings(max_examples=40, deadline=None)
@given(npst.arrays("f8", npst.array_shapes(max_dims=5, min_side=0, max_side=4)))
def test_any_idx_file_comes_back(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray
) -> None:
    path = tmp_path_factory.mktemp("idx") / "x.idx"
    path.write_bytes(idx_bytes(array, 0x0E))
    np.testing.assert_array_equal(read_data(path), array)


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (lambda b: b[:-1], r"its header \[2, 3\] asks for 6 bytes of values, but 5 follow"),
        (lambda b: b + b"\0", r"its header \[2, 3\] asks for 6 bytes of values, but 7 follow"),
        (lambda b: b[:6], "buffer size must be a multiple"),
        (lambda b: b[:8], r"its header \[2\] asks for 2 bytes of values, but 0 follow"),
        (lambda b: b"", "it does not begin with two zero bytes"),
        (lambda b: b"\0\0\x07" + b[3:], "it does not begin with two zero bytes"),
        (lambda b: b[:3] + b"\xff" + b"\xff" * 2000, "it does not begin with two zero bytes"),
        (lambda b: b[:4] + b"\xff" * 8, r"its header \[4294967295, 4294967295\] asks for "),
    ],
    ids=["short", "long", "half", "header", "empty", "type", "sizes", "huge"],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_idx_files(
    tmp_path: Path, damage: Callable[[bytes], bytes], cause: str, zipped: bool
) -> None:
    content = damage(idx_bytes(np.zeros((2, 3))))
    path = tmp_path / "x-ubyte.gz"
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(ValueError, match=f"an IDX file, but it cannot be read: {cause}"):
        read_data(path)


def refusal(path: Path) -> str:
    """The sentence that refuses a file, or its path if it is read."""
    try:
        read_data(path)
    except ValueError as error:
        return str(error)
    return str(path)


def written(folder: Path, ending: str) -> Path:
    path = folder / f"data.{ending}"
    write_data(path, table() if ending.startswith(("csv", "parquet")) else MATRIX)
    return path


@pytest.mark.parametrize("ending", ["npy", "npz", "parquet", "csv.gz"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_a_file_cut_short_is_refused_by_name(tmp_path: Path, ending: str, kept: float) -> None:
    path = written(tmp_path, ending)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"Expected .*data\.\S+ to be an? .* cannot be read: "):
        read_data(path)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["npy", "npz", "parquet", "csv", "csv.gz", "idx"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_changed_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, ending: str, changes: list[tuple[float, int]]
) -> None:
    path = tmp_path_factory.mktemp("changed") / f"data.{ending}"
    if ending == "idx":
        path.write_bytes(idx_bytes(np.ones((2, 3))))
    else:
        path = written(path.parent, ending)
    content = bytearray(path.read_bytes())
    for where, byte in changes:
        content[int(where * len(content))] = byte
    path.write_bytes(content)
    assert str(path) in refusal(path)


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_pickled_objects_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"data.{ending}"
    objects = np.array([{}, None], dtype=object)
    (np.save if ending == "npy" else np.savez)(path, objects)
    with pytest.raises(ValueError, match="cannot be read: Object arrays cannot be loaded"):
        read_data(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected a data file at .*, but there is none"):
        read_data(tmp_path / "none.npy")
    with pytest.raises(ValueError, match="that is not a file"):
        read_data(Path("/dev/null"))


def test_unknown_endings(tmp_path: Path) -> None:
    (tmp_path / "data.docx").write_bytes(b"PK")
    (tmp_path / "data.gz").write_bytes(gzip.compress(b"text"))
    for name in ("data.docx", "data.gz"):
        with pytest.raises(ValueError, match=r"ends in \.npy, .* or \.idx, but got .*data"):
            read_data(tmp_path / name)


def test_archives_that_are_no_modalities(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, train=np.zeros((5, 2)), test=np.zeros((3, 2)), n_features=np.array(2))
    expected = r"'train' \(5, 2\), 'test' \(3, 2\), 'n_features' \(\); give the key"
    with pytest.raises(ValueError, match=expected):
        read_data(path)
    assert read_data(path, key="test").shape == (3, 2)
    with pytest.raises(ValueError, match="no array 'y'; it holds 'train', 'test', 'n_features'"):
        read_data(path, key="y")
    with pytest.raises(ValueError, match=r"'n_features' in .* is a single value"):
        read_data(path, key="n_features")


def test_archives_without_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(ValueError, match="the archive is empty"):
        read_data(tmp_path / "empty.npz")
    np.savez(tmp_path / "values.npz", a=1, b=2)
    with pytest.raises(ValueError, match=r"'a' in .* is a single value"):
        read_data(tmp_path / "values.npz")
    np.save(tmp_path / "value.npy", 3.0)
    with pytest.raises(ValueError, match="is a single value"):
        read_data(tmp_path / "value.npy")


def test_an_array_named_as_an_archive(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as stream:
        np.save(stream, MATRIX)
    with pytest.raises(ValueError, match=r"it holds one bare array; name it \.npy"):
        read_data(tmp_path / "a.npz")


def test_a_key_for_something_else(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave the key out"):
        read_data(written(tmp_path, "csv"), key="x")


@pytest.mark.parametrize("first", ["5,0,0,0", "0.5,0.25", "2,1"])
def test_csv_without_names(tmp_path: Path, first: str) -> None:
    (tmp_path / "t.csv").write_text(f"{first}\n{first}\n")
    with pytest.raises(ValueError, match="put a line of names above the data"):
        read_data(tmp_path / "t.csv")


def test_csv_with_numbers_for_names(tmp_path: Path) -> None:
    pd.DataFrame(MATRIX).to_csv(tmp_path / "t.csv", index=False)
    np.testing.assert_array_equal(read_data(tmp_path / "t.csv").to_numpy(), MATRIX)


def test_whole_numbers_stay_whole_beside_holes(tmp_path: Path) -> None:
    path, back = tmp_path / "t.csv", tmp_path / "back.csv"
    path.write_text("n,x,empty,y\n1,1.0,,0.5\n,,,\n3,2.0,,2\n")
    table = read_data(path)
    assert [str(t) for t in table.dtypes] == ["Int64", "float64", "float64", "float64"]
    write_data(back, table)
    assert back.read_text().splitlines()[1] == "1,1.0,,0.5"


@pytest.mark.parametrize("fails", [False, True])
def test_atomic(tmp_path: Path, fails: bool) -> None:
    path = tmp_path / "data.csv.gz"
    path.write_text("old")

    def write() -> None:
        with atomic(path) as fresh:
            assert fresh.parent == path.parent
            assert fresh.suffixes == path.suffixes
            fresh.write_text("new")
            assert path.read_text() == "old"
            if fails:
                raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            write()
    else:
        write()
    assert path.read_text() == ("old" if fails else "new")
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_follows_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    with atomic(link) as fresh:
        fresh.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_atomic_spares_devices_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(ValueError, match="a folder or a device"), atomic(path):
            raise AssertionError


@pytest.mark.parametrize("ending", ["npy", "npz", "csv", "parquet"])
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, ending)
    before = path.read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", full)
    monkeypatch.setattr(np.lib.format, "write_array", full)
    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OSError, match="No space left"):
        write_data(path, MATRIX)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_file_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one array or table for .*, but got a dict of 'a', 'b'"):
        write_data(tmp_path / "d.csv", {"a": MATRIX, "b": MATRIX})
    with pytest.raises(ValueError, match="some values are Python objects"):
        write_data(tmp_path / "d.npy", np.array([None]))
    with pytest.raises(ValueError, match=r"but got \(1, 1, 1, 1\); write \.npy"):
        write_data(tmp_path / "d.csv", np.zeros((1, 1, 1, 1)))
    assert not list(tmp_path.iterdir())


def test_check_writable(tmp_path: Path) -> None:
    check_writable(tmp_path / "new.csv")
    check_writable(tmp_path / "NEW.NPZ")
    check_writable(tmp_path / "new.json", endings=(".json",))
    with pytest.raises(
        ValueError, match=r"ends in \.npy, \.npz, .* or \.parquet, but got .*x\.xls"
    ):
        check_writable(tmp_path / "x.xls")
    with pytest.raises(FileNotFoundError, match="but there is none; create it first"):
        check_writable(tmp_path / "none" / "x.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match="but that is a folder"):
        check_writable(tmp_path / "folder.csv")


def test_json_has_null_for_what_is_not_finite(tmp_path: Path) -> None:
    content = {
        "bound": np.array([1.5, np.nan, -np.inf]),
        "ess": (np.float32(0.5), np.int64(3), float("inf")),
        "path": Path("a/b"),
        3: True,
    }
    write_json(tmp_path / "out.json", content)
    expected = {"bound": [1.5, None, None], "ess": [0.5, 3, None], "path": "a/b", "3": True}
    assert json.loads((tmp_path / "out.json").read_text()) == expected


def test_json_that_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "out.json", {"model": object()})
    assert not list(tmp_path.iterdir())


@given(st.recursive(st.floats() | st.none() | st.text(), st.lists, max_leaves=5))
def test_json_is_always_standard(content: object) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(json_text(content), parse_constant=refuse)


def test_a_folder_is_its_files_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "left.npy", MATRIX)
    np.savez(tmp_path / "right.npz", any=MATRIX)
    pd.DataFrame({"a": [1.5, 2.5], "b": ["u", "v"]}).to_parquet(tmp_path / "both.parquet")
    (tmp_path / "label.csv").write_text("which\nyes\nno\n")
    (tmp_path / "images-idx2-ubyte").write_bytes(idx_bytes(np.eye(2)))
    (tmp_path / ".notes").write_text("hidden")
    back = read_data(tmp_path)
    assert sorted(back) == ["both", "images-idx2-ubyte", "label", "left", "right"]
    np.testing.assert_array_equal(back["left"], MATRIX)
    np.testing.assert_array_equal(back["right"], MATRIX)
    assert back["both"].shape == (2, 2)
    assert back["label"].tolist() == ["yes", "no"]


@pytest.mark.parametrize(
    ("name", "make", "sentence"),
    [
        ("b.npy", lambda path: np.save(path, np.zeros(3)), "same number of rows, .* 'a' 2, 'b' 3"),
        ("b.txt", lambda path: path.write_text("?"), r"ends in \.npy, .* but got .*b\.txt"),
        ("a.csv", lambda path: path.write_text("n\n1\n2\n"), r"a\.csv and a\.npy are both 'a'"),
        ("b", Path.mkdir, "a file for each modality, but .*b is a folder"),
        ("b.npz", lambda path: np.savez(path, u=MATRIX, v=MATRIX), r"it holds 'u', 'v'; give that"),
    ],
)
def test_folders_that_are_no_modalities(
    tmp_path: Path, name: str, make: Callable[[Path], object], sentence: str
) -> None:
    with pytest.raises(ValueError, match="but found no file"):
        read_data(tmp_path)
    np.save(tmp_path / "a.npy", MATRIX)
    make(tmp_path / name)
    with pytest.raises(ValueError, match=sentence):
        read_data(tmp_path)
    with pytest.raises(ValueError, match="leave the key out"):
        read_data(tmp_path, key="a")


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_of_modalities_comes_back(tmp_path: Path, exists: bool) -> None:
    out = tmp_path / "out"
    if exists:
        out.mkdir()
    write_data(out, {"left": MATRIX, "right": table(), "label": np.array(["a", "b", "a"])[:2]})
    assert list(tmp_path.iterdir()) == [out]
    assert sorted(path.name for path in out.iterdir()) == ["label.npy", "left.npy", "right.csv"]
    np.testing.assert_array_equal(read_data(out / "left.npy"), MATRIX)
    pd.testing.assert_frame_equal(read_data(out / "right.csv"), table())
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ValueError, match="holds files; choose a new one"):
        write_data(out, MATRIX)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="some values are Python objects"):
        write_data(tmp_path / "out", {"left": MATRIX, "right": np.array([None])})
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="but that is a file"):
        write_data(tmp_path / "file", MATRIX)


@pytest.mark.parametrize("name", ["left.npy", "left.npz", "other.npz", "left.csv"])
def test_one_modality_keeps_its_name_if_it_is_known(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_data(path, {"left": MATRIX} if name == "other.npz" else MATRIX)
    known = read_data(path, modalities=["left", "right"])
    assert list(known) == ["left"]
    for unknown in (read_data(path), read_data(path, modalities=["right"])):
        np.testing.assert_array_equal(unknown, MATRIX)
        np.testing.assert_array_equal(known["left"], unknown)
