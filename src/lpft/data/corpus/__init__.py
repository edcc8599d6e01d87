"""The bundled corpus: sentences written for this package, three sentiments in four domains."""

from importlib.resources import as_file, files

from lpft.data.examples import Examples, TextData
from lpft.data.labels import encode_labels
from lpft.data.tables import (
    examples_from_table,
    labels_from_table,
    read_table,
    texts_from_table,
)

CLASSES = ("negative", "neutral", "positive")
OOD_DOMAINS = ("restaurants", "films", "posts")


def load_corpus() -> TextData:
    """Product reviews in fixed splits, and restaurants, films and posts as OOD sets.

    Ids are row numbers within a domain's file. The splits are part of the corpus and the same
    under every split protocol.
    """
    products, split_of = _read("products")
    splits = {
        split: products.select([row for row, name in enumerate(split_of) if name == split])
        for split in ("train", "validation", "test")
    }
    return TextData(
        name="demo",
        classes=CLASSES,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        ood={domain: _read(domain)[0] for domain in OOD_DOMAINS},
        sources={split: f"the bundled corpus, products, split {split}" for split in splits}
        | {f"ood/{domain}": f"the bundled corpus, {domain}" for domain in OOD_DOMAINS},
        licence="MIT",
        notes=("the bundled corpus has fixed splits, the same under every split protocol",),
    )


def _read(domain: str) -> tuple[Examples, list[str]]:
    with as_file(files(__name__) / f"{domain}.csv") as path:
        table = read_table(path)
    texts = texts_from_table(table, ["text"], path)
    labels = encode_labels(labels_from_table(table, "label", path), CLASSES, str(path))
    examples = examples_from_table(table, texts, labels)
    return examples, list(table["split"]) if "split" in table else []
