"""Bad input at the command line: exit 2, one clear line, every file as it was."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

ADVICE = re.compile(
    r"\b(expected|must|give|name|use|leave|choose|see|run|lower|train|make|wait|restore|check|"
    r"replace|reads|requires|did you mean)\b"
)
NAMED = re.compile(r"(?<!\w)'[^']*'(?!\w)|\S*/\S*|\S+\.(csv|tsv|txt|jsonl|json|yaml|parquet|gz)\b")
"""Values, paths and files in a message, whose own words are no advice."""
PROGRESS = re.compile(r"(warning: |linear probe: |epoch |going on from |training lp$)")


def table(labels, header="text,label"):
    """CSV text with one row per label; no two texts are the same."""
    rows = (f"good table {'a ' * i}lamp,{label}" for i, label in enumerate(labels))
    return "\n".join([header, *rows]) + "\n"


def parquet(**columns):
    return pd.DataFrame(columns).to_parquet(index=False)


def json_lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


GOOD = table(["good", "bad"] * 6)
TRAIN = "train --model MODEL --method lp --max-length 32 --output-dir out"
FILE = f"{TRAIN} --train-file train.csv"
FT = "train --model MODEL --method ft --max-length 32 --output-dir out --train-file train.csv"
X = f"{TRAIN} --train-file x"
CONFIG = f"{FILE} --config run.yaml"
CB = f"{TRAIN} --task cb --data-dir ."
LONG = "a" * 300
CB_ROW = {"premise": "it was good", "hypothesis": "good", "label": "entailment"}


def case(title, command, *names, stdin=b"", **files):
    """A command, what its error must name, and the files that it finds beside ``train.csv``."""
    files = {name.replace("__", "."): content for name, content in files.items()}
    return pytest.param(command, names, files, stdin, id=title)


def numbers(command, *values):
    option = command.split()[-1]
    return [case(f"{option} {value}", f"{command} {value}", option, value) for value in values]


CALLS = [
    case("no command", "", "COMMAND"),
    case("unknown command", "trian", "trian", "train"),
    case("unknown option", f"{FILE} --poling mean", "--poling"),
    case("shortened option", f"{FILE} --pool mean", "--pool"),
    case("option by another name", f"{FT} --lr 1e-3", "--lr", "did you mean --learning-rate?"),
    case("output by another name", "predict x --output-dir y", "did you mean --output?"),
    case("no data named", TRAIN, "--task", "--train-file"),
    case("task and file", f"{FILE} --task cb", "--task cb", "--train-file"),
    case("task and OOD file", f"{TRAIN} --task demo --ood a=train.csv", "--task demo", "--ood"),
    case("unknown task", f"{TRAIN} --task cbb", "'cbb'", "cb"),
    case("unknown task to show", "tasks cbb", "'cbb'", "cb"),
    case("unknown method", f"{FILE} --method lpft", "--method", "lpft", "did you mean lp-ft?"),
    case("unknown format", "export x --format onx", "--format", "did you mean onnx?"),
    case("unknown pooling", f"{FILE} --pooling max", "--pooling", "max", "mean"),
    case("weight of no class", f"{FILE} --class-weight odd=2", "--class-weight", "'odd'", "good"),
    case("class weight of 0", f"{FILE} --class-weight good=0", "--class-weight", "LABEL=WEIGHT"),
    case("class weight without a class", f"{FILE} --class-weight 2", "--class-weight", "2"),
    case("unknown device", f"{FILE} --device gpu", "--device", "gpu", "cuda"),
    case("unknown split protocol", f"{FILE} --split-protocol half", "half", "stratified"),
    case("unknown tracker", f"{FT} --report-to nonsense", "--report-to", "nonsense"),
    case("template that does not exist", f"{CB} --template 7", "cb", "template 7"),
    case("template of a file", f"{FILE} --template 1", "--template", "--task"),
    case("learning rate of lp", f"{FILE} --learning-rate 0.1", "--learning-rate", "--method lp"),
    case("head scale of lp", f"{FILE} --head-scale 2", "--head-scale", "--method lp"),
    case("rank of ft", f"{FT} --lora-rank 4", "--lora-rank", "--method ft"),
    case("resume and overwrite", f"{FILE} --resume --overwrite", "--resume", "--overwrite"),
    case("longer than the model reads", f"{FILE} --max-length 65", "--max-length 65", "64"),
    case("more classes than rows", f"{X}.csv --max-train-samples 2", "2", "3 classes",
         x__csv=table(["a", "b", "c"] * 4)),
    case("too few rows to score a training", f"{FT} --max-train-samples 2", "held out"),
    case("too few rows to score any method", f"{FT} --max-train-samples 2 --method auto",
         "held out"),
    *numbers(f"{FT} --epochs", "-1", "0", "nan", "inf", "many"),
    *numbers(f"{FT} --learning-rate", "-1", "0", "nan", "inf", "high"),
    *numbers(f"{FT} --batch-size", "-1", "0", "nan", "inf", "1.5", "all"),
    *numbers(f"{FILE} --max-length", "-1", "0", "nan", "inf", "1.5", "long"),
    *numbers(f"{FILE} --seed", "-1", "nan", "inf", "0.5", "4294967296", "lucky"),
    *numbers(f"{FT} --weight-decay", "-1", "nan", "inf", "little"),
    *numbers(f"{FT} --head-scale", "-1", "nan", "inf", "double"),
    *numbers(f"{FT} --method lora --lora-rank", "-1", "0", "nan", "inf", "1.5", "full"),
    *numbers(f"{FT} --method lora --lora-alpha", "-1", "0", "nan", "inf", "half"),
    *numbers(f"{FILE} --max-train-samples", "-1", "0", "1", "nan", "inf", "few"),
]  # fmt: skip

CONFIGS = [
    case("missing YAML", CONFIG, "run.yaml"),
    case("damaged YAML", CONFIG, "run.yaml", run__yaml="seed: [1\nmethod: lp"),
    case("YAML that is not UTF-8", CONFIG, "run.yaml", run__yaml=b"label-column: caf\xe9\n"),
    case("YAML list", CONFIG, "run.yaml", run__yaml="- method\n- lp\n"),
    case("YAML name twice", CONFIG, "run.yaml", "'seed'", "twice", run__yaml="seed: 1\nseed: 2\n"),
    case("YAML name in two spellings", CONFIG, "run.yaml", "max_length", "twice",
         run__yaml="max-length: 8\nmax_length: 16\n"),
    case("YAML class twice", CONFIG, "run.yaml", "'good'", "twice",
         run__yaml="class-weight: {good: 1, good: 2}\n"),
    case("YAML that is a folder", f"{FILE} --config data", "data", **{"data/a__txt": ""}),
    case("YAML in UTF-16", CONFIG, "run.yaml", "not UTF-8", run__yaml="seed: 1".encode("utf-16")),
    case("unknown YAML key", CONFIG, "poling", "pooling", run__yaml="poling: mean\n"),
    case("unknown YAML method", f"{X} --config run.yaml".replace("--method lp", ""),
         "did you mean lp-ft?", run__yaml="method: lpft\n"),
    case("unknown YAML pooling", CONFIG, "pooling", "max", "mean", run__yaml="pooling: max\n"),
    case("YAML list for a number", CONFIG, "seed", run__yaml="seed: [1, 2]\n"),
    case("YAML text for a truth", CONFIG, "head_bias", "maybe", run__yaml="head-bias: maybe\n"),
    case("YAML number for an OOD file", CONFIG, "ood", "3", run__yaml="ood: {far: 3}\n"),
    *[case(f"YAML without a value of {name}", CONFIG, f"{name.replace('-', '_')} is empty",
           expected, run__yaml=f"{name}:\n")
      for name, expected in {"seed": "from 0 to 4294967295", "ood": "NAME=FILE", "device": "cuda",
                             "head-bias": "true or false", "resume": "true or false"}.items()],
    case("YAML NaN", CONFIG, "max_train_samples", "nan", run__yaml="max-train-samples: .nan\n"),
]  # fmt: skip

FILES = [
    case("missing training file", f"{X}.csv", "x.csv"),
    case("missing OOD file", f"{FILE} --ood far=x.csv", "x.csv"),
    case("unknown ending", f"{X}.xlsx", "x.xlsx", ".csv", x__xlsx=GOOD),
    case("empty file", f"{X}.csv", "x.csv", "empty", x__csv=""),
    case("not UTF-8", f"{X}.csv", "x.csv", "line 2", "UTF-8", x__csv=b"text,label\ncaf\xe9,good\n"),
    case("another encoding", f"{X}.csv --encoding cp1252", "line 2", "0x81", "--encoding",
         x__csv=b"text,label\n\x81,good\n"),
    case("encoding of no text", f"{FILE} --encoding rot13", "'rot13'", "expected utf-8"),
    case("unknown encoding", f"{FILE} --encoding latin-11", "--encoding", "latin-11", "latin1"),
    case("delimiter of two characters", f"{FILE} --delimiter ';;'", "--delimiter", "';;'", "tab"),
    case("another delimiter", f"{X}.csv", "semicolons", "--delimiter ';'",
         x__csv=GOOD.replace(",", ";")),
    case("row with too many fields", f"{X}.csv", "line 14", "3", x__csv=GOOD + "a,b,good\n"),
    case("stray quote", f"{X}.csv", "line", "quote", x__csv=GOOD + '"a"b,good\n'),
    case("damaged JSON line", f"{X}.jsonl", "line 2",
         x__jsonl=json_lines({"text": "a", "label": "b"}) + '{"text": \n'),
    case("damaged Parquet", f"{X}.parquet", "x.parquet",
         x__parquet=parquet(text=["a", "b"], label=["x", "y"])[:-30]),
    case("damaged gzip", f"{X}.csv.gz", "x.csv.gz", "gzip", **{"x__csv__gz": GOOD}),
]  # fmt: skip

COLUMNS = [
    case("wrong text column", f"{FILE} --text-columns txt", "'txt'", "text"),
    case("wrong label column", f"{FILE} --label-column lable", "'lable'", "label"),
    case("label as text", f"{FILE} --text-columns label", "label column"),
    case("text column not clear", f"{X}.csv", "premise", "hypothesis", "--text-columns",
         x__csv="premise,hypothesis,label\na,b,good\nb,c,bad\n"),
    case("no line of names", f"{X}.txt", "--text-columns", "--column-names",
         x__txt="a\tgood\nb\tbad\n"),
    case("names exchanged", f"{X}.txt --column-names label,text", "20 different labels", "20 rows",
         x__txt="".join(f"thing {row}\tgood\n" for row in range(20))),
    case("names for a task", "train --task demo --column-names text,label", "--column-names"),
    case("blank text", f"{X}.csv", "row 13", "'text'", x__csv=GOOD + '"  ",good\n'),
    case("missing label", f"{X}.csv", "row 13", "'label'", x__csv=GOOD + "a,\n"),
    case("float labels", f"{X}.csv", "regression", "'0.5'", x__csv=table(["0.5", "1.5"] * 5)),
    case("list labels", f"{X}.jsonl", "multi-label", "['a', 'b']",
         x__jsonl=json_lines(*[{"text": f"t{i}", "label": ["a", "b"]} for i in range(9)])),
    case("labels written otherwise in OOD", f"{FILE} --ood far=x.csv", "x.csv", "'Good'", "'good'",
         "row 2", x__csv=table(["good", "Good"])),
    case("OOD without name", f"{FILE} --ood train.csv", "--ood", "NAME=FILE"),
    case("unsafe OOD name", f"{FILE} --ood ../far=train.csv", "'../far'"),
    case("OOD twice", f"{FILE} --ood far=train.csv --ood far=train.csv", "--ood", "'far'", "twice"),
]  # fmt: skip

TASKS = [
    case("missing data folder", f"{TRAIN} --task cb --data-dir none", "none", "cb"),
    case("wrong data folder", CB, "CB/train.jsonl", "superglue"),
    case("task file with wrong labels", CB, "'maybe'", "entailment",
         **{"CB/train__jsonl": json_lines(*[CB_ROW | {"label": "maybe"}] * 9),
            "CB/val__jsonl": json_lines(CB_ROW)}),
]  # fmt: skip

MODELS = [
    case("missing model folder", FILE.replace("MODEL", "./no-model"), "no-model"),
    case("unknown model", FILE.replace("MODEL", "no/such-model"), "no/such-model", "Hub"),
    case("unknown model, with much to say about the data", f"{X}.csv".replace("MODEL", "no/model"),
         "no/model", x__csv=GOOD + GOOD.partition("\n")[2]),
    case("empty model folder", FILE.replace("MODEL", "model"), "model", **{"model/a__txt": ""}),
    case("no output folder but a file", f"{FILE} --output-dir train.csv", "train.csv"),
    case("output folder with other files", f"{FILE} --output-dir data", "data", "notes.txt",
         **{"data/notes__txt": "mine"}),
    case("output is this folder", f"{FILE} --output-dir .", "'.'", "train.csv"),
    case("overwrite a folder with other files", f"{FILE} --output-dir data --overwrite", "data",
         "notes.txt", **{"data/notes__txt": "mine"}),
    case("damaged record of an output folder", f"{FILE} --output-dir data --resume",
         "data", "run.json", **{"data/run__json": '{"status": "fin'}),
    case("record of another program", f"{FILE} --output-dir data --resume", "'data'", "run.json",
         **{"data/run__json": '{"status": "ok", "config": 3}'}),
    case("demo into a file", "demo --output-dir train.csv", "train.csv"),
    case("demo with a wrong seed", "demo --output-dir out --seed -1", "--seed", "-1"),
    case("name that no file can have", f"{FILE} --output-dir {LONG}", LONG),
    case("report of a folder without runs", "report .", "no runs"),
]  # fmt: skip

# With a finished run in "run" (single texts) and another in "pairs".
RUNS = [
    case("train into a finished run", f"{FILE} --output-dir run", "'run'", "--overwrite"),
    case("replace a run by a missing file", f"{X}.csv --output-dir run --overwrite", "x.csv"),
    case("resume with another seed", f"{FILE} --output-dir run --resume --seed 5", "run", "seed",
         "5"),
    case("resume with other data", f"{X}.csv --output-dir run --resume", "run", "data",
         "another file", x__csv=table(["good", "bad"] * 7)),
    case("resume with a test file more", f"{FILE} --output-dir run --resume --test-file train.csv",
         "run", "data", "another file"),
    case("resume with missing data", f"{X}.csv --output-dir run --resume", "x.csv"),
    case("resume with another model", "train --output-dir run --resume --model minilm", "run",
         "weights", "another model"),
    case("resume with class weights", f"{FILE} --output-dir run --resume --class-weight balanced",
         "without --class-weight"),
    case("resume without a folder", "train --resume", "--output-dir"),
    case("resume with another method", "train --output-dir run --resume --method lp-ft", "run",
         "method", "lp-ft"),
    case("evaluate nothing", "evaluate run", "--task", "--file"),
    case("evaluate on other classes", "evaluate run --task demo", "demo", "negative", "good"),
    case("evaluate a missing folder", "evaluate none --file train.csv", "none", "lpft train"),
    case("evaluate a plain model", "evaluate MODEL --file train.csv", "bert", "--model"),
    case("evaluate another label column", "evaluate run --file train.csv --label-column class",
         "'class'", "label"),
    case("evaluate without labels", "evaluate run --file x.csv", "x.csv", "'label'",
         x__csv="text\ngood\n"),
    case("evaluate labels written otherwise", "evaluate run --file x.csv", "'GOOD'", "'good'",
         x__csv=table(["good", "GOOD"])),
    case("evaluate singles as pairs", "evaluate run --file x.csv --text-columns a,b", "x.csv",
         "expected one text column, found two (a, b): name one with",
         x__csv="a,b,label\nx,y,good\n"),
    case("predict singles as pairs", "predict run --file x.csv --text-columns a,b", "x.csv",
         "expected one text column, found two (a, b): name one with", x__csv="a,b\nx,y\n"),
    case("evaluate a file from a data folder", "evaluate run --file train.csv --data-dir .",
         "--data-dir"),
    case("predict with a plain model", "predict MODEL --text good", "bert", "--model"),
    case("predict no text", "predict run --text", "--text"),
    case("predict an empty text", "predict run --text good ''", "text 2"),
    case("predict text that is not UTF-8", "predict run --text caf\udce9", "text 1", "UTF-8"),
    case("predict an empty line", "predict run", "line 2", stdin=b"good\n\nbad\n"),
    case("predict half of a UTF-16 line", "predict run", "utf-16", stdin=b"\xff\xfea\x00\xd8"),
    case("predict UTF-16 without its mark", "predict run", "line 1", "UTF-8", stdin=b"a\0b\0"),
    case("predict UTF-16 that is named, without its mark", "predict run --encoding utf-16",
         "byte-order mark", "utf-16-le", stdin="good\n".encode("utf-16-le")),
    case("predict a line that is not UTF-8", "predict run", "UTF-8", stdin=b"caf\xe9\n"),
    case("predict an odd number of texts for pairs", "predict pairs --text a b c", "3", "pair"),
    case("predict lines that are no pairs", "predict pairs", "line 1", "tab", stdin=b"good\n"),
    case("predict single texts for pairs", "predict pairs --file train.csv --text-columns text",
         "train.csv", "expected two text columns, found one (text): name two with"),
    case("predict columns of named texts", "predict run --text good --text-columns text",
         "--text-columns"),
    case("misspelt option", "ntk --poling first --task cb", "--poling", "--pooling"),
    case("resume of nothing", "train --resume --output-dir none", "'none'", "no run"),
    case("overwrite in YAML", "train --config o.yaml", "--overwrite",
         o__yaml="task: demo\noverwrite: true\n"),
    case("predict columns of lines", "predict run --column-names text", "--column-names",
         stdin=b"good\n"),
    case("evaluate a task by names", "evaluate run --task demo --column-names text,label",
         "--column-names"),
    case("predict into an existing file", "predict run --text good --output x.csv", "x.csv",
         "--overwrite", x__csv="mine"),
    case("predict into an unknown ending", "predict run --text good --output x.txt", "x.txt",
         ".csv"),
    case("predict into a folder", "predict run --text good --output folder.csv --overwrite",
         "folder.csv", **{"folder.csv/a__txt": ""}),
    case("predict a file that ends badly", "predict run --file x.csv --output y.jsonl", "x.csv",
         "row 1501", x__csv="text\n" + "good\n" * 1500 + '" "\n'),
    case("predict into the input", "predict run --file train.csv --output train.csv --overwrite",
         "'train.csv' is the input"),
    case("predict an empty file", "predict run --file x.csv --output y.csv", "x.csv is empty",
         x__csv=""),
    case("predict a line of names", "predict run --file x.csv --output y.csv", "no rows",
         x__csv="text\n"),
    case("predict more classes than there are", "predict run --file train.csv --top-k 3",
         "--top-k 3", "2 classes"),
    case("predict no classes", "predict run --file train.csv --top-k 0", "--top-k 0"),
    case("predict with a column that is not there",
         "predict run --file train.csv --keep-columns text,id", "'id'", "--keep-columns"),
    case("predict columns of no file", "predict run --text a --keep-columns id", "--keep-columns"),
    case("predict texts in an encoding", "predict run --text a --encoding utf-8", "--encoding"),
    case("resume what goes nowhere", "predict run --file train.csv --resume", "--output"),
    case("resume standard input", "predict run --output x.csv --resume", "--file"),
    case("resume a finished file", "predict run --file train.csv --output x.csv --resume", "x.csv",
         "finished", x__csv="mine"),
    case("predict into a file of an unfinished job", "predict run --file train.csv --output x.csv",
         "x.csv.partial", "--resume", **{"x.csv.partial/job__json": "{}"}),
    case("report over an existing page", "report run --output x.html", "x.html", "--overwrite",
         x__html="mine"),
    case("report that is no page", "report run --output x.pdf", "x.pdf", ".html"),
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(lpft, tiny_bert, tmp_path_factory):
    """Two LP runs, of single texts and of pairs, and the file of the first."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "train.csv").write_text(GOOD)
    pairs = [line.replace(",", ",i saw,") for line in GOOD.splitlines()[1:]]
    (folder / "pairs.csv").write_text("\n".join(["a,b,label", *pairs]) + "\n")
    train = f"train --model {tiny_bert} --method lp --max-length 32 --train-file {folder}"
    for options in (
        f"/train.csv --output-dir {folder}/run",
        f"/pairs.csv --output-dir {folder}/pairs --text-columns a,b",
    ):
        outcome = lpft(*(train + options).split())
        assert outcome.status == 0, outcome.err
    return folder


