import gzip
import json

import pandas as pd
import pytest

from lpft.data.tables import iter_tables, read_table
from lpft.errors import InputError

ROWS = [{"text": 'a "quoted", text', "label": "NA"}, {"text": "grüße\nzwei", "label": "null"}]


def _write_csv(path):
    pd.DataFrame(ROWS).to_csv(path, index=False)


def _write_csv_with_bom(path):
    pd.DataFrame(ROWS).to_csv(path, index=False, encoding="utf-8-sig")


def _write_jsonl(path):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n", "utf-8")


def _write_jsonl_gz(path):
    path.write_bytes(gzip.compress("\n\n".join(map(json.dumps, ROWS)).encode()))


def _write_parquet(path):
    pd.DataFrame(ROWS).to_parquet(path)


WRITERS = [
    ("rows.csv", _write_csv),
    ("bom.CSV", _write_csv_with_bom),
    ("rows.csv.gz", _write_csv),
    ("rows.jsonl", _write_jsonl),
    ("rows.json", _write_jsonl),
    ("rows.jsonl.gz", _write_jsonl_gz),
    ("rows.parquet", _write_parquet),
]


@pytest.mark.parametrize(("name", "write"), WRITERS, ids=[name for name, _ in WRITERS])
def test_every_format_gives_the_same_rows(tmp_path, name, write):
    path = tmp_path / name
    write(path)
    assert read_table(path).to_dict(orient="records") == ROWS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tsv_quotes_are_ordinary_unless_they_enclose_a_field(tmp_path, encoding):
    path = tmp_path / "rows.tsv"
    lines = ["text\tlabel", '"Never again\t0', 'it\'s "fine"\t1', '"all ""quoted"""\t2', '"\t3']
    path.write_text("\r\n".join(lines), encoding)
    table = read_table(str(path))
    assert list(table["text"]) == ['"Never again', 'it\'s "fine"', 'all "quoted"', '"']
    assert list(table["label"]) == ["0", "1", "2", "3"]


