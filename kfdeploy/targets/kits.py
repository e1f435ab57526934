"""Device kits: what is copied beside an exported model, so that a device needs neither torch nor kfdeploy."""

import shutil
from pathlib import Path

from kfdeploy.errors import PoolError

# The device's clock and image reader are the very files that `kfdeploy` measures and reads with.
OWN = Path(__file__).parent / "device"
# So are what keeps runtimes from reporting home, and what shows names of other people's; both need Python alone.
GROUND = tuple(Path(__file__).parents[1] / name for name in ("quiet.py", "shown.py"))


def kits() -> Path:
    """Return the folder of the kits: in the package's own data, else beside it (a checkout).

    Raises:
        PoolError: it is in neither.
    """
    for place in (Path(__file__).parents[1] / "_data" / "export", Path(__file__).parents[2] / "export"):
        if (place / "common").is_dir():
            return place
    raise PoolError("the device kits are not installed", hint="install kfdeploy again, or export without --kit")


def write_kit(folder: Path, name: str) -> list[str]:
    """Copy a target's kit into an artifact's folder, and return the names of its files, its README first."""
    root = kits()
    written = []
    for base, place in ((root / "common", folder), (root / name, folder), (OWN, folder / OWN.name)):
        for path in sorted(base.rglob("*")):
            if path.is_dir() or "__pycache__" in path.parts:
                continue
            target = place / path.relative_to(base)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            written.append(target.relative_to(folder).as_posix())
    for path in GROUND:
        shutil.copyfile(path, folder / OWN.name / path.name)
        written.append(f"{OWN.name}/{path.name}")
    return sorted(written, key=lambda each: (each != "README.md", each))
