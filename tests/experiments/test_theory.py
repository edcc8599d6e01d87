"""The table of lpft theory, its checks as a step of an experiment, and claims 7 and 8."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from experiments.experiment_folders import claims_scope, trained_of

import lpft
from lpft.cli.console import print_table
from lpft.data.splits import draw_rows
from lpft.data.tokens import tokenize
from lpft.errors import InputError
from lpft.experiments import theory as propositions
from lpft.experiments.figures import reopen
from lpft.experiments.plan import ExperimentRuns
from lpft.experiments.theory import (
    CLAIMS,
    OWN_MODEL,
    THEORY,
    lora_kernel_table,
    run_theory,
    theory_json,
    theory_sentence,
    theory_table,
)
from lpft.model.adapters import add_adapter, plain_classifier
from lpft.model.encoder import seeded
from lpft.settings.configs import make_config
from lpft.theory.checks import LAYERS, TheoryCheck, pretrain_difference, random_bert, random_tokens


@pytest.fixture(scope="module")
def checks():
    return run_theory(seed=3)


def of(checks, claim):
    return [check for check in checks if check.claim == claim]


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory):
    """A run of LoRA, really trained, whose start is checked."""
    folder = tmp_path_factory.mktemp("own")
    _, found = trained_of("table8", folder, methods=("lora",), seeds=(0,))
    return found


def test_the_first_step_of_the_experiments_own_model_is_predicted(lora_run):
    OWN_MODEL(lora_run)
    checked = OWN_MODEL.read(lora_run)["lora"]
    logits = [check for check in checked.first_order if "logits" in check.setting]
    assert len(logits) == 3
    assert all(check.holds and 9 < check.measured < 11 for check in logits)
    (outcome,) = [
        one
        for one in CLAIMS[0].outcomes(lora_run, None)
        if one.case.measured.subject.endswith("LoRA: logits")
    ]
    assert outcome.judgement.verdict == "holds"
    assert "the model of this experiment" in outcome.case.remark


def test_loras_kernel_is_compared_with_that_of_what_it_adapts(lora_run):
    """By the gradients of every logit, and the variance of the factors A in PEFT's own draw."""
    OWN_MODEL(lora_run)
    kernel = OWN_MODEL.read(lora_run)["lora"].lora
    (run,) = lora_run.runs.values()
    _, data, classifier, _ = reopen(run)
    rows = draw_rows(data.train.labels, 16)[::2]
    settings = make_config(run.config).training
    with seeded(settings.seed):
        model = add_adapter(classifier.model, "lora", rank=8, alpha=8).double().eval()
    tokens = tokenize(classifier.tokenizer, data.train.select(rows).texts, 32)
    plain = plain_classifier(model)
    parameters = dict(model.named_parameters())
    for value in parameters.values():
        value.requires_grad_(True)
    sets = {
        "lora": [name for name in parameters if "lora_" in name],
        "all": [name for name in parameters if "lora_" not in name and "head" not in name],
        "adapted": [name for name in parameters if name.endswith("base_layer.weight")],
    }
    gradients = {name: [] for name in sets}
    for row in range(len(tokens)):
        logits = plain.head(plain.features(**tokens.batch([row])))[0]
        for logit in logits:
            for name, members in sets.items():
                each = torch.autograd.grad(
                    logit,
                    [parameters[member] for member in members],
                    retain_graph=True,
                    materialize_grads=True,
                )
                gradients[name].append(torch.cat([part.flatten() for part in each]))
    jacobians = {name: torch.stack(of) for name, of in gradients.items()}
    kernels = {name: jacobian @ jacobian.T for name, jacobian in jacobians.items()}
    drawn = torch.cat([v.detach().flatten() for name, v in parameters.items() if "lora_A" in name])
    # Kaiming's uniform draw with a = sqrt(5): variance 1 / (3 h), here of h = 32.
    assert kernel.expected == pytest.approx(8 / (3 * 32), rel=0.1)
    assert kernel.expected == pytest.approx(8 * float(drawn.square().mean()))
    labels = {"all": "all that FT trains", "adapted": "the matrices that LoRA adapts"}
    for name, label in labels.items():
        scaled = kernel.expected * kernels[name]
        norm = float(kernels["lora"].norm() / scaled.norm())
        assert kernel.norms[label] == pytest.approx(norm, rel=1e-6)
        difference = float((kernels["lora"] - scaled).norm() / scaled.norm())
        assert kernel.differences[label] == pytest.approx(difference, rel=1e-6)
        cosine = float((kernels["lora"] * scaled).sum() / kernels["lora"].norm() / scaled.norm())
        assert kernel.cosines[label] == pytest.approx(cosine, rel=1e-6)
    table = lora_kernel_table(lora_run)
    assert [row[0] for row in table.rows] == list(kernel.norms)
    assert "not the proposition" in table.note