def test_tsv_lines_end_at_line_feeds_only(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("text\tlabel\none\x85two\u2028three\t1\n", "utf-8")
    assert list(read_table(path)["text"]) == ["one\x85two\u2028three"]


def test_json_values_keep_their_types(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "1", "b": 2, "c": {"d": [1]}}\n{"a": "x", "e": true}\n')
    assert read_table(path).to_dict(orient="records") == [
        {"a": "1", "b": 2, "c": {"d": [1]}, "e": None},
        {"a": "x", "b": None, "c": None, "e": True},
    ]


def test_parquet_keeps_integers_beside_missing_values(tmp_path):
    path = tmp_path / "rows.parquet"
    frame = pd.DataFrame({"label": pd.array([3, None], dtype="Int64"), "text": ["a", None]})
    frame.to_parquet(path)
    assert read_table(path).to_dict(orient="list") == {"label": [3, None], "text": ["a", None]}


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.parquet"])
def test_chunks_hold_all_rows_in_order_and_number_them_on(tmp_path, name):
    path = tmp_path / name
    rows = [{"text": f"text {i}", "label": str(i)} for i in range(2501)]
    match path.suffix:
        case ".csv":
            pd.DataFrame(rows).to_csv(path, index=False)
        case ".tsv":
            pd.DataFrame(rows).to_csv(path, index=False, sep="\t")
        case ".jsonl":
            path.write_text("\n".join(map(json.dumps, rows)))
        case _:
            pd.DataFrame(rows).to_parquet(path)
    chunks = list(iter_tables(path, rows=1000))
    assert [len(chunk) for chunk in chunks] == [1000, 1000, 501]
    assert [index for chunk in chunks for index in chunk.index] == list(range(2501))
    assert [row for chunk in chunks for row in chunk.to_dict(orient="records")] == rows


def test_chunks_are_read_only_as_far_as_asked(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text\n" + "good\n" * 10 + "bad,row\n")
    chunks = iter_tables(path, rows=5)
    assert [len(next(chunks)), len(next(chunks))] == [5, 5]
    with pytest.raises(InputError, match="line 12"):
        next(chunks)


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.txt", "rows.txt.gz"])
@pytest.mark.parametrize("header", [False, True])
def test_columns_can_be_named_where_the_file_does_not(tmp_path, name, header):
    separator = "," if "csv" in name else "\t"
    lines = [["a b", "0"], ['"c"', "1"], ["d", "0"]]
    if header:
        lines = [["sentence", "label"], *lines]
    content = "".join(separator.join(line) + "\n" for line in lines).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    table = read_table(path, ("sentence", "label"))
    expected = {"sentence": ["a b", "c", "d"], "label": ["0", "1", "0"]}
    assert table.to_dict(orient="list") == expected
    parts = list(iter_tables(path, rows=2, column_names=("sentence", "label")))
    assert [list(part.index) for part in parts] == [[0, 1], [2]]
    assert [text for part in parts for text in part["sentence"]] == expected["sentence"]


@pytest.mark.parametrize(
    ("name", "content", "names", "message"),
    [
        (
            "rows.txt",
            b"a\t0\n",
            ("text",),
            "first line has 2 columns, expected 1, one for each name: text",
        ),
        ("rows.txt", b"a\t0\n", ("text", "text"), "'text' occurs more than once"),
        ("rows.csv", b"", ("text", "label"), "rows.csv is empty"),
        ("rows.csv", b"text,label\n", ("text", "label"), "has no rows"),
        ("rows.jsonl", b'{"text": "a"}\n', ("text",), "names its columns itself"),
        ("rows.parquet", b"PAR1", ("text",), "names its columns itself"),
    ],
)
def test_names_that_do_not_fit_the_file_are_refused(tmp_path, name, content, names, message):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_table, lambda path, names: list(iter_tables(path, column_names=names))):
        with pytest.raises(InputError, match=message):
            read(path, names)


BAD = {
    "missing file": ("gone.csv", None, ["gone.csv", "does not exist"]),
    "unknown ending": ("rows.xlsx", b"x", ["rows.xlsx", "unknown file ending", ".parquet"]),
    "no ending": ("rows", b"x", ["unknown file ending"]),
    "gzip of parquet": ("rows.parquet.gz", b"x", ["unknown file ending"]),
    "empty csv": ("rows.csv", b"", ["rows.csv is empty", "names the columns"]),
    "blank tsv": ("rows.tsv", b"\n\n", ["rows.tsv is empty"]),
    "empty jsonl": ("rows.jsonl", b"", ["has no rows"]),
    "header only": ("rows.csv", b"text,label\n", ["has no rows"]),
    "latin-1": ("rows.csv", b"text,label\ngr\xfc\xdfe,1\n", ["line 2", "0xfc", "UTF-8"]),
    "utf-16": ("rows.tsv", "text\tlabel\n".encode("utf-16"), ["line 1", "UTF-8"]),
    "field too many": (
        "rows.csv",
        b"text,label\na,1\nb,c,1\n",
        ["line 3", "found 3", "expected 2"],
    ),
    "field too few": ("rows.tsv", b"text\tlabel\na\n", ["line 2", "found 1", "expected 2"]),
    "unclosed quote": ("rows.csv", b'text,label\n"a,1\nb,2\n', ["line 3", "not valid CSV"]),
    "stray quote": ("rows.csv", b'text,label\n"a" b,1\n', ["line 2", "not valid CSV"]),
    "duplicate column": ("rows.csv", b"text,label, text\na,1,b\n", ["'text'", "more than once"]),
    "duplicate name": ("rows.jsonl", b'{"a": 1, "a": 2}\n', ["line 1", "more than once"]),
    "broken json": ("rows.jsonl", b'{"a": 1}\n{"a": \n', ["line 2", "not valid JSON"]),
    "json array": ("rows.json", b'[{"a": 1}]\n', ["line 1", "list", "one object per line"]),
    "deep json": ("rows.json", b"[" * 100_000, ["line 1", "not valid JSON"]),
    "not parquet": ("rows.parquet", b"PAR1 nonsense PAR1", ["not a readable Parquet file"]),
    "null in csv": ("rows.csv", b"text,label\na\0b,1\n", ["line 2", "null byte"]),
    "null in tsv": ("rows.tsv", b"text\tlabel\na\t1\n\0\t1\n", ["line 3", "null byte"]),
    "utf-16 without a mark": ("rows.csv", "text,l\n".encode("utf-16-le"), ["line 1", "UTF-16"]),
    "gzip under a plain name": (
        "rows.csv",
        gzip.compress(b"text,label\na,1\n"),
        ["compressed by gzip", "add .gz to its name (rows.csv.gz)"],
    ),
    "gzip of json under a plain name": ("rows.jsonl", gzip.compress(b"{}\n"), ["rows.jsonl.gz"]),
    "carriage returns": ("rows.csv", b"text,label\ra,1\rb,2\r", ["carriage returns only"]),
    "carriage returns in tsv": ("rows.tsv", b"text\tlabel\ra\t1", ["carriage returns only"]),
    "semicolons": (
        "rows.csv",
        b"text;label\ngood, fine;1\n",
        ["'text;label' is separated by semicolons, expected commas", "write it with commas"],
    ),
    "semicolons and quotes": ("rows.csv", b'text;label\n"a;b";1\n', ["by semicolons"]),
    "tabs in csv": ("rows.csv", b"text\tlabel\na, b\t1\n", ["by tabs", "or name it .tsv"]),
    "commas in tsv": ("rows.tsv.gz", gzip.compress(b"a,b\nc\td\n"), ["by commas", ".csv"]),
    "not gzip": ("rows.csv.gz", b"text,label\n", ["damaged", "gzip"]),
    "cut gzip": ("rows.csv.gz", gzip.compress(b"text\na\n" * 99)[:-12], ["damaged", "gzip"]),
}


@pytest.mark.parametrize(("name", "content", "parts"), BAD.values(), ids=BAD)
def test_bad_files_are_named_in_one_line(tmp_path, name, content, parts):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for read in (read_table, lambda path: list(iter_tables(path))):
        with pytest.raises(InputError) as caught:
            read(path)
        message = str(caught.value)
        assert str(path) in message
        assert "\n" not in message
        for part in parts:
            assert part in message


def test_damaged_parquet_data_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"text": [f"text {i}" for i in range(5000)]}).to_parquet(path)
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_table(path)


def test_a_folder_is_not_a_file(tmp_path):
    folder = tmp_path / "rows.csv"
    folder.mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_table(folder)


def test_names_of_columns_beside_another_delimiter(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a fine one;1\n")
    with pytest.raises(InputError, match="by semicolons, expected commas"):
        read_table(path, ("text", "label"))


def test_carriage_returns_within_texts_and_one_column_are_no_mistake(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'text\n"a\rb; c"\nd\n')
    assert list(read_table(path)["text"]) == ["a\rb; c", "d"]
    path.write_bytes(b"a; b\nc\n")
    assert list(read_table(path).columns) == ["a; b"]
