"""Where official files are looked for, what a missing one is called, and whose folder it is."""

from dataclasses import replace

import pytest

from lpft.data.loading import load_task
from lpft.data.tasks import TASKS

from .official_files import abstracts
from .release_files import PUBMED_FOLDERS, case_of, refused

ROLES = ["OBJECTIVE", "METHODS", "METHODS", "RESULTS", "CONCLUSIONS"]


@pytest.mark.parametrize("folder", ["cola_public", "COLA_public", "cola_public/raw", "."])
def test_cola_where_its_archive_is_unpacked(tmp_path, folder):
    case = case_of("cola", "CoLA's public release")
    own = replace(case, benchmark=".", folder="cola_public/raw").write(tmp_path)
    if folder == "COLA_public":
        (tmp_path / "cola_public").rename(tmp_path / folder)
        own = tmp_path / folder / "raw"
    data = load_task("cola", tmp_path / folder)
    assert data.sources["train"] == f"{own}/in_domain_train.tsv"
    assert len(data.ood["out_of_domain"]) == 3


@pytest.mark.parametrize(
    ("there", "data_dir", "missing"),
    [
        ([], ".", "superglue/CB/train.jsonl"),
        (["superglue"], ".", "superglue/CB/train.jsonl"),
        (["SuperGLUE"], ".", "SuperGLUE/CB/train.jsonl"),
        (["super_glue"], ".", "super_glue/CB/train.jsonl"),
        (["superglue", "cb"], ".", "cb/train.jsonl"),
        (["superglue/cb"], ".", "superglue/cb/train.jsonl"),
        (["superglue"], "superglue", "superglue/CB/train.jsonl"),
        (["superglue/CB"], "superglue", "superglue/CB/train.jsonl"),
        (["superglue/CB"], "superglue/CB", "superglue/CB/train.jsonl"),
        (["mine/val.jsonl/"], "mine", "mine/superglue/CB/train.jsonl"),
    ],
)
def test_a_missing_file_is_named_below_the_deepest_folder_that_is_there(
    tmp_path, there, data_dir, missing
):
    for folder in there:
        (tmp_path / folder).mkdir(parents=True)
    path = tmp_path / missing
    refused("cb", tmp_path / data_dir, f"expected {path} (SuperGLUE jsonl); get it from https")


def test_a_folder_that_holds_another_file_of_the_task_is_its_own(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/val.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    # absolute, although the folder is given by a relative path
    refused("cb", "mine", f"expected {tmp_path}/mine/train.jsonl (SuperGLUE jsonl); get")


def test_only_the_layout_whose_folder_is_there_is_named(tmp_path):
    (tmp_path / "glue/RTE").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"glue/RTE/train\.tsv \(GLUE tsv\)") as caught:
        load_task("rte", tmp_path)
    assert "jsonl" not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "archive"),
    [
        ("PubMed_200k_RCT", "PubMed_200k_RCT/train.7z"),
        ("PubMed_200k_RCT", "PubMed_200k_RCT/train.zip"),
        (".", "PubMed_200k_RCT/train.7z"),
        (".", "pubmed-rct/PubMed_200k_RCT/train.7z"),
    ],
)
def test_a_training_file_that_is_still_packed(tmp_path, folder, archive):
    packed = tmp_path / archive
    packed.parent.mkdir(parents=True)
    packed.write_bytes(b"7z")
    (packed.parent / "dev.txt").write_text("")
    missing = packed.with_name("train.txt")
    says = f"{packed} is packed: unpack it, so that {missing} is there"
    refused("pubmed_200k_numbers", tmp_path / folder, says)


@pytest.mark.parametrize("folder", PUBMED_FOLDERS)
@pytest.mark.parametrize("task", PUBMED_FOLDERS)
def test_each_form_of_pubmed_is_read_from_its_own_folder_only(tmp_path, task, folder):
    own = case_of(folder, "PubMed RCT").write(tmp_path)
    if task == folder:
        assert len(load_task(task, own).train) == 20
    elif (task, folder) == ("pubmed", "pubmed_numbers"):
        # the cleaned copies have a folder of this name
        refused(task, own, own / "train_clean.txt", "also the folder of pubmed_numbers")
    else:
        refused(task, own, f"{own} is the folder of {folder}, not of {task}")