def test_every_claim_has_its_rows(checks):
    # 2 trainings x 2 outputs x 3 decades; 3 shapes; P, then 5 ranks x 4 eps; 5 ranks.
    assert Counter(check.claim for check in checks) == {
        "Proposition 4.1": 12,
        "Corollary 4.3": 3,
        "Proposition 4.4": 21,
        "Proposition 4.4 as printed": 5,
    }


def test_the_error_of_proposition_4_1_falls_tenfold_in_every_decade(checks):
    found = of(checks, "Proposition 4.1")
    assert all(check.holds and 9 < check.measured < 11 for check in found)
    assert {check.promised for check in found} == {10}
    settings = " ".join(check.setting for check in found)
    assert all(word in settings for word in ("all parameters", "LoRA", "logits", "features"))


def test_corollary_4_3_holds_to_rounding(checks):
    found = of(checks, "Corollary 4.3")
    assert all(check.holds and check.promised == 0 and check.measured < 1e-12 for check in found)


def test_proposition_4_4_holds_where_it_promises_anything(checks):
    first, *found = of(checks, "Proposition 4.4")
    assert (first.measured, first.promised, first.holds) == (0, 0, True)
    promised = {
        f"r={rank}, eps={epsilon}": 1 - 4 * math.exp(-(epsilon**2) * (1 - epsilon) * rank / 4)
        for rank in (64, 128, 256, 512, 1024)
        for epsilon in (0.1, 0.2, 0.3, 0.5)
    }
    assert {check.setting: check.promised for check in found} == pytest.approx(promised)
    for check in found:
        if check.promised <= 0:
            assert check.holds is None
            assert "at the best eps of 2/3, below r = 38" in check.note
        else:
            assert check.holds is True
            assert check.measured >= check.promised - 0.01
    # By hand: 4 ln 4 / (eps^2 - eps^3) is 616.1, 173.3, 88.02 and 44.4.
    vacuous = [check for check in found if check.holds is None]
    assert len(vacuous) == 4 + 2 + 1
    for epsilon, rank in ((0.1, 617), (0.2, 174), (0.3, 89)):
        notes = {check.note for check in vacuous if check.setting.endswith(f"eps={epsilon}")}
        assert [note.startswith(f"promises nothing below r = {rank};") for note in notes] == [True]


def test_p_of_lora_is_measured_and_not_zero_by_construction():
    """Zero with the factor B at its start; with another B the same measure is not."""
    tokens = random_tokens(torch.Generator().manual_seed(5))
    plain, adapted = random_bert(5), random_bert(5, 4)
    assert pretrain_difference(plain, adapted, tokens) == 0
    factors = [p for name, p in adapted.named_parameters() if "lora_B" in name]
    assert len(factors) == 2 * LAYERS
    with torch.no_grad():
        for factor in factors:
            factor.fill_(0.1)
    assert pretrain_difference(plain, adapted, tokens) > 1e-3


def test_the_printed_form_fails(checks):
    for check in of(checks, "Proposition 4.4 as printed"):
        assert check.holds is False
        assert check.measured < 0.1 < check.promised
        rank = check.setting.removeprefix("r=").partition(",")[0]
        assert f"sigma^2 r = {rank}" in check.note


def test_the_table_prints(checks, capsys):
    header, rows = theory_table(checks)
    assert header == ("claim", "setting", "measured", "promised", "holds", "note")
    assert len(rows) == len(checks)
    print_table(header, rows)
    assert len(capsys.readouterr().out.splitlines()) == len(checks) + 1
    assert Counter(row[4] for row in rows) == {"yes": 29, "vacuous": 7, "NO": 5}


def test_a_probability_below_one_is_not_shown_as_certainty():
    check = TheoryCheck("claim", "setting", 1.0, 0.99999955, True, "note")
    assert theory_table([check])[1] == [("claim", "setting", "1", ">0.9999", "yes", "note")]


def test_one_sentence_says_what_holds():
    def checks(claim, *holds):
        return [TheoryCheck(claim, "setting", 1.0, 1.0, each, "note") for each in holds]

    good = [*checks("A", True, None), *checks("B", True), *checks("C", True)]
    assert theory_sentence(good) == "Of A, B and C every check that could fail holds (3)."
    mixed = [*checks("A", True), *checks("B", True, False, False)]
    assert theory_sentence(mixed) == (
        "Of A every check that could fail holds (1); B fails in 2 of 3."
    )


def test_the_json_holds_every_number(checks):
    value = json.loads(json.dumps(theory_json(checks, seed=3), allow_nan=False))
    assert value["seed"] == 3
    assert value["checks"][5] == vars(checks[5])
    assert len(value["checks"]) == len(checks)


