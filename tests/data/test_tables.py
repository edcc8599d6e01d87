"""Files in every format as tables, what is wrong with a file, and which columns are taken."""

import gzip
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lpft.data.reading import iter_rows
from lpft.data.tables import (
    choose_text_columns,
    column_values,
    ids_from_table,
    iter_tables,
    read_table,
    require_column,
    texts_from_table,
)
from lpft.errors import InputError

ROWS = [{"text": 'a "quoted", text', "label": "NA"}, {"text": "grüße\nzwei", "label": "null"}]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]
WRITERS = {
    "rows.csv": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False),
    "mark.CSV": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False, encoding="utf-8-sig"),
    "rows.csv.gz": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False),
    "rows.jsonl": lambda path: path.write_text("\n".join(LINES) + "\n", "utf-8"),
    "rows.json": lambda path: path.write_text("\n".join(LINES), "utf-8"),
    "array.json": lambda path: path.write_text(f"[{','.join(LINES)}]", "utf-8"),
    "lines.json": lambda path: path.write_text(
        json.dumps(ROWS, indent=2, ensure_ascii=False), "utf-8"
    ),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress("\n\n".join(LINES).encode())),
    "rows.parquet": lambda path: pd.DataFrame(ROWS).to_parquet(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert read_table(tmp_path / name).to_dict(orient="records") == ROWS


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-be", "utf-32", "utf-7", "cp500"]
)
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.txt.gz"])
def test_an_encoding_that_is_named_is_read(tmp_path, name, encoding):
    rows = [{"text": f"gr\u00fc\u00dfe {'x' * (row % 90)}", "n": str(row)} for row in range(3000)]
    if name == "rows.jsonl":
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        content = pd.DataFrame(rows).to_csv(index=False, sep="," if name == "rows.csv" else "\t")
    content = content.encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert read_table(path, encoding=encoding).to_dict(orient="records") == rows


@pytest.mark.parametrize(
    ("encoding", "content", "parts"),
    [
        ("cp1252", b"text\n" + b"fine\n" * 20_000 + b"\x81\n", ["line 20002", "0x81", "cp1252"]),
        ("ascii", b"text\nfine\nna\xefve\n", ["line 3", "0xef", "ascii"]),
        ("utf-16", "text\nfine\n".encode("utf-16")[:-1], ["line 2", "utf-16"]),
        ("latin-1", "text\nfine\n".encode("utf-16"), ["line 1", "null byte", "latin-1"]),
        ("utf-16", b"text\nfine\n", ["byte-order mark", "utf-16-le"]),
    ],
)
def test_a_line_of_another_encoding_than_the_named_one_is_named(tmp_path, encoding, content, parts):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_table(path, encoding=encoding)
    for part in (*parts, "encoding"):
        assert part in str(caught.value)


