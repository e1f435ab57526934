"""What is meant where nothing is named: the models, the artifacts and the folders to verify in this folder."""

from collections.abc import Sequence
from pathlib import Path

from kfdeploy.errors import PoolError
from kfdeploy.manifest import ARTIFACT
from kfdeploy.pool.remote.locate import locate


def find_models(names: Sequence[str | Path], pool: Path = Path("pool")) -> list[Path]:
    """Return the models to export: the named ones, or the assembly, the students and the pool's teacher here.

    Raises:
        PoolError: none was named and there is none here.
    """
    if names:
        return [Path(name) for name in names]
    from kfdeploy.manifest import ASSEMBLY

    here = [Path("assembly"), *sorted(Path("students").glob("*")), pool / "train" / "teacher"]
    found = [
        path
        for path in here
        if path.suffix != ".partial" and not path.name.startswith(".") and (path / ASSEMBLY).is_file()
    ]
    if not found:
        raise PoolError(
            "there is neither an 'assembly' nor 'students' here",
            hint="kfdeploy assemble --tasks …, or name a folder: kfdeploy export <assembly>",
        )
    return found


def find_verifiable(paths: Sequence[str | Path]) -> list[Path | str]:
    """Return what to verify: the named folders, or all artifacts here, else the assembly, else the pool.

    Raises:
        PoolError: none was named and there is none here.
    """
    if paths:
        return [locate(path) for path in paths]
    artifacts = sorted(path.parent for path in Path("artifacts").glob("*/manifest.json"))
    found = artifacts or [path for path in (Path("assembly"), Path("pool")) if path.is_dir()][:1]
    if not found:
        raise PoolError("there is nothing to verify here", hint="kfdeploy verify <artifact, assembly, student or pool>")
    return [*found]


def find_artifacts(paths: Sequence[str | Path]) -> list[Path]:
    """Return what to measure: the named artifacts, each once, or all in `artifacts/`.

    Raises:
        PoolError: none was named and there are none here.
    """
    if not paths:
        here = sorted(path.parent for path in Path("artifacts").glob(f"*/{ARTIFACT}"))
        paths = [path for path in here if not path.name.startswith(".") and path.suffix != ".partial"]
        if not paths:
            raise PoolError("there are no artifacts here", hint="kfdeploy export --target onnx, then benchmark")
    return list(dict.fromkeys(Path(path) for path in paths))