def test_help_is_no_option_that_may_be_meant(refused):
    assert "did you mean" not in refused("train --hlp", "--hlp")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that a command runs in: it holds ``train.csv``, and no network is asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "train.csv").write_text(GOOD)
    return tmp_path


@pytest.fixture
def refused(lpft, folder, tiny_bert) -> Callable[..., str]:
    """Run a command that must be refused, with nothing changed, and give its message."""

    def check(command: str, *names: str, stdin: bytes = b"") -> str:
        before = snapshot(folder)
        arguments = [part.replace("MODEL", str(tiny_bert)) for part in shlex.split(command)]
        outcome = lpft(*arguments, stdin=stdin)
        message = error_message(outcome)
        missing = [name for name in names if name not in message]
        assert not missing, f"{message!r} does not name {missing}"
        assert snapshot(folder) == before
        return message

    return check


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file's bytes and every folder below ``folder``, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def error_message(outcome: tuple[int, str, str]) -> str:
    """The one or two lines of a refusal, checked for what all of them have in common."""
    status, out, err = outcome
    assert status == 2, err
    assert out == ""
    lines = err.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    assert len(starts) == 1, err
    noise = [line for line in lines[: starts[0]] if not PROGRESS.match(line)]
    assert not noise, f"between command and error: {noise}"
    message = lines[starts[0] :]
    assert len(message) <= 2, err
    text = " ".join(message)
    assert "Traceback" not in text
    assert not text.startswith("error: unexpected")
    assert len(text) < 700, f"{len(text)} characters: {text}"
    assert ADVICE.search(NAMED.sub("", text)), f"says not what to do: {text}"
    return text


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize(
    ("command", "names", "files", "stdin"), CALLS + CONFIGS + FILES + COLUMNS + TASKS + MODELS
)
def test_bad_input_is_refused(refused, folder, command, names, files, stdin):
    write(folder, files)
    refused(command, *names, stdin=stdin)


