"""Variables of launchers and of libraries that would change a computation are refused by name."""

import pytest
from tiny_models import toy_texts

from lpft import TextClassifier
from lpft.distributed import check_environment
from lpft.errors import InputError

TORCHRUN = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
ACCELERATE_LAUNCH = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_USE_CPU": "False",
}
"""As it starts one process without any option."""


@pytest.mark.parametrize(
    "variables",
    [
        {},
        ACCELERATE_LAUNCH,
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"},
        {"LOCAL_RANK": "-1", "PMI_SIZE": "1", "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT"},
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0"},
        {"LOCAL_RANK": "", "WORLD_SIZE": " ", "ACCELERATE_TORCH_DEVICE": ""},
    ],
)
def test_what_has_no_effect_is_left_alone(variables):
    check_environment(variables=variables)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        (TORCHRUN, "LOCAL_RANK=0, WORLD_SIZE=2.* unset LOCAL_RANK WORLD_SIZE or"),
        ({"OMPI_COMM_WORLD_SIZE": "8"}, "OMPI_COMM_WORLD_SIZE=8"),
        ({"ACCELERATE_USE_FSDP": "true"}, "divided among processes .ACCELERATE_USE_FSDP=true"),
        (
            ACCELERATE_LAUNCH | {"ACCELERATE_MIXED_PRECISION": "bf16"},
            "changes the computation .ACCELERATE_MIXED_PRECISION=bf16.: unset",
        ),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "ACCELERATE_DYNAMO_BACKEND=INDUCTOR"),
        ({"ACCELERATE_TORCH_DEVICE": "cpu"}, "ACCELERATE_TORCH_DEVICE=cpu"),
        ({"DNNL_DEFAULT_FPMATH_MODE": "BF16"}, "DNNL_DEFAULT_FPMATH_MODE=BF16"),
        ({"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}, "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1"),
    ],
)
def test_what_would_be_obeyed_is_refused_by_name(variables, says):
    with pytest.raises(InputError, match=says) as caught:
        check_environment(variables=variables)
    assert "\n" not in str(caught.value)


def test_a_launcher_has_no_effect_on_evaluation_but_a_precision_has():
    check_environment(training=False, variables=TORCHRUN | {"ACCELERATE_MIXED_PRECISION": "fp16"})
    with pytest.raises(InputError, match="FPMATH"):
        check_environment(training=False, variables={"ONEDNN_DEFAULT_FPMATH_MODE": "ANY"})


def test_processes_that_the_user_asked_for_are_no_fault_but_another_precision_is():
    check_environment(launched=True, variables=TORCHRUN | {"ACCELERATE_USE_CPU": "true"})
    for name, value in {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_FSDP": "1"}.items():
        with pytest.raises(InputError, match=name):
            check_environment(launched=True, variables=TORCHRUN | {name: value})


def test_python_and_the_command_line_refuse_it_before_any_work(lpft, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(InputError, match="LOCAL_RANK=0"):
        TextClassifier("no-such-model", method="lp").fit(*toy_texts(10))
    for command in ("train", "demo", "sweep no-such.yaml", "reproduce table8"):
        outcome = lpft(*command.split())
        assert outcome.status == 2, command
        assert outcome.err.startswith("error: the environment asks for distributed training")
        assert outcome.err.count("\n") == 1
    assert lpft("methods").status == 0


def test_an_empty_variable_of_a_launcher_is_as_one_that_is_not_set(tiny_bert, monkeypatch):
    """accelerate reads LOCAL_RANK as a number, which nothing is not."""
    for name in ("LOCAL_RANK", "ACCELERATE_USE_CPU"):
        monkeypatch.setenv(name, "")
    texts, labels = toy_texts(20)
    classifier = TextClassifier(str(tiny_bert), method="ft", epochs=1, max_length=16)
    classifier.fit(texts, labels, validation=(texts, labels))
    assert classifier.method_ == "ft"
