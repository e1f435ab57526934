"""The reference of recipe keys is the sections': docs/recipes.md is up to date, and every key is told of."""

from pathlib import Path

from kfdeploy.training.recipe.reference import reference


def test_the_page_in_docs_is_what_the_command_prints():
    page = Path(__file__).parents[3] / "docs" / "recipes.md"
    assert page.read_text(encoding="utf-8") == reference(), "kfdeploy recipes keys > docs/recipes.md"


def test_every_key_is_told_of():
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert not [row for row in rows if row.endswith("|  |")]
    assert "| `validation` | number | `0.1` | the stratified share" in reference()
    assert '| `weights` | text | `""` | to begin from' in reference()
