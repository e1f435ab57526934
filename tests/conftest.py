"""A toy world: six classes of 8×8 images, a pool of four tasks trained for a moment, a student, and artifacts."""

import atexit
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

# Two test processes share two cores, and toy networks gain nothing from a second thread. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What is remembered of places (kfdeploy/places.py) is of this run alone: its processes share what one of them has made.
os.environ.update(
    {} if "PYTEST_XDIST_WORKER" in os.environ else {"XDG_STATE_HOME": tempfile.mkdtemp(prefix="kfdeploy-state-")}
)

from fields import field_pool
from servers import S3, Web, forget
from toys import TOY, write_images

from kfdeploy.deploy.artifact import Artifact
from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.deploy.model import Model
from kfdeploy.pool.pool import Pool
from kfdeploy.training.recipe.recipe import Recipe, load_recipe

if "PYTEST_XDIST_WORKER" not in os.environ:
    atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def as_it_was():
    """Hold every module to leave the working directory and the state folder as they were: later ones rely on them."""
    before = Path.cwd(), os.environ.get("KFDEPLOY_STATE"), os.environ["XDG_STATE_HOME"]
    yield
    assert (Path.cwd(), os.environ.get("KFDEPLOY_STATE"), os.environ["XDG_STATE_HOME"]) == before


@dataclass(frozen=True)
class Toy:
    """Where everything of the toy world is."""

    root: Path
    data: Path
    recipe: Recipe
    pool: Path
    students: Path

    @property
    def tasks(self) -> list[str]:
        return ["pets", "sea horse", "élan", "ünï/c"]

    def write_recipe(self, folder: Path, *changes: tuple[str, str]) -> Path:
        """Write the toy recipe with some text replaced."""
        text = TOY.replace("ROOT", str(self.data))
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        path = folder / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        return path


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    from kfdeploy.training.distill import distill
    from kfdeploy.training.factorize import factorize

    root = tmp_path_factory.mktemp("toy")
    data = root / "data"
    write_images(data, "train", 16)
    write_images(data, "test", 6)
    toy = Toy(root, data, None, root / "pool", root / "students")  # type: ignore[arg-type]
    recipe = load_recipe(toy.write_recipe(root))
    toy = Toy(root, data, recipe, root / "pool", root / "students")
    factorize(recipe, toy.pool)
    distill(recipe, pool=toy.pool, out=toy.students)
    return toy


@pytest.fixture
def pool(toy: Toy, tmp_path: Path) -> Path:
    """A copy of the toy pool, to be damaged."""
    shutil.copytree(toy.pool, tmp_path / "pool")
    return tmp_path / "pool"


@pytest.fixture(scope="session")
def assembly(toy: Toy) -> Model:
    return assemble(Pool.open(toy.pool), ["sea horse", "pets"], toy.root / "assembly")


@pytest.fixture(scope="session")
def artifacts(toy: Toy, assembly: Model) -> list[Artifact]:
    """The assembly and the student on both targets, and the teacher on one."""
    out = toy.root / "artifacts"
    student = Model.open(toy.students / "small")
    made = [export(model, target, out=out) for model in (assembly, student) for target in ("onnx", "openvino")]
    return [*made, export(toy.pool / "train" / "teacher", "onnx", out=out)]


@pytest.fixture(scope="session")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A pool of five tasks over three fields, of the record's networks and with random heads."""
    return field_pool(tmp_path_factory.mktemp("fields") / "pool")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, as the working directory."""
    empty = tmp_path / "here"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return empty


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of pools on servers, for one test, and connections that no other test has made."""
    pytest.importorskip("fsspec", reason="pools on servers need fsspec")
    monkeypatch.setenv("KFDEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("kfdeploy.pool.remote.store.WAITS", (0.01, 0.01))
    forget()
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def moto():
    pytest.importorskip("s3fs", reason="S3 needs s3fs")
    pytest.importorskip("moto.server", reason="the S3 server of these tests is moto's")
    server = S3()
    yield server
    server.stop()


@pytest.fixture
def s3(moto, cache, monkeypatch):
    """An S3 server with an empty bucket."""
    for key, value in moto.environment.items():
        monkeypatch.setenv(key, value)
    files = moto.files()
    if files.exists("bucket"):
        files.call_s3("delete_bucket_policy", Bucket="bucket")
        files.rm("bucket", recursive=True)
    files.mkdir("bucket")
    moto.log.clear()
    return moto


@pytest.fixture
def web(pool, cache):
    """A copy of the toy pool over HTTP."""
    pytest.importorskip("aiohttp", reason="http needs aiohttp")
    server = Web(pool)
    yield server
    server.stop()


@pytest.fixture
def memory(toy, cache):
    """fsspec's memory, with the toy pool as memory://pool."""
    fsspec = pytest.importorskip("fsspec", reason="pools on servers need fsspec")
    files = fsspec.filesystem("memory")
    files.put(str(toy.pool) + "/", "/pool", recursive=True)
    yield files
    files.rm("/pool", recursive=True)
