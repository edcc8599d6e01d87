"""Bugs of the paper's published code that are not repeated here, as sentences for readers."""

from collections.abc import Iterable

FDR_NOT_COMPARABLE = (
    "Published FDR is not comparable: the paper gives no formula for it, and trace(S_W⁺ S_B) does "
    "not reproduce its values."
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


def kernel_bugs(models: Iterable[str]) -> list[str]:
    """Bugs that bear on the published kernels."""
    gpt2 = [_GPT2_KERNELS] if any("gpt2" in model.lower() for model in models) else []
    return [WORD_EMBEDDINGS, *gpt2, _CACHED_KERNELS]


def run_bugs(protocol: str, model: str, *, binary: bool) -> list[str]:
    """Bugs that bear on the published counterparts of some runs."""
    if protocol != "paper":
        return []
    attention = [ATTENTION] if "gpt2" in model.lower() else []
    return [*([HALVED] if binary else []), FOLDS, *attention]