def test_rows_before_a_byte_that_cannot_be_read_still_come(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text\none\ntwo\n\xff\n")
    rows = iter_rows(path)
    assert [next(rows), next(rows)] == [{"text": "one"}, {"text": "two"}]
    with pytest.raises(InputError, match="line 4"):
        next(rows)


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.txt"])
@pytest.mark.parametrize("delimiter", [";", "|", "\t", ",", "^"])
def test_a_delimiter_that_is_named_separates_fields(tmp_path, name, delimiter):
    rows = [{"text": f"one{delimiter}two", "label": "x"}, {"text": "a, b; c", "label": "y"}]
    path = tmp_path / name
    if name != "rows.csv" and delimiter == "\t":
        rows[0]["text"] = "one two"
    pd.DataFrame(rows).to_csv(path, index=False, sep=delimiter)
    assert read_table(path, delimiter=delimiter).to_dict(orient="records") == rows


def test_a_wrong_delimiter_is_named(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,b\n")
    table = read_table(path, delimiter=";")
    with pytest.raises(InputError, match=r"'text,label' is separated by commas.*leave delimiter"):
        choose_text_columns(table, ("text",), "label", path)


@pytest.mark.parametrize(
    ("name", "content", "option"),
    [
        ("rows.jsonl", b'{"text": "a"}\n', {"delimiter": ";"}),
        ("rows.parquet", b"PAR1", {"delimiter": ";"}),
        ("rows.parquet", b"PAR1", {"encoding": "latin-1"}),
    ],
)
def test_what_a_file_says_itself_cannot_be_said_of_it(tmp_path, name, content, option):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{next(iter(option))} is for .* leave it out"):
        read_table(tmp_path / name, **option)


NESTED = [
    {"data": {"text": "one", "more": [{"text": "first"}, "second"]}, "label": "x"},
    {"data": {"text": "two"}, "data.text": "flat", "label": "y"},
    {"data": {"text": "three"}, "data.text": None, "label": "z", "a.b": {"c.d": 1}},
    {"data": "no object", "label": "x"},
]


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("data.text", ["one", "flat", "three", None]),
        ("data.more.0.text", ["first", None, None, None]),
        ("data.more.1", ["second", None, None, None]),
        ("a.b.c.d", [None, None, 1, None]),
        ("label", ["x", "y", "z", "x"]),
    ],
)
def test_a_path_leads_into_objects_and_a_flat_name_wins(tmp_path, path, values):
    lines, array = tmp_path / "rows.jsonl", tmp_path / "rows.json"
    lines.write_text("".join(json.dumps(row) + "\n" for row in NESTED))
    array.write_text(json.dumps(NESTED))
    for file in (lines, array):
        table = read_table(file)
        assert column_values(table, path) == values
        require_column(table, path, file)
        with pytest.raises(InputError, match=r"has no column 'data\.title'.*data\.text"):
            require_column(table, "data.title", file)
        with pytest.raises(InputError, match=r"did you mean 'data\.text'"):
            require_column(table, "text", file)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tsv_quotes_are_ordinary_unless_they_enclose_a_field(tmp_path, encoding):
    path = tmp_path / "rows.tsv"
    lines = ["text\tlabel", '"Never again\t0', 'it\'s "fine"\t1', '"all ""quoted"""\t2', '"\t3']
    path.write_text("\r\n".join(lines), encoding)
    table = read_table(str(path))
    assert list(table["text"]) == ['"Never again', 'it\'s "fine"', 'all "quoted"', '"']
    assert list(table["label"]) == ["0", "1", "2", "3"]


