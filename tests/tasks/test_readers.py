"""Readers of JSON, CSV, TSV and Parquet: every common form, strictly."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapt_jax.tasks.sources import readers_arrow
from adapt_jax.tasks.sources.parquet_footer import read_parquet_sizes
from adapt_jax.tasks.sources.readers import read_rows
from adapt_jax.tasks.sources.readers_csv import find_delimiter
from adapt_jax.tasks.sources.rows import FileOptions
from adapt_jax.utils.errors import UserError

ROWS = [{"q": 'a, "b"', "n": 1.5}, {"q": "c;d", "n": None}]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(
    ("content", "records"),
    [
        (ROWS, None),
        ({"version": "1", "data": ROWS}, None),
        ({"data": {"train": ROWS, "test": []}}, "data.train"),
        ({"train": ROWS, "test": []}, "train"),
        # the dataset viewer of Hugging Face
        ({"features": {}, "rows": [{"row_idx": n, "row": r} for n, r in enumerate(ROWS)]}, None),
        # pandas: to_json(), of a filtered frame, and orient="split"
        ({k: {str(n): r[k] for n, r in enumerate(ROWS)} for k in ("q", "n")}, None),
        ({k: {str(7 * n): r[k] for n, r in enumerate(ROWS)} for k in ("q", "n")}, None),
        (
            {"columns": ["q", "n"], "index": [0, 1], "data": [list(r.values()) for r in ROWS]},
            None,
        ),
    ],
)
def test_json_is_read_in_every_common_form(
    content: Any, records: str | None, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.json", json.dumps(content))
    rows = read_rows(path, FileOptions(records=records))
    assert [dict(row.values) for row in rows] == ROWS


# of bare texts, of columns by split, of rows by split and number
SPLITS = [
    '{"train": ["a"], "test": ["b"]}',
    '{"train": ["a", "b"], "validation": ["c", "d"], "test": ["e", "f"]}',
    '{"Train": [["a"]], "Dev": [["b"]]}',
    '{"train": {"q": ["a", "b"], "n": [1, 2]}, "test": {"q": ["c", "d"], "n": [3, 4]}}',
    '{"train": {"0": {"q": "a"}}, "test": {"0": {"q": "b"}}}',
]


@pytest.mark.parametrize(
    ("content", "records", "message"),
    [
        (
            '{"train": [], "test": []}',
            None,
            r"holds splits; name one of them by `records`: train, test",
        ),
        *((splits, None, "holds splits; name one of them by `records`") for splits in SPLITS),
        ('{"a": {"b": []}, "c": []}', "a.d", r"records: there is no 'a.d'; did you mean|it has: b"),
        ("{}", None, r"expected a list of objects"),
        ('[{"q": 1, "q": 2}]', None, r"a\.json, line 1: the key 'q' occurs twice"),
        ("[[1]]", None, r"a\.json, record 1: expected an object, found list"),
        # pandas' orient="split", with a row too long, no list, names that are no texts or twice
        ('{"columns": ["q", "n"], "data": [[1, 2, 3]]}', None, "name one of its lists"),
        ('{"columns": 5, "data": [[1]]}', None, "record 1: expected an object, found list"),
        ('{"columns": ["q"], "data": 5}', None, "record 1: expected an object, found str"),
        ('{"columns": [["q"]], "data": [[1]]}', None, "name one of its lists"),
        ('{"columns": ["q", "q"], "data": [[1, 2]]}', None, "name one of its lists"),
        ('{"columns": ["q", "n"], "data": [{"q": 1, "n": 2}]}', None, "name one of its lists"),
    ],
)
def test_json_without_records_is_refused(
    content: str, records: str | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        read_rows(write(tmp_path / "a.json", content), FileOptions(records=records))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_a_csv_file_is_found(delimiter: str, tmp_path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    table = [["q", "a"], ["one, two; three", "1"], ['the "x"', "2"], ["line\nbreak", "3"]]
    writer.writerows(table)
    for name in ("a.csv", "a.tsv") if delimiter == "\t" else ("a.csv",):
        rows = read_rows(write(tmp_path / name, text.getvalue()))
        assert [list(row.values.values()) for row in rows] == table[1:]
        assert [row.number for row in rows] == [2, 3, 4]
    options = FileOptions(delimiter=delimiter)
    assert len(read_rows(tmp_path / "a.csv", options)) == 3


@pytest.mark.parametrize(
    "first", ["sep=;", "SEP=;", '"sep=;"', "sep=,", "sep=\t", "sep=|", "sep=:"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_first_line_of_excel_names_the_delimiter(first: str, end: str, tmp_path: Path) -> None:
    sign = first.strip('"')[-1]
    lines = ["\ufeff" + first, f"q{sign}a", f'"a{sign} b, c; d"{sign}1', "", f"two{sign}2", ""]
    for name in ("a.csv", "a.tsv"):
        rows = read_rows(write(tmp_path / name, end.join(lines)))
        assert [dict(row.values) for row in rows] == [
            {"q": f"a{sign} b, c; d", "a": "1"},
            {"q": "two", "a": "2"},
        ]
        assert [row.where.rpartition(" ")[2] for row in rows] == ["3", "5"]
    # a delimiter that is given wins, and the line is no row
    path = write(tmp_path / "b.csv", end.join([first, "q+a", "1+2", "3+4+5"]))
    with pytest.raises(UserError, match=r"b\.csv, line 4: 3 columns"):
        read_rows(path, FileOptions(delimiter="+"))
    path = write(tmp_path / "c.csv", end.join([first, f"1{sign}2"]))
    assert [dict(r.values) for r in read_rows(path, FileOptions(columns=["q", "a"]))] == [
        {"q": "1", "a": "2"}
    ]


@pytest.mark.parametrize(
    "options", [{"delimiter": '"'}, {"delimiter": "\n"}, {"delimiter": ";;"}, {"quote": "\r"}]
)
def test_a_delimiter_or_quote_that_is_no_single_character_is_refused(
    options: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="delimiter and quote: expected one character each"):
        read_rows(write(tmp_path / "a.csv", "q,a\n1,2\n"), FileOptions(**options))


def test_a_csv_file_without_header_a_long_cell_a_mark_and_spaces(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "\ufeffone,1\r\ntwo,2\r\n")
    rows = read_rows(path, FileOptions(columns=["q", "a"]))
    assert [dict(row.values) for row in rows] == [{"q": "one", "a": "1"}, {"q": "two", "a": "2"}]
    long = "x" * 150_000
    rows = read_rows(write(path, f'\ufeffid, q ,\n1, "{long}, y",\n'))
    assert dict(rows[0].values) == {"id": "1", "q": f"{long}, y"}
    unquoted = FileOptions(delimiter="\t", quote="")
    rows = read_rows(write(path, 'q\ta\n"open\t1\n'), unquoted)
    assert dict(rows[0].values) == {"q": '"open', "a": "1"}
    assert [dict(r.values) for r in read_rows(write(path, "q\none\ntwo\n"))] == [
        {"q": "one"},
        {"q": "two"},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('q,a\nx,2\ny,"5\nz,6\n', r"a\.csv, line 3: a quote is opened and never closed"),
        ('q,a\n"say \\"hi\\"",2\n', r"a\.csv, line 2: not valid CSV.*is written twice"),
        ('q,a\n"x"y,2\n', r"a\.csv, line 2: not valid CSV"),
        ("q,a,a\n1,2,3\n", r"a\.csv, line 1: the column 'a' occurs twice"),
        ("q,a\n1,2\n\n3\n", r"a\.csv, line 4: 1 columns, but the header has 2"),
        ("q;a\n1;2\n3;4;5\n", r"a\.csv, line 3: 3 columns, but the header has 2"),
    ],
)
def test_a_damaged_csv_file_is_named_by_line(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_rows(write(tmp_path / "a.csv", content))


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=9)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=5))
def test_csv_cells_come_back_as_they_were_written(tmp_path: Path, table: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["a", "b", "c"], *table])
    rows = read_rows(write(tmp_path / "a.csv", text.getvalue()))
    assert [list(row.values.values()) for row in rows] == table


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text('{}[]":,;\t\n\\"qa1', max_size=60).map(str.encode))
def test_damaged_files_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    for ending in ("json", "jsonl", "csv", "tsv", "parquet"):
        path = tmp_path / f"a.{ending}"
        path.write_bytes(content)
        try:
            read_rows(path)
        except UserError as problem:
            assert "\n" not in str(problem) and len(str(problem)) < 400


def test_parquet_is_read_where_pyarrow_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert [dict(row.values) for row in read_rows(path)] == ROWS
    damaged = tmp_path / "b.parquet"
    damaged.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"b\.parquet: cannot be read as Parquet"):
        read_rows(damaged)
    with pytest.raises(UserError, match=r"c\.parquet: no such file; did you mean '[ab]\.parquet'"):
        read_rows(tmp_path / "c.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'adapt-jax\[data\]'"):
        read_rows(path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.xlsx: expected a file that ends with \.jsonl"):
        read_rows(write(tmp_path / "a.xlsx", ""))


def test_a_refusal_is_short_though_a_files_keys_are_long(tmp_path: Path) -> None:
    path = tmp_path / "quiz.json"
    path.write_text(json.dumps({"a" * 50: [{"x": 1}], "b\n" * 5000: [{"x": 2}]}))
    with pytest.raises(UserError, match="`records`: aaa") as refusal:
        read_rows(path)
    assert len(str(refusal.value)) < 400 + len(str(path))
    assert "\n" not in str(refusal.value)


def test_a_footer_that_contradicts_itself_does_not_end_the_process(tmp_path: Path) -> None:
    """pyarrow's metadata of a column aborts where a text's column is called one of numbers."""
    path, output = tmp_path / "a.parquet", io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"question": ["one", "two"], "n": [1, 2]}), output)
    content = output.getvalue()
    path.write_bytes(content)
    assert read_parquet_sizes(path) == [(2, 4)] and len(read_rows(path)) == 2
    refused = 0
    for at in range(len(content) - int.from_bytes(content[-8:-4], "little") - 8, len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        try:
            read_rows(path)
        except UserError as mistake:
            assert "a.parquet" in str(mistake)
            refused += 1
    assert refused > 30


def test_a_footer_of_lists_within_lists_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.parquet"
    for deep in (b"\x49" + b"\x19" * 5_000, b"\x1c" * 5_000):  # of lists, of structs
        path.write_bytes(b"PAR1" + deep + len(deep).to_bytes(4, "little") + b"PAR1")
        with pytest.raises(UserError, match=r"deep\.parquet: cannot be read as Parquet"):
            read_rows(path)


def test_a_parquet_file_that_unpacks_into_too_much_is_refused(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "bomb.parquet"
    many = pyarrow.table({"question": pyarrow.array(["a"] * 1000), "n": [[1] * 9] * 1000})
    pyarrow.parquet.write_table(many, path)
    monkeypatch.setattr(readers_arrow, "MAX_PARQUET_VALUES", 9_999)
    with pytest.raises(UserError, match=r"bomb\.parquet: 10,000 values; at most 9,999 can be read"):
        read_rows(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n")
    with pytest.raises(UserError, match=r"bomb\.parquet: a Git LFS pointer"):
        read_rows(path)


@pytest.mark.parametrize(
    ("lines", "delimiter"),
    [
        (["3,5;What is A?", "4,25;What is B?"], ";"),
        (["1,5;2,5;3,5", "4,5;5,5;6,5"], ";"),
        (["Price, EUR;Text", "3,5;A", "4,5;B"], ";"),
        (["1,5\tA", "2,5\tB"], "\t"),
        (["1,2,3", "4,5,6"], ","),
        (["text,labels", "some, joy|rage", "more, calm|joy"], ","),
        (["text,note", "a,b; c", "d,e; f"], ","),
        (["text|label", "a, b|c", "d, e|f"], "|"),
    ],
)
def test_a_decimal_comma_is_no_delimiter(lines: list[str], delimiter: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("".join(f"{line}\n" for line in lines))
    assert find_delimiter(tmp_path / "a.csv") == delimiter
