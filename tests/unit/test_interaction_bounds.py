"""The texts of an interaction are bounded."""

from clinvk.types.interaction import Interaction, bounded

LONG = "x" * 100_000


def test_short_interaction_is_unchanged() -> None:
    interaction = Interaction(id="1", title="t", input={"command": "ls", "n": 1}, command="ls", editable=True)
    assert bounded(interaction) == interaction


def test_long_texts_are_cut_and_the_input_is_not_editable() -> None:
    interaction = Interaction(
        id="1", tool=LONG, title=LONG, input={"content": LONG, "edits": [LONG]}, command=LONG, diff=LONG, editable=True
    )
    cut = bounded(interaction)
    for text in (cut.tool, cut.title, cut.command, cut.diff, cut.input["content"], cut.input["edits"]):
        assert isinstance(text, str)
        assert len(text) < 70_000
        assert text.endswith("more characters]")
    assert not cut.editable
