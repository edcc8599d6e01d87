"""The random head that a run begins with, before any training."""

from lpft.results.run import Run
from lpft.settings import get_method


def random_head_norm(run: Run) -> float | None:
    """``||V||_F`` of a run's random head; None where only another head's norm was kept.

    Fine-tuning keeps the norm that it begins with, which is that of the LP solution after linear
    probing, and scaled where the head was.
    """
    method = get_method(run.method)
    begins_random = method.head_start == "random" and run.config.get("head_scale") == 1
    return run.head_norm("norm_at_start") if begins_random or not method.fine_tunes else None
