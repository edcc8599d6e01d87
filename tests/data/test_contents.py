import pytest

from lpft.data.contents import has_markup, is_damaged, is_empty_like


@pytest.mark.parametrize(
    "text",
    ["N/A", "n.a.", "#REF!", "#DIV/0!", "nan", "NULL", " None ", "-", ".", "\u2014", "...", "?!",
     "'null'", "[deleted]", "<NA>", "not applicable", "\u200b"],
)  # fmt: skip
def test_what_stands_for_no_text(text):
    assert is_empty_like(text)
    assert is_empty_like(("a premise", text))


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "ok",
        ":)",
        "7",
        "\U0001f44d",
        "C",
        "none of it works",
        "naan",
        "\u597d",
        "+",
        "nil-nil",
    ],
)
def test_short_texts_are_texts(text):
    assert not is_empty_like(text)


@pytest.mark.parametrize(
    "text",
    ["so<br />bad", "<p>Good.</p>", '<a href="x">here</a>', "salt &amp; pepper", "it&#39;s",
     "&nbsp;", "[this](https://example.org/x)", "![](/image.png)", "[b]bold[/b]", "<!-- note -->"],
)  # fmt: skip
def test_markup(text):
    assert has_markup(text)


@pytest.mark.parametrize(
    "text",
    [
        "I <3 it",
        "a < b > c",
        "<user> said so",
        "Q&A;",
        "R&D; sales",
        "see [1] (2020)",
        "AT&T",
        "a[i](x)",
    ],
)
def test_brackets_and_ampersands_of_plain_text_are_no_markup(text):
    assert not has_markup(text)


@pytest.mark.parametrize(
    "text",
    ["\u00e9t\u00e9 \u00e0 No\u00ebl", "it\u2019s \u201cgood\u201d \u2013 5 \u20ac \u2026",
     "\u0413\u0434\u0435 \u043e\u043d?", "\u4f60\u597d", "\u3053\u3093", "\uc548\ub155",
     "\U0001f600", "M\u00fcller", "\u0395\u03bb\u03bb\u03ac\u03b4\u03b1",
     "\u05e9\u05dc\u05d5\u05dd"],
)  # fmt: skip
@pytest.mark.parametrize("read_as", ["cp1252", "latin-1"])
def test_utf_8_read_as_another_encoding(text, read_as):
    """Python decodes it wrongly, as a program of the user did."""
    wrong = text.encode().decode(read_as, errors="replace")
    assert is_damaged(wrong)
    assert not is_damaged(text)


@pytest.mark.parametrize(
    "text",
    ["\u00ab le caf\u00e9\u00a0\u00bb", "CAF\u00c9\u00bb", "\u201cAMANH\u00c3\u201d",
     "20\u00a0\u00b0C", "\u00bfQu\u00e9?", "\u201ear\u0103\u0219i atunci\u2026\u201d",
     "tab\tand\nline", "\u00a9\u00ae\u2122", "S\u00c3O"],
)  # fmt: skip
def test_rare_characters_of_plain_text_are_not_damage(text):
    assert not is_damaged(text)


def test_replacement_and_control_characters():
    assert is_damaged("caf\ufffd")
    assert is_damaged("an en dash \x96 of Windows")
    assert is_damaged(("fine", "bell\x07"))