@pytest.mark.parametrize(("command", "names", "files", "stdin"), RUNS)
def test_bad_input_to_a_run_is_refused(refused, folder, finished, command, names, files, stdin):
    for name in ("run", "pairs"):
        shutil.copytree(finished / name, folder / name)
    write(folder, files)
    refused(command, *names, stdin=stdin)


def cut(name):
    """Damage by name: each takes the folder of a model or a run."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-40])


def flipped(name):
    """One bit of the last number is another."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-3] ^= 1
        (folder / name).write_bytes(content)

    return damage


def without(pattern):
    return lambda folder: [path.unlink() for path in folder.glob(pattern)]


def content(name, text):
    return lambda folder: write(folder, {name: text})


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def config(**values):
    return lambda folder: change_json(folder / "config.json", **values)


def weights(change):
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})
        (folder / "SHA256SUMS").unlink(missing_ok=True)  # or nothing but the digest is looked at

    return damage


def forget_words(model: Path) -> None:
    """Leave the model embeddings of its first 20 tokens only."""
    name = "embeddings.word_embeddings.weight"
    weights(lambda w: w.update({name: w[name][:20].clone()}))(model)
    config(vocab_size=20)(model)


fill_with_nan = weights(lambda tensors: [tensor.fill_(torch.nan) for tensor in tensors.values()])

