"""The methods of training, as rows of one table."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from lpft.errors import InputError, meant_choice, named
from lpft.settings.fields import Need, Setting

HeadStart = Literal["random", "lp", "words"]
"""``words`` are the rows of label words in the language model's output embedding."""

Trained = Literal[
    "nothing", "head", "all", "bias", "encoder", "lora", "dora", "ia3", "prefix", "peft"
]


@dataclass(frozen=True)
class Method:
    """One way to train a classifier.

    ``trained`` is ``nothing``, ``head`` (linear probing only), ``all``, ``bias`` (the encoder's
    bias terms), ``encoder`` (by contrastive tuning, between two linear probes), or the kind of an
    adapter, whose parameters are trained together with the head:
    :func:`lpft.model.adapters.adapt`.
    """

    name: str
    head_start: HeadStart
    trained: Trained
    summary: str

    @property
    def fine_tunes(self) -> bool:
        return self.trained not in ("nothing", "head")

    @property
    def adapter(self) -> str | None:
        """The kind of parameters that are added to the model's own, if any."""
        without_adapter = ("nothing", "head", "all", "bias", "encoder")
        return None if self.trained in without_adapter else self.trained

    @property
    def moves_features(self) -> bool:
        """Whether the features may differ from the pre-trained ones before the first step.

        Virtual tokens take part of the attention at once. The LP head is then fitted on the
        features that fine-tuning starts from.
        """
        return self.trained in ("prefix", "peft")

    @property
    def contrastive(self) -> bool:
        return self.trained == "encoder"

    @property
    def fine_tunes_head(self) -> bool:
        return self.fine_tunes and not self.contrastive

    def takes(self, setting: Setting) -> bool:
        """Whether a setting has an effect with this method."""
        available: dict[Need, bool] = {
            "probing": self.head_start == "lp",
            "label words": self.head_start == "words",
            "fine-tuning": self.fine_tunes,
            "fine-tuning of the head": self.fine_tunes_head,
            "contrastive tuning": self.contrastive,
            "low-rank factors": self.trained in ("lora", "dora"),
            "prefix": self.trained == "prefix",
            "PEFT configuration": self.trained == "peft",
        }
        return setting.needs is None or available.get(setting.needs, True)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("lp", "lp", "head", "linear probing: logistic regression on frozen features"),
        Method(
            "contrastive", "lp", "encoder", "contrastive tuning of the encoder, then linear probing"
        ),
        Method("ft", "random", "all", "fine-tuning of everything from a random head"),
        Method("lp-ft", "lp", "all", "linear probing, then fine-tuning of everything"),
        Method("lora", "random", "lora", "low-rank factors and a random head"),
        Method("lp-lora", "lp", "lora", "linear probing, then low-rank factors and the head"),
        Method("dora", "random", "dora", "weight-decomposed low-rank factors and a random head"),
        Method("lp-dora", "lp", "dora", "linear probing, then weight-decomposed factors"),
        Method("bitfit", "random", "bias", "the encoder's bias terms and a random head"),
        Method("lp-bitfit", "lp", "bias", "linear probing, then bias terms and the head"),
        Method("ia3", "random", "ia3", "factors on keys, values and feed-forward, random head"),
        Method("lp-ia3", "lp", "ia3", "linear probing, then IA3's factors and the head"),
        Method("prefix", "random", "prefix", "keys and values of a prefix, and a random head"),
        Method("lp-prefix", "lp", "prefix", "linear probing with a prefix, then prefix and head"),
        Method("peft", "random", "peft", "what a PEFT configuration describes, random head"),
        Method("lp-peft", "lp", "peft", "linear probing, then what a PEFT configuration says"),
        Method("prompt", "words", "nothing", "label words in a prompt, without training"),
        Method("prompt-ft", "words", "all", "label words in a prompt, then fine-tuning of all"),
        Method("prompt-lora", "words", "lora", "label words in a prompt, then low-rank factors"),
        Method("prompt-bitfit", "words", "bias", "label words in a prompt, then bias terms"),
    )
}


LEARNING_RATES = {
    **{"lora": 5e-4, "dora": 5e-4, "peft": 5e-4},
    **{"bias": 4e-4, "ia3": 3e-3, "prefix": 5e-3},
    "encoder": 5e-5,
}
"""Initial learning rates by what is trained, where they differ from that of whole models: of
bias terms, IA3 and prefixes in the ranges that their papers (of prefixes P-tuning v2) search."""

MINILM_LEARNING_RATES = {
    **{"all": 1e-4, "lora": 2e-3, "dora": 2e-3, "peft": 2e-3},
    **{"bias": 2e-3, "ia3": 1e-2, "prefix": 1e-2},
}
"""The same for the packaged model: of all parameters and of LoRA measured with
``benchmarks/learning_rates.py``; of bias terms, IA3 and prefixes raised as LoRA's is, and not
measured."""


AUTO = "auto"
"""In place of a method: train several and keep the one that validation chooses."""


def get_method(name: str, instead: tuple[str, ...] = ()) -> Method:
    """The method called ``name``; an error also lists what may stand ``instead`` of one.

    Raises:
        InputError: there is no such method, or it is :data:`AUTO`, which stands for several.
    """
    if name == AUTO:
        raise InputError(
            f"{named('method')} auto trains several methods and keeps one, which only lpft train "
            f"and TextClassifier do: name one of {', '.join(METHODS)}"
        )
    if name not in METHODS:
        choices = (*METHODS, *instead)
        hint = meant_choice(name, choices)
        raise InputError(f"unknown method '{name}'{hint}: expected one of {', '.join(choices)}")
    return METHODS[name]


def contrastive_installed() -> bool:
    """Whether the library with the loss of contrastive tuning is installed."""
    return find_spec("sentence_transformers") is not None


def check_installed(method: Method) -> None:
    """Refuse a method whose library is not installed.

    Raises:
        InputError: it is not.
    """
    if method.contrastive and not contrastive_installed():
        raise InputError(
            f"{named('method')} {method.name} needs the 'contrastive' extra, which is not "
            "installed: run pip install 'lpft[contrastive]'"
        )


def with_lp_head(name: str) -> str | None:
    """The method that trains the same parameters as ``name`` but starts from an LP head.

    None if ``name`` starts from no random head, is unknown, or has no such partner.
    """
    method = METHODS.get(name)
    if method is None or method.head_start != "random":
        return None
    return next(
        (m.name for m in METHODS.values() if m.head_start == "lp" and m.trained == method.trained),
        None,
    )
