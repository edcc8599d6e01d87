"""What readers must know beside the numbers: definitions, and faults that are not repeated."""

from collections.abc import Iterable

from lpft.results.groups import Group
from lpft.results.judging import RULE

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
        "Paired differences",
        "Two methods on the same seeds and the same texts, with the 95 % interval of a bootstrap "
        "that draws both anew; texts that are not independent, such as the sentences of one "
        "abstract, are drawn together. Detectable: the smallest true difference that a paired "
        "t-test at 5 % finds with 80 % power with so many seeds of this spread. " + RULE,
    ),
    (
        "Own and shared rates",
        "Learning rate and batch size change how far features move. A comparison of methods at "
        "their own rates mixes that with the effect of the head they start from; at a shared rate "
        "and batch size only the head differs.",
    ),
)

KERNEL_DEFINITIONS = (
    (
        "Empirical NTK",
        "P + F at the start of fine-tuning, over all pairs of texts and classes: how a step on one "
        "text moves the logits of another. P, the pre-train-effective kernel, is what the head's "
        "own weights and bias contribute: the inner products of the pre-trained features, plus 1 "
        "for the bias, times the identity of the classes. F, the FT-effective kernel, is what goes "
        "through the features.",
    ),
    (
        "FT ratio",
        "Mean over training texts of the norm of F times the residuals over the norm of P + F "
        "times the residuals; residuals are one-hot labels minus the probabilities at the start. "
        "Above 1 where the two parts work against each other.",
    ),
    (
        "Rank of a kernel",
        "Singular values, in float64, above the tolerance of float32: the longer side of the "
        "matrix times 1.19e-7 times the largest singular value.",
    ),
    ("FN", "Frobenius norm of a kernel over all pairs of texts and classes."),
    (
        "Trace norm",
        "Sum of the singular values of the block of one pair of texts, a matrix over the classes.",
    ),
    (
        "CKA",
        "Centred kernel alignment: the cosine between two kernels as vectors, after the mean over "
        "texts has been taken out for each class.",
    ),
)

FDR_NOT_COMPARABLE = (
    "Published FDR is not comparable: the paper gives no formula for it, and its values cannot be "
    "met by trace(S_W⁺ S_B)."
)
HALVED = (
    "Two classes: the reference installs half of the weights that its logistic regression fitted "
    "(its scikit-learn means p = sigmoid(2 w·x), its code copies ∓w/2), so published binary head "
    "norms after LP are half of what was fitted and its strength C corresponds to 2C today. Here "
    "the head is installed as fitted."
)
FOLDS = (
    "The reference shuffles the training rows with the run's seed before it cuts the folds of the "
    "logistic regression, so its LP head depends on the seed."
)
ATTENTION = (
    "The reference switches scale_attn_by_inverse_layer_idx on for GPT-2, which changes the "
    "pre-trained function. Here GPT-2 keeps its own configuration."
)
WORD_EMBEDDINGS = (
    "In the reference's kernels the word embeddings' part is filled for 32 of 250 texts and zero "
    "for all others, and it comes from a tenth of the parameters and outputs, scaled so that the "
    "blocks of a text with itself are about ten times too large. Here every parameter counts."
)
_GPT2_KERNELS = (
    "The reference's kernels of GPT-2 leave out its final LayerNorm and add 1 to P although its "
    "head has no bias."
)
_CACHED_KERNELS = (
    "The reference names saved parts of kernels by the output folder alone, so that another "
    "evaluation set can silently reuse old ones."
)


def kernel_faults(models: Iterable[str]) -> list[str]:
    """Faults of the reference implementation that bear on its published kernels."""
    gpt2 = [_GPT2_KERNELS] if any("gpt2" in model.lower() for model in models) else []
    return [WORD_EMBEDDINGS, *gpt2, _CACHED_KERNELS]


def faults(groups: Iterable[Group]) -> list[str]:
    """Faults of the reference implementation that bear on these runs' published counterparts."""
    found: dict[str, None] = {}
    for group in groups:
        if group.protocol != "paper":
            continue
        if any(len(run.classes) == 2 for run in group.runs):
            found[HALVED] = None
        found[FOLDS] = None
        if "gpt2" in group.model.lower():
            found[ATTENTION] = None
    return list(found)