DAMAGED_MODELS = {
    "no weights": without("model.safetensors"),
    "cut weights": cut("model.safetensors"),
    "weights that are text": content("model.safetensors", "weights"),
    "empty weights": content("model.safetensors", ""),
    "weights without a layer": weights(lambda w: w.pop("encoder.layer.1.output.dense.weight")),
    "weights of another width": config(hidden_size=48),
    "no config": without("config.json"),
    "cut config": cut("config.json"),
    "config that is a list": content("config.json", "[]"),
    "config of an unknown family": config(model_type="perceptron"),
    "config of another family": config(model_type="gpt2"),
    "config with text for a number": config(num_hidden_layers="two"),
    "config with heads that do not divide": config(num_attention_heads=5),
    "no tokenizer": without("tokenizer*"),
    "cut tokenizer": cut("tokenizer.json"),
    "tokenizer with more tokens than the model": forget_words,
    "cut pooling": content("1_Pooling/config.json", '{"pooling'),
}
DAMAGED_RUNS = {
    "no weights": without("model.safetensors"),
    "cut weights": cut("model.safetensors"),
    "a flipped bit of the weights": flipped("model.safetensors"),
    "weights without the head": weights(lambda w: w.pop("head.weight")),
    "head of another width": weights(lambda w: w.update({"head.weight": torch.zeros(2, 7)})),
    "weights that are nan": fill_with_nan,
    "no config": without("config.json"),
    "cut config": cut("config.json"),
    "no tokenizer": without("tokenizer*"),
    "cut tokenizer": cut("tokenizer.json"),
    "cut record": cut("run.json"),
    "record without its data": content("run.json", '{"status": "finished", "config": {}}'),
    "record whose config is a list": lambda run: change_json(run / "run.json", config=[]),
}
USES = ["evaluate run --file train.csv", "predict run --text good"]


