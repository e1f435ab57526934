import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kfdeploy.data.splits import spread
from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.calibrate import calibrate
from kfdeploy.deploy.export import export
from kfdeploy.deploy.model import Model
from kfdeploy.errors import DataError, PoolError
from kfdeploy.graph.ranges import least_error
from kfdeploy.pool.pool import Pool


def test_the_range_with_the_least_error_drops_outliers_and_keeps_the_rest():
    counts = np.zeros(1024, np.int64)
    counts[:103] = 1000  # everything is below a tenth of the largest value, which comes once
    counts[-1] = 1
    low, high = least_error(counts, 0.0, 10.0)
    assert low == 0
    assert high < 10
    assert least_error(np.full(1024, 10), -1.0, 1.0) == (-1.0, 1.0)  # nothing to gain
    assert list(spread(10, 4)) == [0, 3, 6, 9]
    assert list(spread(3, 9)) == [0, 1, 2]


def test_a_pool_is_calibrated_by_module_and_again_gives_the_same_bytes(pool):
    before = json.loads((pool / "pool.json").read_text())
    assert before["calibration"].startswith("calibration/common-")
    assert all(entry["calibration"].startswith("calibration/task-") for entry in before["tasks"])
    assert calibrate(pool) == len(Pool.open(pool).evidence().rows)
    assert json.loads((pool / "pool.json").read_text()) == before
    Pool.open(pool).check()


def test_other_images_make_other_files_and_the_old_ones_go(pool):
    before = Pool.open(pool).manifest["calibration"]
    assert calibrate(pool, images=4) == 4
    opened = Pool.open(pool)
    assert opened.manifest["calibration"] != before
    assert not (pool / before).exists()
    assert len(list((pool / "calibration").iterdir())) == 5
    opened.check()


def test_a_tasks_ranges_do_not_depend_on_its_neighbours(toy, pool):
    from kfdeploy.graph.ranges import pool_ranges

    opened = Pool.open(pool)
    images = opened.evidence().images
    parts = [opened.part(task) for task in opened.tasks]
    whole = pool_ranges(*opened.graphs(), parts, images)
    alone = pool_ranges(*opened.graphs(), parts[2:3], images)
    assert alone[parts[2].name] == whole[parts[2].name]


def test_students_have_ranges_too(toy, tmp_path):
    folder = tmp_path / "small"
    shutil.copytree(toy.students / "small", folder)
    assert Model.open(folder).ranges()
    calibrate(folder, images=8)
    model = Model.open(folder)
    model.check()
    artifact = export(model, "onnx", precision="int8", out=tmp_path)
    assert artifact.manifest["executed"]["convolutions"] == {"int8": 2}


def test_without_ranges_int8_says_what_to_type(toy, pool, tmp_path):
    manifest = json.loads((pool / "pool.json").read_text())
    for entry in (manifest, *manifest["tasks"]):
        del entry["calibration"]
    (pool / "pool.json").write_text(json.dumps(manifest))
    model = assemble(pool, ["pets"], tmp_path / "a")
    with pytest.raises(PoolError, match="has no ranges of activations, which int8 needs") as caught:
        export(model, "onnx", precision="int8", out=tmp_path)
    assert "kfdeploy calibrate" in caught.value.hint
    with pytest.raises(PoolError, match="is an assembly: ranges belong to its pool"):
        calibrate(model.path)
    with pytest.raises(PoolError, match="is a part of a pool"):
        calibrate(pool / "train" / "teacher")


def test_images_that_are_not_there_are_refused(pool, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        calibrate(pool, data=tmp_path / "empty")
    few = tmp_path / "few"
    for name in ("cat", "dog", "sea horse", "élan", "uni"):
        (few / "train" / name).mkdir(parents=True)
    first = Pool.open(pool).recipe["data"]["root"]
    from pathlib import Path

    for name in ("cat", "dog", "sea horse", "élan", "uni"):
        image = sorted((Path(first) / "train" / name).iterdir())[0]
        shutil.copyfile(image, few / "train" / name / image.name)
    with pytest.raises(DataError, match="lacks .* validation images on record"):
        calibrate(pool, data=few)


@pytest.mark.parametrize("of", ["pool", "student"])
def test_a_file_of_the_user_s_in_the_folder_stays_and_a_link_is_refused(of, pool, toy, tmp_path):
    root = pool if of == "pool" else Path(shutil.copytree(toy.students / "small", tmp_path / "small"))
    folder = root / "calibration"
    ours = {path.name for path in folder.iterdir()}
    (folder / "README.txt").write_text("mine")
    (folder / "sub").mkdir()
    (folder / "task-mine.json").write_text("mine")
    calibrate(root, images=7)
    left = {path.name for path in folder.iterdir()}
    assert {"README.txt", "sub", "task-mine.json"} <= left
    assert not ours & left  # other images, other ranges: what the manifest named before is gone
    (tmp_path / "docs").mkdir()
    for path in list(folder.iterdir()):
        path.rename(tmp_path / "docs" / path.name)
    folder.rmdir()
    folder.symlink_to(tmp_path / "docs")
    before = sorted((tmp_path / "docs").iterdir())
    with pytest.raises(PoolError, match="calibration' is a symbolic link"):
        calibrate(root)
    assert sorted((tmp_path / "docs").iterdir()) == before