def test_a_blank_between_delimiter_and_quote_is_no_part_of_the_field(tmp_path):
    """As pandas reads it with skipinitialspace; a quoted text that begins so itself stays."""
    path = tmp_path / "blanks.csv"
    path.write_text('"text", "label"\n"good, they say",  "a ""b"", c"\n"plain", "x"\n')
    expected = pd.read_csv(path, skipinitialspace=True)
    pd.testing.assert_frame_equal(read_table(path), expected.astype(object))
    texts = [' "Yes" she said', '  "no"', " a", "b "]
    pd.DataFrame({"text": texts, "label": ["x", ' "y"', " z", ""]}).to_csv(path, index=False)
    assert list(read_table(path)["text"]) == texts
    assert list(read_table(path)["label"]) == ["x", ' "y"', " z", ""]
    path.write_text('text,label\n "Great" he said,x\nb,y\n')
    assert list(read_table(path)["text"]) == list(pd.read_csv(path)["text"])
    path.write_text('text,label\n"a", "b\nc"\n')
    with pytest.raises(InputError, match="line 2: not valid CSV"):
        read_table(path)


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
    frame = pd.DataFrame({"text": [f"text {i}" for i in range(2501)], "label": "x"})
    match path.suffix:
        case ".jsonl":
            frame.to_json(path, orient="records", lines=True)
        case ".parquet":
            frame.to_parquet(path)
        case suffix:
            frame.to_csv(path, index=False, sep={".csv": ",", ".tsv": "\t"}[suffix])
    chunks = list(iter_tables(path, rows=1000))
    assert [len(chunk) for chunk in chunks] == [1000, 1000, 501]
    assert [index for chunk in chunks for index in chunk.index] == list(range(2501))
    assert [text for chunk in chunks for text in chunk["text"]] == list(frame["text"])


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
        ("rows.txt", b"a\t0\n", ("text",), "first line has 2 columns, expected 1.*name: text"),
        ("rows.txt", b"a\t0\n", ("text", "text"), "'text' occurs more than once"),
        ("rows.csv", b"", ("text", "label"), "rows.csv is empty"),
        ("rows.csv", b"text,label\n", ("text", "label"), "has no rows"),
        ("rows.jsonl", b'{"text": "a"}\n', ("text",), "names its columns itself"),
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
    "gzip of parquet": ("rows.parquet.gz", b"x", ["unknown file ending"]),
    "empty csv": ("rows.csv", b"", ["rows.csv is empty", "names the columns"]),
    "empty jsonl": ("rows.jsonl", b"", ["has no rows"]),
    "header only": ("rows.csv", b"text,label\n", ["has no rows"]),
    "latin-1": (
        "rows.csv",
        b"text,label\ngr\xfc\xdfe,1\n",
        ["line 2", "0xfc", "UTF-8", "encoding", "latin-1"],
    ),
    "utf-16": ("rows.tsv", "text\tlabel\n".encode("utf-16"), ["line 1", "UTF-8", "utf-16"]),
    "field too many": (
        "rows.csv",
        b"text,label\na,1\n\nb,c,1\n",
        ["line 4", "found 3", "expected 2"],
    ),
    "field too few": ("rows.tsv", b"text\tlabel\na\n", ["line 2", "found 1", "expected 2"]),
    "unclosed quote": ("rows.csv", b'text,label\n"a,1\nb,2\n', ["line 3", "not valid CSV"]),
    "stray quote": ("rows.csv", b'text,label\n"a" b,1\n', ["line 2", "not valid CSV"]),
    "duplicate column": ("rows.csv", b"text,label, text\na,1,b\n", ["'text'", "more than once"]),
    "duplicate name": ("rows.jsonl", b'{"a": 1, "a": 2}\n', ["line 1", "more than once"]),
    "broken json": ("rows.jsonl", b'{"a": 1}\n{"a": \n', ["line 2", "not valid JSON"]),
    "list after an object": ("rows.json", b'{"a": 1}\n[]\n', ["line 2", "list", "one object"]),
    "array of numbers": ("rows.json", b'[{"a": 1},\n 2]\n', ["line 2", "int", "one array"]),
    "array without an end": ("rows.json", b'[{"a": 1},\n', ["line 1", "does not end"]),
    "array without a comma": ("rows.json", b'[{"a": 1}\n{"a": 2}]', ["line 2", "found '{'", ","]),
    "array and more": ("rows.json", b'[{"a": 1}]\n{"a": 2}', ["line 2", "nothing more"]),
    "array with a broken row": ("rows.json", b'[\n{"a": 1},\n{"a": },\n{}]', ["line 3", "JSON"]),
    "comma at an array's end": ("rows.json", b'[{"a": 1},\n]', ["line 2", "not valid JSON"]),
    "empty array": ("rows.json", b"[ ]", ["has no rows"]),
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
    "carriage returns": ("rows.csv", b"text,label\ra,1\rb,2\r", ["carriage returns only"]),
    "carriage returns in tsv": ("rows.tsv", b"text\tlabel\ra\t1", ["carriage returns only"]),
    "carriage returns before one line feed": (
        "rows.csv",
        b"text,label\ra,1\rb,2\r\n",
        ["carriage return", "line feeds"],
    ),
    "utf-32": ("rows.csv", "text,l\n".encode("utf-32"), ["line 1", "UTF-8", "utf-32"]),
    "delimiter for Excel": ("rows.csv", b"sep=;\ntext;label\na;1\n", ["sep=;", "remove it"]),
    "columns of pandas": (
        "rows.json",
        b'{"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}}',
        ["one object", "per row", "records"],
    ),
    "rows in an object": ("rows.json", b'{"data": [{"text": "a"}]}\n', ["one object", "per row"]),
    "semicolons": (
        "rows.csv",
        b"text;label\ngood, fine;1\n",
        [
            "'text;label' is separated by semicolons, expected commas",
            "delimiter ';'",
            "write it with commas",
        ],
    ),
    "bars": ("rows.csv", b"text|label\ngood, fine|1\n", ["by vertical bars", "delimiter '|'"]),
    "semicolons and quotes": ("rows.csv", b'text;label\n"a;b";1\n', ["by semicolons"]),
    "tabs in csv": (
        "rows.csv",
        b"text\tlabel\na, b\t1\n",
        ["by tabs", "delimiter tab", "or name it .tsv"],
    ),
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


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**62], pa.timestamp("us")),
        pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers()),
    ],
    ids=["year 150000", "not UTF-8"],
)
def test_a_value_of_parquet_that_python_has_none_of_is_named_by_its_column(tmp_path, column):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a"], "odd": column}), path)
    with pytest.raises(InputError, match=r"rows\.parquet, column 'odd'"):
        read_table(path)


