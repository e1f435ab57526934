"""Where things are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]  # the checkout
SHARED = ROOT.parent / "shared"  # what lies beside it where this project is developed; a test that needs it skips
EXPORT = ROOT / "export"
