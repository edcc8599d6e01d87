"""Kernel regression of ``lpft ntk``: every solver that is asked for, its options, its texts."""

import numpy as np
import pytest
from kernel_commands import CLASSES, KERNELS, TRAIN, VALIDATION, assert_refused, read
from safetensors.numpy import load_file

from lpft.ntk.regression import SOLVERS, KernelPair, ValidationSet, regress, solver_options
from lpft.settings.kernels import RegressionSettings

EVERY = "paper,klr,krr,logistic,svc,svr,lstsq,asymmetric"
RECORDED = {"klr": "kernel_logistic_regression", "krr": "kernel_ridge_regression"}
OPTIONS = {
    **{"f0_scale": 0.5, "regularization": 0.01, "gamma": 0.3, "mix": 0.25, "cost": 2.0},
    **{"tube": 0.2, "single_logit": True},
}


@pytest.fixture(scope="module")
def every(lpft, kernel_base, tmp_path_factory):
    """A folder of kernels with every solver and most options, and what was printed."""
    folder = tmp_path_factory.mktemp("kernels") / "every"
    given = [
        part
        for name, value in OPTIONS.items()
        for part in (f"--{name.replace('_', '-')}", value)
        if part is not True
    ]
    outcome = lpft(
        *("ntk", *kernel_base, "--methods", "ft", "--solver", EVERY, *given),
        *("--output-dir", folder),
    )
    assert outcome.status == 0, outcome.err
    return folder, outcome


def test_the_table_of_options_is_that_of_the_solvers():
    for solver in SOLVERS:
        own = set(solver_options(solver)) - {"folds", "validation"}
        listed = {
            name for name, item in RegressionSettings.fields().items() if solver in item.solvers
        }
        assert listed - {"strength_by"} == own, solver
        assert ("strength_by" in listed) == ("validation" in solver_options(solver))


def test_every_solver_is_fitted_as_asked_recorded_and_printed(every):
    folder, outcome = every
    assert "warning" not in outcome.err
    arrays = load_file(folder / "ft.safetensors")
    found = read(folder)["methods"]["ft"]["kernels"]
    held = {name: arrays[f"validation/{name}"] for name in ("labels", "logits")}
    kernels = ("pretrain_effective", "ft_effective")
    for kernel in kernels:
        pair = KernelPair(arrays[f"train/{kernel}"], arrays[f"eval/{kernel}"], CLASSES)
        for solver in EVERY.split(","):
            options = {
                name: v
                for name, v in OPTIONS.items()
                if solver in RegressionSettings.fields()[name].solvers
            }
            if solver in RECORDED:
                options["validation"] = ValidationSet(
                    arrays[f"validation/{kernel}"], held["labels"], held["logits"]
                )
            expected = regress(
                pair,
                *(arrays[f"{part}/labels"] for part in ("train", "eval")),
                *(arrays[f"{part}/logits"] for part in ("train", "eval")),
                solver=solver,
                **options,
            )
            record = found[kernel]["regression"][RECORDED.get(solver, solver)]
            for split in ("train", "test"):
                name = f"{split}_text_accuracy" if solver == "paper" else f"{split}_accuracy"
                assert record[name] == getattr(expected, split).accuracy
            if expected.model.strength is not None:
                assert record["strength"] == pytest.approx(expected.model.strength.value)
            if solver in RECORDED:
                assert (record["folds"], record["settings"]["validation_rows"]) == (0, VALIDATION)
    for name in ("Paper's protocol", "Kernel ridge regression", "SVC", "Asymmetric least squares"):
        assert name in outcome.out


