"""What readers must know beside the numbers: definitions, and faults that are not repeated."""

from collections.abc import Iterable

from lpft.report.settings import Group

DEFINITIONS = (
    (
        "Feature change (Diff)",
        "Mean over texts of the L2 distance between a feature after training and the same text's "
        "pre-trained feature.",
    ),
    ("Head norm", "Frobenius norm of the weights of the linear head."),
    ("CS", "Mean cosine similarity over pairs of different texts' features."),
    (
        "FDR",
        "Fisher's discriminant ratio, trace(S_W⁺ S_B), in float64, eigenvalues of S_W below 1e-10 "
        "of the largest cut off. Published values cannot be met by it and are not comparable.",
    ),
    (
        "ECE, MCE",
        "Mean and largest gap between accuracy and confidence over 15 equal-width bins (lo, hi] "
        "of the top probability.",
    ),
    ("NLL", "Mean negative log-likelihood of the labels, in nats."),
    (
        "Brier",
        "Mean squared distance between probabilities and the one-hot label, summed over classes. "
        "The paper's code divides it by the number of classes.",
    ),
    (
        "Temperature",
        "One number per run that divides the logits, chosen to minimise NLL on validation; it "
        "never changes a prediction.",
    ),
    (
        "Own and shared rates",
        "Learning rate and batch size change how far features move. A comparison of methods at "
        "their own rates mixes that with the effect of the head they start from; at a shared rate "
        "and batch size only the head differs.",
    ),
)

_HALVED = (
    "Two classes: the reference installs half of the weights that its logistic regression fitted "
    "(its scikit-learn means p = sigmoid(2 w·x), its code copies ∓w/2), so published binary head "
    "norms after LP are half of what was fitted and its strength C corresponds to 2C today. Here "
    "the head is installed as fitted."
)
_FOLDS = (
    "The reference shuffles the training rows with the run's seed before it cuts the folds of the "
    "logistic regression, so its LP head depends on the seed."
)
_ATTENTION = (
    "The reference switches scale_attn_by_inverse_layer_idx on for GPT-2, which changes the "
    "pre-trained function. Here GPT-2 keeps its own configuration."
)


def faults(groups: Iterable[Group]) -> list[str]:
    """Faults of the reference implementation that bear on these runs' published counterparts."""
    found: dict[str, None] = {}
    for group in groups:
        if group.protocol != "paper":
            continue
        if any(len(run.classes) == 2 for run in group.runs):
            found[_HALVED] = None
        found[_FOLDS] = None
        if "gpt2" in group.model.lower():
            found[_ATTENTION] = None
    return list(found)
