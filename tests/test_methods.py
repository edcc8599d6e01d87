"""The table of methods."""

from lpft.settings import METHODS, with_lp_head


def test_every_method_from_a_random_head_has_one_from_an_lp_head():
    pairs = {name: with_lp_head(name) for name in METHODS}
    assert pairs == {
        "lp": None,
        "ft": "lp-ft",
        "lp-ft": None,
        "lora": "lp-lora",
        "lp-lora": None,
        "dora": "lp-dora",
        "lp-dora": None,
    }
    assert with_lp_head("of another version") is None
