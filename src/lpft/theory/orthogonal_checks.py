"""Corollary 4.3 in linear models: features of inputs orthogonal to all training inputs stay."""

from collections.abc import Iterator

from lpft.theory.check import TheoryCheck
from lpft.theory.orthogonal import check_orthogonal

LINEAR_WIDTHS = ((8, 4, 2, 3), (32, 16, 3, 20), (128, 64, 5, 60))
"""Width of inputs, features and logits, and training rows (d, h, C, N) of the linear encoders."""

HEAD_SCALES = (0.02, 1.0)
STEPS = (1, 10, 100)
LINEAR_SEEDS = 10
ROUNDING = 1e-12
"""Relative change of a feature that counts as none."""


def orthogonal_checks(seed: int) -> Iterator[TheoryCheck]:
    """The largest change of a feature over trainings, for each shape of the linear model."""
    for inputs, features, classes, rows in LINEAR_WIDTHS:
        checks = [
            check_orthogonal(
                inputs=inputs,
                features=features,
                classes=classes,
                rows=rows,
                head_scale=head_scale,
                rate=0.1 / rows,
                steps=steps,
                seed=LINEAR_SEEDS * seed + draw,
            )
            for head_scale in HEAD_SCALES
            for steps in STEPS
            for draw in range(LINEAR_SEEDS)
        ]
        orthogonal = max(check.orthogonal for check in checks)
        generic = min(check.generic for check in checks)
        yield TheoryCheck(
            claim="Corollary 4.3",
            setting=f"linear encoder, d={inputs}, h={features}, C={classes}, N={rows}",
            measured=orthogonal,
            promised=0.0,
            holds=orthogonal <= ROUNDING < generic,
            note=f"largest relative change of a feature, {len(checks)} trainings of up to "
            f"{max(STEPS)} steps; of other inputs the smallest is {generic:.1e}",
        )
