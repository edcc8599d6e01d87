"""Twenty faults of every kind in copies of real data: each row is named, and no other."""

import json
import re
from dataclasses import dataclass, field

import numpy as np
import pytest

from lpft.data.checks import check_data
from lpft.data.lengths import check_lengths, minilm_folder, quick_counter
from lpft.data.loading import load_files
from lpft.settings import MINILM

pytestmark = pytest.mark.data

COLUMNS = {"uci": ("text",), "cb": ("premise", "hypothesis")}


def read_uci(data_dir, name):
    path = data_dir / f"uci_sentences/{name}_labelled.txt"
    lines = path.read_text(encoding="utf-8").strip("\n").split("\n")
    rows = [line.rsplit("\t", 1) for line in lines]
    return [{"text": text, "label": ["negative", "positive"][int(label)]} for text, label in rows]


def read_cb(data_dir, name):
    lines = (data_dir / f"superglue/CB/{name}.jsonl").read_text(encoding="utf-8").splitlines()
    names = ("premise", "hypothesis", "label")
    return [{name: json.loads(line)[name] for name in names} for line in lines]


def findings(folder, columns, **splits):
    """What is found in files of these rows, by kind, as rows by split."""
    for name, rows in splits.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    path = {name: folder / f"{name}.jsonl" for name in splits}
    ood = {"far": path["ood"]} if "ood" in path else {}
    data = load_files(
        path["train"], path.get("validation"), path.get("test"), ood, text_columns=columns
    )
    found = check_data(data)
    if minilm_folder() is not None:
        found += check_lengths(data, quick_counter(MINILM), 512)
    merged: dict[str, dict[str, set[int]]] = {}
    for finding in found:
        own = merged.setdefault(finding.kind, {})
        for split, rows in finding.rows.items():
            own.setdefault(split, set()).update(rows)
    return merged


def alike(row, columns):
    """A key of our own for texts that repeat one another: their letters and digits."""
    return tuple(re.sub(r"[\W_]+", "", row[column].casefold()) for column in columns)


@dataclass
class Copy:
    """Rows by split, with faults planted at the end of splits or in their rows."""

    splits: dict
    columns: tuple
    planted: dict = field(default_factory=dict)

    def expect(self, kind, **rows):
        for split, numbers in rows.items():
            name = "ood/far" if split == "ood" else split
            self.planted.setdefault(kind, {}).setdefault(name, set()).update(numbers)

    def add(self, split, row):
        """Add a row; its number in the file."""
        self.splits[split].append(row)
        return len(self.splits[split])

    def change(self, split, number, text):
        """Other text in the last column of a row."""
        self.splits[split][number - 1] = {**self.row(split, number), self.columns[-1]: text}

    def row(self, split, number):
        return self.splits[split][number - 1]

    def again(self, split, number, edit=lambda text: text, **changes):
        """A row once more, its columns edited."""
        row = self.row(split, number)
        return {**row, **{column: edit(row[column]) for column in self.columns}, **changes}

    def long_rows(self, split, count):
        """Rows of at least 12 words in every column, from the start."""
        numbers = [
            number
            for number, row in enumerate(self.splits[split], start=1)
            if all(len(row[column].split()) >= 12 for column in self.columns)
        ]
        return numbers[:count]


def without_repeats(splits, columns):
    """Each row whose text has not come before in any split, and without markup and damage."""
    seen, kept = set(), {}
    for name, rows in splits.items():
        kept[name] = []
        for row in rows:
            key = alike(row, columns)
            text = " ".join(row[column] for column in columns)
            if key not in seen and not re.search("&amp;|[\x7f-\x9f]|_", text):
                seen.add(key)
                kept[name].append(row)
    return kept


@pytest.fixture
def clean(request, data_dir):
    if request.param == "cb":
        rows = read_cb(data_dir, "train")
        splits = {"train": rows, "test": read_cb(data_dir, "val")}
    else:
        rows = read_uci(data_dir, "amazon_cells")
        splits = {"train": rows[:800], "validation": rows[800:900], "test": rows[900:]}
        splits["ood"] = read_uci(data_dir, "yelp")
    columns = COLUMNS[request.param]
    return Copy(without_repeats(splits, columns), columns)


def one_word_less(text):
    words = text.split()
    return " ".join(words[:5] + words[6:])


def one_other_word(text):
    words = text.split()
    return " ".join([*words[:5], "otherwise", *words[6:]])


@pytest.mark.parametrize("clean", ["uci", "cb"], indirect=True)
def test_a_clean_copy_raises_no_alarm(clean, tmp_path):
    assert findings(tmp_path, clean.columns, **clean.splits) == {}


