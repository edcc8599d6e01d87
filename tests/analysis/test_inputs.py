"""Arrays and tensors in every form that a program has them, and probabilities in half precision."""

import numpy as np
import pandas as pd
import pytest
import torch

from lpft.analysis.calibration import expected_calibration_error, fit_temperature
from lpft.analysis.inputs import as_array, class_indices, logit_matrix, probability_matrix
from lpft.errors import InputError

LOGITS = np.array([[2.0, -1.0, 0.5], [0.25, 3.0, -2.0]])


@pytest.mark.parametrize(
    "logits",
    [
        torch.tensor(LOGITS, requires_grad=True),
        torch.tensor(LOGITS).bfloat16(),
        torch.tensor(LOGITS).half().requires_grad_(),
        torch.nn.Parameter(torch.tensor(LOGITS)) * 1,
        [torch.tensor(row, requires_grad=True) for row in LOGITS],
        LOGITS.astype(np.float16),
        pd.DataFrame(LOGITS),
        LOGITS.tolist(),
    ],
)
def test_logits_are_read_from_whatever_holds_them(logits):
    # all of them are exact in half precision
    matrix = logit_matrix(logits)
    assert matrix.dtype == np.float64
    np.testing.assert_array_equal(matrix, LOGITS)


def test_labels_may_be_a_tensor():
    assert class_indices(torch.tensor([1, 0]), 2, 2).tolist() == [1, 0]
    assert class_indices(torch.tensor([1, 0], dtype=torch.uint8), 2, 2).tolist() == [1, 0]
    labels = torch.tensor([0, 1])
    assert fit_temperature(torch.tensor(LOGITS), labels) == fit_temperature(LOGITS, [0, 1])
    one_hot = np.eye(3)[[0, 1]]
    assert expected_calibration_error(torch.tensor(one_hot), labels) == 0


@pytest.mark.parametrize(
    "values",
    [[["a", "b"]], [[1.0], [1.0, 2.0]], None, torch.eye(2).to_sparse(), {"a": 1}, [[None]]],
)
def test_what_is_no_array_of_numbers_is_an_input_error(values):
    with pytest.raises(InputError, match=r"^logits: expected"):
        logit_matrix(values)
    with pytest.raises(InputError, match=r"^labels: expected"):
        class_indices(values, 1)


@pytest.mark.parametrize("classes", [2, 20, 1000])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_probabilities_are_divided_by_their_sum(kind, classes):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, classes, generator=generator)
    exact = logits.double().softmax(1).numpy()
    for rounded in (logits.softmax(1).to(kind), logits.to(kind).softmax(1)):
        for given in (rounded, rounded.float().numpy()):
            table = probability_matrix(given)
            np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-3)
    rounded = probability_matrix(logits.softmax(1).to(kind))
    # the unit roundoff of each number, and of the sum that divides it
    np.testing.assert_allclose(rounded, exact, rtol=2.5 * torch.finfo(kind).eps / 2, atol=1e-7)


def test_single_precision_probabilities_stay_as_they_are():
    table = np.array([[0.1, 0.2, 0.7], [0.33333, 0.33333, 0.33333]])
    np.testing.assert_array_equal(probability_matrix(table), table)
    with pytest.raises(InputError, match=r"sums from 0.99 to 0.99; divide each row by its sum"):
        probability_matrix([[0.33, 0.33, 0.33]])
    with pytest.raises(InputError, match="softmax"):
        probability_matrix(LOGITS.astype(np.float16))


def test_an_array_is_not_copied_where_it_need_not_be():
    assert as_array(LOGITS, "logits", np.float64) is LOGITS