@pytest.mark.parametrize("damage", DAMAGED_MODELS)
def test_a_damaged_model_is_refused(refused, folder, tiny_bert, damage):
    shutil.copytree(tiny_bert, folder / "model")
    DAMAGED_MODELS[damage](folder / "model")
    refused(FILE.replace("MODEL", "model"), str(folder / "model"))


@pytest.mark.parametrize("command", USES)
@pytest.mark.parametrize("damage", DAMAGED_RUNS)
def test_a_damaged_run_is_refused(refused, folder, finished, damage, command):
    shutil.copytree(finished / "run", folder / "run")
    DAMAGED_RUNS[damage](folder / "run")
    refused(command, *(["finite"] if "nan" in damage else ["run"]))


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
@pytest.mark.parametrize("command", USES)
def test_an_unfinished_run_is_refused(refused, folder, finished, command, status):
    (folder / "run").mkdir()
    record = json.loads((finished / "run/run.json").read_text())
    (folder / "run/run.json").write_text(json.dumps(record | {"status": status}))
    refused(command, "run")
    refused("train --train-file train.csv --output-dir run", "run", status, "--resume")
    refused("report run", "run", status)


def test_a_run_whose_metrics_are_damaged_makes_no_report(refused, folder, finished):
    shutil.copytree(finished / "run", folder / "run")
    cut("metrics.json")(folder / "run")
    refused("report .", "run", "metrics.json")