@pytest.mark.parametrize("clean", ["uci", "cb"], indirect=True)
def test_each_planted_fault_is_named_and_nothing_else(clean, tmp_path):
    copy = clean
    others = sorted({row["label"] for row in copy.splits["train"]})
    long = copy.long_rows("train", 12) if copy.columns == ("text",) else list(range(60, 72))

    def other_label(number):
        return next(name for name in others if name != copy.row("train", number)["label"])

    # 1 to 3: duplicates, as they are, in other case and spacing, in another Unicode form
    edits = (
        lambda text: text,
        lambda text: f"  {text.upper()} ",
        lambda text: text.replace(" ", "\u00a0").replace("fi", "\ufb01"),
    )
    for number, edit in zip(long[:3], edits, strict=True):
        row = copy.add("train", copy.again("train", number, edit))
        copy.expect("duplicates", train={row})
    # 4 to 6: near-duplicates, in punctuation, and in a word where there are ten
    edits = (lambda text: f"{text}!!", one_word_less, one_other_word)
    for number, edit in zip(long[3:6], edits, strict=True):
        edited = copy.again("train", number)
        edited[copy.columns[0]] = edit(edited[copy.columns[0]])
        copy.expect("near-duplicates", train={number, copy.add("train", edited)})
    # 7 to 9: leaks of training texts into test and other domains
    copy.expect("leakage", train={long[6]}, test={copy.add("test", copy.again("train", long[6]))})
    edited = copy.again("train", long[7])
    edited[copy.columns[0]] = one_other_word(edited[copy.columns[0]])
    copy.expect("near-leakage", train={long[7]}, test={copy.add("test", edited)})
    if "ood" in copy.splits:
        leaked = copy.again("train", long[8], str.lower)
        copy.expect("leakage", train={long[8]}, ood={copy.add("ood", leaked)})
    # 10 and 11: the same text, or nearly, with another label
    row = copy.add("train", copy.again("train", long[9], label=other_label(long[9])))
    copy.expect("duplicates", train={row})
    copy.expect("conflicting-labels", train={long[9], row})
    edited = copy.again("train", long[10], label=other_label(long[10]))
    edited[copy.columns[0]] = one_word_less(edited[copy.columns[0]])
    row = copy.add("test", edited)
    copy.expect("near-leakage", train={long[10]}, test={row})
    copy.expect("near-conflicts", train={long[10]}, test={row})
    # 12 to 18: what texts hold
    for number, (kind, text) in enumerate(
        [
            ("empty", "N/A"),
            ("empty", "#REF!"),
            ("empty", "\u2014"),
            ("markup", "It was <b>fine</b> for the<br/>first week."),
            ("markup", "See [my photos](https://example.org/1) &ndash; all blurred."),
            ("encoding", "The cafÃ© had it in stock, thatâ€™s all."),
            ("encoding", "The caf\ufffd had none of them in stock."),
        ],
        start=100,
    ):
        copy.change("train", number, text)
        copy.expect(kind, train={number})
    # 19: a text that no length of the model keeps whole
    if minilm_folder() is not None:
        copy.change("train", 130, " ".join(f"word{number}" for number in range(600)))
        copy.expect("truncation", train={130})
    # 20: a class in two spellings, which the second has in one row
    row = copy.row("train", 131)
    copy.splits["train"][130] = {**row, "label": f"{row['label'].upper()}."}
    copy.expect("similar-classes", train={131})
    copy.expect("small-class", train={131})

    found = findings(tmp_path, copy.columns, **copy.splits)
    of_sets = {"missing-class", "imbalance"}  # of the class with one row
    assert {kind: rows for kind, rows in found.items() if kind not in of_sets} == copy.planted


@pytest.mark.parametrize(("name", "repeats"), [("amazon_cells", 19), ("imdb", 4), ("yelp", 5)])
def test_what_is_found_in_the_original_sentences_is_real(data_dir, tmp_path, name, repeats):
    """The originals are no clean data: they hold the same sentence twice, markup and damage."""
    rows = read_uci(data_dir, name)
    found = findings(tmp_path, ("text",), train=rows, validation=read_uci(data_dir, "yelp")[:60])
    keys = [alike(row, ("text",)) for row in rows]
    for kind in ("duplicates", "near-duplicates"):
        for number in found.get(kind, {}).get("train", ()):
            assert keys.count(keys[number - 1]) > 1, rows[number - 1]
    assert len(keys) - len(set(keys)) == repeats
    for number in found.get("markup", {}).get("train", ()):
        assert "&amp;" in rows[number - 1]["text"]
    for number in found.get("encoding", {}).get("train", ()):
        assert re.search("[\x80-\x9f]", rows[number - 1]["text"])


@pytest.mark.heavy
@pytest.mark.skipif(minilm_folder() is None, reason="needs the demo extra")
def test_changed_labels_come_first(data_dir):
    """Fifty of 1,000 labels are changed: most of the first rows named are among them."""
    from lpft.data.examples import Examples, TextData
    from lpft.settings import TrainingSettings
    from lpft.training.label_errors import check_labels

    rows = read_uci(data_dir, "amazon_cells")
    labels = np.array([row["label"] == "positive" for row in rows], dtype=np.int64)
    changed = np.random.default_rng(0).choice(1000, 50, replace=False)
    labels[changed] = 1 - labels[changed]
    texts = [row["text"] for row in rows]
    examples = Examples([str(number) for number in range(1000)], texts, labels)
    train, validation = examples.select(range(900)), examples.select(range(900, 1000))
    data = TextData("changed", ("negative", "positive"), train, validation, held_out=True)
    (finding,) = check_labels(data, TrainingSettings())
    named = np.array(finding.rows["train"]) - 1
    assert np.isin(named[:10], changed).mean() >= 0.7
    assert np.isin(changed, named).mean() >= 0.5