def test_folds_choose_where_they_are_asked_for_or_validation_is_predicted(
    lpft, kernel_base, kernel_data, tiny_bert, tmp_path
):
    quick = ("--methods", "ft", "--solver", "klr", "--max-samples", 8, "--device", "cpu")
    by_folds = ("ntk", *kernel_base, *quick, "--strength-by", "folds")
    files = ("--train-file", kernel_data / "train.csv", "--validation-file")
    model = ("--model", tiny_bert, "--max-length", 16)
    predicted = ("ntk", *files, kernel_data / "valid.csv", *model, *quick)
    for number, command in enumerate((by_folds, predicted)):
        folder = tmp_path / str(number)
        outcome = lpft(*command, "--output-dir", folder)
        assert outcome.status == 0, outcome.err
        record = read(folder)
        assert record["data"]["validation_rows"] is None
        found = record["methods"]["ft"]["kernels"]["ntk"]["regression"]
        assert found["kernel_logistic_regression"]["folds"] > 1
        assert found["kernel_logistic_regression"]["settings"]["validation_rows"] is None


def test_a_strength_that_is_given_is_taken(lpft, kernel_base, tmp_path):
    options = ("--methods", "ft", "--solver", "krr", "--strength", 3, "--max-samples", 8)
    assert lpft("ntk", *kernel_base, *options, "--output-dir", tmp_path).status == 0
    kernels = read(tmp_path)["methods"]["ft"]["kernels"]
    strengths = {kernels[k]["regression"]["kernel_ridge_regression"]["strength"] for k in KERNELS}
    assert strengths == {3.0}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--gamma", 2), "--gamma has no effect with --solver paper,klr: it applies to asymmetric"),
        (("--gamma", 2, "--solver", "none"), "--gamma has no effect with --solver none"),
        (("--solver", "svc", "--strength-by", "folds"), "--strength-by has no effect"),
        (("--solver", "paper", "--single-logit"), "--single-logit has no effect"),
        (("--solver", "asymmetric", "--mix", 1.5), "--mix 1.5 must be a number from 0 to 1"),
        (("--solver", "asymmetric", "--gamma", 0), "--gamma 0 must be a number above 0"),
        (("--solver", "lstsq", "--regularization", -1), "--regularization -1 must be"),
        (("--strength", "nan"), "--strength nan must be a finite number"),
        (("--strength", 1, "--strength-by", "folds"), "exclude each other"),
        (
            ("--solver", "svc", "--single-logit", "--kernel", "signgd"),
            "--single-logit does not work with",
        ),
        (("--dynamics", 3, "--kernel", "signgd"), "--dynamics is for gradient descent"),
    ],
)
def test_options_without_effect_or_sense_are_refused(lpft, kernel_base, tmp_path, options, says):
    folder = tmp_path / "toy"
    outcome = lpft("ntk", *kernel_base, *options, "--output-dir", folder)
    assert_refused(outcome, says)
    assert not folder.exists()


def test_p_is_fitted_once_for_methods_of_one_encoder(lpft, kernel_base, tmp_path, monkeypatch):
    from lpft.runs import kernel_statistics

    fitted = []

    def counting(pair, *arguments, solver, **options):
        fitted.append((solver, pair.train.ndim))
        return regress(pair, *arguments, solver=solver, **options)

    monkeypatch.setattr(kernel_statistics, "regress", counting)
    options = ("--methods", "ft,lora,lp-ft", "--solver", "paper,krr")
    assert lpft("ntk", *kernel_base, *options, "--output-dir", tmp_path).status == 0
    # P by the paper's protocol once for all, by ridge regression once for each head's f_0.
    assert fitted.count(("paper", 2)) == 1
    assert fitted.count(("krr", 2)) == 2
    assert len(fitted) == 3 + 2 * 2 * 3
    shape = load_file(tmp_path / "lora.safetensors")["train/pretrain_effective"].shape
    assert shape == (TRAIN, TRAIN)
    assert np.isfinite(load_file(tmp_path / "lora.safetensors")["eval/logits"]).all()


def test_a_single_logit_needs_two_classes(lpft, tiny_bert, tmp_path):
    rows = [f"text {place},{'abc'[place % 3]}" for place in range(12)]
    (tmp_path / "three.csv").write_text("\n".join(["text,label", *rows]))
    options = ("--model", tiny_bert, "--solver", "svc", "--single-logit", "--methods", "ft")
    file = ("--train-file", tmp_path / "three.csv", "--output-dir", tmp_path / "toy")
    assert_refused(lpft("ntk", *file, *options), "--single-logit takes the difference of 2 logits")