def test_an_object_of_one_row_is_a_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"data": {"text": "a"}, "label": 1}\n')
    assert len(read_table(path)) == 1


def test_damaged_parquet_and_a_folder_are_named(tmp_path):
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"text": [f"text {i}" for i in range(5000)]}).to_parquet(path)
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_table(path)
    (tmp_path / "rows.csv").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_table(tmp_path / "rows.csv")


def test_what_looks_like_a_mistake_and_is_none(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'text\n"a\rb; c"\nd\n')
    assert list(read_table(path)["text"]) == ["a\rb; c", "d"]
    path.write_bytes(b"a; b\nc\n")
    assert list(read_table(path).columns) == ["a; b"]
    # longer than the limit of Python's csv module, and than a block of pyarrow's
    path.write_bytes(b'text\n"' + b"a\n" * 600_000 + b'"\nb\n')
    assert [len(text) for text in read_table(path)["text"]] == [1_200_000, 1]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "x", "other": "y", "label": "a"}, "text"),
        ({"Sentence": "x", "other": "y", "label": "a"}, "Sentence"),
        ({"text": "x", "sentence": "y", "label": "a"}, "text"),
        ({"id": "r1", "review": "x y", "stars": "5", "label": "a"}, "review"),
        ({"review": "x y", "stars": 5, "label": "a"}, "review"),
    ],
)
def test_the_text_column_is_found(row, expected):
    assert choose_text_columns(pd.DataFrame([row]), None, "label", "f") == (expected,)


@pytest.mark.parametrize("row", [{"a": "x y", "b": "y z", "label": "c"}, {"n": "5", "label": "c"}])
def test_an_unclear_text_column_is_asked_for(row):
    with pytest.raises(InputError) as caught:
        choose_text_columns(pd.DataFrame([row]), None, "label", "f.csv")
    for part in ["f.csv", *row, "text_columns", "text or sentence"]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "columns",
    [[], ["a", "a"], ["a", "label"], ["a", "b", "c"]],
    ids=["none", "twice", "label", "3"],
)
def test_text_columns_that_make_no_sense(columns):
    table = pd.DataFrame([{"a": "x", "b": "y", "c": "z", "label": "l"}])
    with pytest.raises(InputError, match="one text column, or two different ones for pairs"):
        choose_text_columns(table, columns, "label", "f.csv")


def test_ids_are_taken_where_unique():
    assert ids_from_table(pd.DataFrame({"id": ["x", "y"]})) == ["x", "y"]
    assert ids_from_table(pd.DataFrame({"idx": [7, 5]})) == ["7", "5"]
    assert ids_from_table(pd.DataFrame({"id": ["x", "x"], "idx": [1, 2]})) == ["1", "2"]
    assert ids_from_table(pd.DataFrame({"id": ["x", ""]}, index=[3, 4])) == ["3", "4"]
    assert ids_from_table(pd.DataFrame({"idx": [{"a": 1}, {"a": 2}]})) == ["0", "1"]


def test_texts_are_counted_by_the_tables_index():
    table = pd.DataFrame({"text": ["a", " "]}, index=[1000, 1001])
    with pytest.raises(InputError, match="no text in row 1002"):
        texts_from_table(table, ["text"], "f.csv")