def test_a_seed_gives_the_same_numbers_and_leaves_the_program_s_own_alone(checks):
    state = torch.get_rng_state()
    again = run_theory(seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert again == checks
    assert run_theory(seed=4) != checks


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(InputError, match="seed: expected a number from 0 to"):
        run_theory(seed=seed)


def experiment(folder, seeds=(0,)):
    return ExperimentRuns(claims_scope(folder, seeds=seeds), {}, {})


@pytest.fixture
def write(tmp_path, monkeypatch):
    """The experiment with such checks of seed 0, as if they had been made."""

    def keep(*checks):
        monkeypatch.setattr(propositions, "run_theory", lambda **_: list(checks))
        THEORY(experiment(tmp_path))
        return experiment(tmp_path)

    return keep


def test_the_propositions_hold_on_random_models(write, checks):
    found = write(*checks)
    assert THEORY.read(found) == {0: checks}
    first = CLAIMS[0].outcomes(found, None)
    assert [outcome.case.name for outcome in first] == [
        f"Proposition 4.1, {trained}: {output}"
        for trained in ("all parameters", "LoRA of rank 4")
        for output in ("logits", "features")
    ]
    assert {outcome.judgement.verdict for outcome in first} == {"holds"}
    # The error falls with the rate: tenfold, 8 times at least asked.
    assert all(1 < outcome.judgement.effect.value < 3 for outcome in first)
    linear = CLAIMS[1].outcomes(found, None)
    assert [each.judgement.verdict for each in linear] == ["holds", "holds", "does not hold"]
    assert [outcome.case.part is None for outcome in linear] == [False, False, True]
    # 20 pairs of r and eps, of which 4 + 2 + 1 promise nothing; the printed form is tried 5 times.
    assert "13 checks over 1 seed, all hold" in linear[1].judgement.why
    assert "5 checks over 1 seed, 5 of them fail" in linear[2].judgement.why


def test_one_check_that_fails_is_enough(write):
    check = TheoryCheck(
        "Proposition 4.1", "all parameters: logits, rate 1 to 0.1", 9.9, 10, True, ""
    )
    worse = TheoryCheck(
        "Proposition 4.1", "all parameters: logits, rate 0.1 to 0.01", 2, 10, False, ""
    )
    (outcome,) = CLAIMS[0].outcomes(write(check, worse), None)
    judgement = outcome.judgement
    assert (judgement.verdict, judgement.effect.value) == ("does not hold", 2 - 8)
    assert "2 checks over 1 seed, 1 of them fail" in judgement.why


def test_without_kept_checks_there_is_nothing_to_say(tmp_path):
    assert CLAIMS[0].outcomes(experiment(tmp_path), None) == []
    assert CLAIMS[1].outcomes(experiment(tmp_path), None) == []


def test_checks_are_made_once_for_each_seed(tmp_path, checks, monkeypatch):
    asked = []

    def fake(*, seed):
        asked.append(seed)
        return checks[:1]

    monkeypatch.setattr(propositions, "run_theory", fake)
    THEORY(experiment(tmp_path, seeds=(0, 1)))
    THEORY(experiment(tmp_path, seeds=(0, 1, 4)))
    assert asked == [0, 1, 4]
    found = experiment(tmp_path, seeds=(0, 1, 4))
    assert THEORY.read(found) == dict.fromkeys((0, 1, 4), checks[:1])


@pytest.mark.parametrize("other", ["version", "_code_hash"])
def test_checks_of_another_version_or_code_are_made_again(write, checks, monkeypatch, other):
    found = write(*checks[:1])
    monkeypatch.setattr(propositions, other, lambda _: "another")
    assert THEORY.read(found) == {}
    THEORY(found)
    assert THEORY.read(found) == {0: checks[:1]}


def test_the_code_of_checks_is_that_of_the_propositions_and_of_all_they_run(tmp_path):
    package = Path(lpft.__file__).parent
    hashes = set()
    changed = ("theory/checks.py", "ntk/dynamics.py", "experiments/theory.py", "theory/new.py")
    for number, name in enumerate(("", *changed)):
        copied = tmp_path / str(number)
        for part in propositions._CODE:
            if (package / part).is_dir():
                shutil.copytree(package / part, copied / part)
        (copied / "experiments").mkdir()
        shutil.copy(package / "experiments/theory.py", copied / "experiments")
        if name:
            with (copied / name).open("a") as file:
                file.write("# changed")
        hashes.add(propositions._code_hash(copied))
    assert len(hashes) == 5
    assert propositions._code_hash(tmp_path / "0") == propositions._code_hash(package)


@pytest.mark.parametrize("damage", [lambda _: "{", lambda _: "[]", lambda kept: _halved(kept)])
def test_damaged_checks_are_made_again(write, checks, tmp_path, caplog, damage):
    found = write(*checks[:1])
    path = tmp_path / "steps" / "theory-seed0.json"
    path.write_text(damage(path.read_text()))
    assert THEORY.read(found) == {}
    assert "computing it again" in caplog.text
    THEORY(found)
    assert THEORY.read(found) == {0: checks[:1]}


def _halved(kept):
    """The record of a check without its last entries."""
    record = json.loads(kept)
    record["result"] = [dict(list(check.items())[:3]) for check in record["result"]]
    return json.dumps(record)
