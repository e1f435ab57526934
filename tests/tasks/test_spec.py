import json

from kfdeploy.tasks.spec import ImageSpec, TaskSpec, class_names


def test_specs_survive_json():
    image = ImageSpec((8, 9), 3, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0), resize=10, interpolation="bicubic")
    assert ImageSpec.from_json(json.loads(json.dumps(image.to_json()))) == image
    assert image.shape == (8, 9, 3)
    task = TaskSpec("a b", ("x", "y"))
    assert TaskSpec.from_json(json.loads(json.dumps(task.to_json()))) == task
    assert class_names((task, TaskSpec("c", ("z",)))) == ("x", "y", "z")