@pytest.mark.parametrize("command", [FILE, FT])
def test_a_model_with_weights_that_are_nan_is_named(refused, folder, tiny_bert, command):
    shutil.copytree(tiny_bert, folder / "model")
    fill_with_nan(folder / "model")
    assert "diverged" not in refused(command.replace("MODEL", "model"), "model", "NaN")


def test_diverging_training_says_so_and_leaves_a_failed_record(lpft, folder, tiny_bert):
    arguments = FT.replace("MODEL", str(tiny_bert)).split()
    outcome = lpft(*arguments, "--learning-rate", 1e6, "--epochs", 30)
    message = error_message(outcome)
    assert "diverged" in message
    assert "--learning-rate" in message
    record = json.loads((folder / "out/run.json").read_text())
    assert record["status"] == "failed"
    assert "diverged" in record["reason"]
    assert "lower learning_rate" in record["reason"]
    results = {"metrics.json", "model.safetensors", "config.json", "predictions", "features.json"}
    assert not results & {path.name for path in (folder / "out").iterdir()}

    # what failed can be replaced, not mistaken for a result
    again = lpft(*arguments, "--learning-rate", 1e-4, "--epochs", 1, "--overwrite")
    assert again.status == 0, again.err
    assert json.loads((folder / "out/run.json").read_text())["status"] == "finished"


