import numpy as np
import pytest
from PIL import Image

from kfdeploy.deploy.predict import predict
from kfdeploy.errors import DataError


def test_files_and_folders_get_classes_and_shares(toy, assembly, artifacts):
    folder = toy.data / "test" / "sea horse"
    for model in (assembly.path, artifacts[0].path, artifacts[1].path, toy.students / "small"):
        found = predict(model, [folder, folder / "000.png"], top=5)
        assert len(found) == 7
        assert found[0].path == found[-1].path == folder / "000.png"
        shares = [share for _, share in found[0].classes]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-6)
    assert {name for name, _ in predict(assembly.path, [folder])[0].classes} == {"sea horse", "cat", "dog"}


def test_any_kind_of_image_is_taken(assembly, tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "gray.png")
    Image.new("CMYK", (8, 8)).save(tmp_path / "cmyk.jpg")
    assert len(predict(assembly.path, [tmp_path])) == 2


def test_what_cannot_be_predicted_is_named(assembly, tmp_path):
    (gone,) = predict(assembly.path, [tmp_path / "none.png"])
    assert gone.error == f"there is no image at '{tmp_path / 'none.png'}'"
    with pytest.raises(DataError, match="has no images"):
        predict(assembly.path, [tmp_path])
    (tmp_path / "x.png").write_text("no")
    (alone,) = predict(assembly.path, [tmp_path / "x.png"])
    assert "x.png' does not decode" in alone.error
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    good, bad = predict(assembly.path, [tmp_path])
    assert good.classes
    assert not good.error
    assert bad.error == alone.error
    assert bad.to_json() == {"image": str(tmp_path / "x.png"), "error": alone.error}
    assert [*good.to_json()] == ["image", "classes"]
    assert [*good.to_json()["classes"][0]] == ["class", "probability"]