@pytest.mark.parametrize("form", PUBMED_FOLDERS)
@pytest.mark.parametrize("task", PUBMED_FOLDERS)
def test_the_other_form_of_numbers_is_refused_in_a_folder_of_any_name(tmp_path, task, form):
    case = case_of(form, "PubMed RCT")
    own = replace(case, benchmark=".", folder="mine").write(tmp_path)
    if ("numbers" in task) == ("numbers" in form):
        assert len(load_task(task, own).train) == 20
    else:
        found = "20 of 20 sentences have digits and 0 have @"
        if "numbers" not in form:
            found = "0 of 20 sentences have digits and 20 have @"
        refused(task, own, own / "train.txt", found, "form with numbers")


@pytest.mark.parametrize("folder", ["PubMed-20k-RCT", "PubMed_20k_RCT"])
@pytest.mark.parametrize("task", ["pubmed", "pubmed_numbers"])
def test_cleaned_copies_are_of_20k_under_either_name(tmp_path, task, folder):
    own = tmp_path / "HSLN-Joint-Sentence-Classification/data" / folder
    own.mkdir(parents=True)
    write = abstracts(ROLES, numbers=task == "pubmed_numbers")
    for split, rows in (("train", 20), ("dev", 5), ("test", 5)):
        (own / f"{split}_clean.txt").write_text(write(rows))
    for data_dir in (tmp_path, own.parent, own):
        data = load_task(task, data_dir)
        assert data.sources["train"] == f"{own}/train_clean.txt"
    layouts = {name: [r.layout for r in TASKS[name].releases] for name in PUBMED_FOLDERS}
    assert {name for name, found in layouts.items() if "PubMed RCT, cleaned" in found} == {
        "pubmed", "pubmed_numbers",
    }  # fmt: skip


def test_another_tasks_folder_is_refused_by_its_name(tmp_path):
    rte = case_of("rte").write(tmp_path)
    refused("cb", rte, f"{rte} is the folder of rte, not of cb: expected CB, its benchmark's")
    link = tmp_path / "somewhere"
    link.symlink_to(rte)
    refused("cb", link, "is the folder of rte, not of cb")


# GLUE's download_glue_data.py, SuperGLUE's and the datasets' own pages
FBAI, SENTEVAL = "https://dl.fbaipublicfiles.com/glue", "https://dl.fbaipublicfiles.com/senteval"
GLUE_URLS = {
    ("cola", "CoLA's public release"): "https://nyu-mll.github.io/CoLA/cola_public_1.1.zip",
    ("cola", "GLUE tsv"): f"{FBAI}/data/CoLA.zip",
    ("mnli", "GLUE tsv"): f"{FBAI}/data/MNLI.zip",
    ("mrpc", "GLUE tsv"): "https://github.com/nyu-mll/GLUE-baselines/blob/master/"
    "download_glue_data.py (it makes train.tsv and dev.tsv of the original release)",
    ("mrpc", "MRPC's original release"): f"{SENTEVAL}/senteval_data/msr_paraphrase_train.txt and "
    f"{SENTEVAL}/senteval_data/msr_paraphrase_test.txt",
    ("qnli", "GLUE tsv"): f"{FBAI}/data/QNLIv2.zip",
    ("qqp", "GLUE tsv"): f"{FBAI}/data/QQP-clean.zip",
    ("rte", "GLUE tsv"): f"{FBAI}/data/RTE.zip",
    ("sst2", "GLUE tsv"): f"{FBAI}/data/SST-2.zip",
    ("wnli", "GLUE tsv"): f"{FBAI}/data/WNLI.zip",
}


def test_where_to_get_glue():
    names = {name for name, task in TASKS.items() if task.benchmark == "GLUE"} | {"rte"}
    found = {
        (name, release.layout): release.url
        for name in names
        for release in TASKS[name].releases
        if release.layout != "SuperGLUE jsonl"
    }
    assert found == GLUE_URLS