CHANGES = {
    "training text": ("data", content("train.csv", GOOD.replace("a a", "a"))),
    "training label": ("data", content("train.csv", GOOD.replace("lamp,good", "lamp,bad", 1))),
    "validation text": ("data", content("valid.csv", table(["bad", "good"] * 3))),
    "weights": (
        "weights",
        lambda folder: weights(lambda w: w["embeddings.LayerNorm.bias"].add_(1))(folder / "model"),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_interrupted_run_does_not_go_on_with_other_inputs(
    refused, lpft, folder, tiny_bert, change
):
    shutil.copytree(tiny_bert, folder / "model")
    (folder / "valid.csv").write_text(table(["good", "bad"] * 3))
    command = FILE.replace("MODEL", "model") + " --validation-file valid.csv"
    assert lpft(*command.split()).status == 0
    change_json(folder / "out/run.json", status="interrupted")
    named, apply = CHANGES[change]
    apply(folder)
    refused(command + " --resume", "out", named, "changed")


def test_a_finished_run_is_not_taken_for_one_on_a_file_that_changed(
    refused, lpft, folder, tiny_bert
):
    command = FILE.replace("MODEL", str(tiny_bert))
    assert lpft(*command.split()).status == 0
    shutil.move(folder / "train.csv", folder / "moved.csv")
    for same in (command, command.replace("train.csv", "moved.csv")):
        outcome = lpft(*same.split(), "--resume")
        assert (outcome.status, "finished already" in outcome.err) == (0, True), outcome.err
    (folder / "train.csv").write_text(table(["good", "bad"] * 7))
    refused(command + " --resume", "out", "data", "changed")


def test_advice_is_of_options_that_the_command_has(refused, folder, finished):
    shutil.copytree(finished / "run", folder / "run")
    (folder / "x.csv").write_text('text\n" "\n')
    assert "--invalid-rows" in refused("predict run --file x.csv", "x.csv", "row 1")
    assert "--invalid-rows" not in refused("explain run --file x.csv", "x.csv", "row 1")


def test_a_folder_in_which_another_process_trains_is_refused(refused, folder):
    (folder / "out").mkdir()
    with FileLock(folder / "out/.lock"):
        refused(FILE, "another process", "out")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused(refused, folder, finished):
    shutil.copytree(finished / "run", folder / "run")
    for command in (FILE, *USES):
        refused(f"{command} --device cuda", "--device cuda", "cpu")


def test_a_page_of_others_and_figures_without_a_page_are_not_written_over(
    refused, lpft, folder, finished
):
    shutil.copytree(finished / "run", folder / "run")
    assert lpft("report", "run").status == 0
    page = folder / "run/report.html"
    page.unlink()
    refused("report run", "run/report-", "--overwrite")
    page.write_text("<html>my own</html>")
    refused("report run", "run/report.html", "--overwrite")
    assert page.read_text() == "<html>my own</html>"


@pytest.mark.heavy
def test_lines_that_are_not_utf8_are_refused_where_no_locale_is_set(folder, finished):
    """Python reads them as halves of surrogate pairs there, as in most containers."""
    environment = {name: value for name, value in os.environ.items() if name[:2] != "LC"}
    done = subprocess.run(
        [sys.executable, "-m", "lpft", "predict", finished / "run"],
        input=b"good\ncaf\xe9\n",
        env=environment | {"LANG": "C"},
        capture_output=True,
        check=False,
    )
    message = error_message((done.returncode, done.stdout.decode(), done.stderr.decode()))
    assert "UTF-8" in message
    assert [path.name for path in folder.iterdir()] == ["train.csv"]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("command", "named"),
    [("train", "--train-file"), ("predict run --text good", "run"), (FILE, "model")],
    ids=["no data", "damaged run", "damaged model"],
)
def test_a_process_of_its_own_ends_with_2_and_that_line_alone(
    folder, tiny_bert, finished, command, named
):
    shutil.copytree(finished / "run", folder / "run")
    cut("model.safetensors")(folder / "run")
    shutil.copytree(tiny_bert, folder / "model")
    cut("model.safetensors")(folder / "model")
    before = snapshot(folder)
    done = subprocess.run(
        [sys.executable, "-m", "lpft", *command.replace("MODEL", "model").split()],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert named in lines[0]
    assert snapshot(folder) == before


LIGHT = {
    "missing file": (2, "train --train-file none.csv"),
    "missing test file": (2, "train --train-file train.csv --test-file none.csv"),
    "missing model folder": (2, "train --train-file train.csv --model ./none"),
    "wrong column": (2, "train --train-file train.csv --label-column class"),
    "wrong setting": (2, "train --train-file train.csv --epochs -1"),
    "unknown label": (2, "train --train-file train.csv --test-file other.csv"),
    "export into another folder": (2, "export . --format transformers --output-dir ."),
    "check": (0, "check --train-file train.csv"),
}


@pytest.mark.parametrize(("status", "command"), LIGHT.values(), ids=LIGHT)
def test_what_needs_no_model_is_answered_before_one_could_be_loaded(folder, status, command):
    (folder / "other.csv").write_text(table(["odd"]))
    code = (
        "import sys; from lpft.cli import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'datasets', 'sklearn'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True)
    assert done.returncode == status, done.stderr
