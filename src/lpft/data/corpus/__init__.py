"""The embedded corpus: sentences written for this package, three sentiments in four domains."""

from importlib.resources import as_file, files

from lpft.data.columns import ids_from_table, labels_from_table, texts_from_table
from lpft.data.examples import Examples, TextData
from lpft.data.labels import encode_labels
from lpft.data.tables import read_table

CLASSES = ("negative", "neutral", "positive")
OOD_DOMAINS = ("restaurants", "films", "posts")


def load_corpus() -> TextData:
    """Product reviews in fixed splits, and restaurants, films and posts as OOD sets.

    Ids are row numbers within a domain's file. The splits are part of the corpus and the same
    under every split protocol.
    """
    products, splits = _read("products")
    by_split = {
        split: products.select([row for row, name in enumerate(splits) if name == split])
        for split in ("train", "validation", "test")
    }
    ood = {domain: _read(domain)[0] for domain in OOD_DOMAINS}
    return TextData(
        name="demo",
        classes=CLASSES,
        train=by_split["train"],
        validation=by_split["validation"],
        test=by_split["test"],
        ood=ood,
        sources={split: f"the embedded corpus, products, split {split}" for split in by_split}
        | {f"ood/{domain}": f"the embedded corpus, {domain}" for domain in ood},
        licence="MIT",
        notes=("the embedded corpus has fixed splits, the same under every split protocol",),
    )


def _read(domain: str) -> tuple[Examples, list[str]]:
    with as_file(files(__name__) / f"{domain}.csv") as path:
        table = read_table(path)
    examples = Examples(
        ids=ids_from_table(table),
        texts=texts_from_table(table, ["text"], path),
        labels=encode_labels(labels_from_table(table, "label", path), CLASSES, str(path)),
    )
    return examples, list(table["split"]) if "split" in table else []
