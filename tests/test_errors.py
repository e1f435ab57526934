from kfdeploy.errors import KfdeployError, RecipeError, TaskError, nearest


def test_an_error_carries_what_was_allowed_and_what_to_type():
    error = TaskError("task 'x' is unknown", allowed=("a", "b"), hint="name one")
    assert str(error) == "task 'x' is unknown (allowed: a, b)"
    assert (error.what, error.allowed, error.hint, error.exit_code) == (
        "task 'x' is unknown",
        ("a", "b"),
        "name one",
        1,
    )
    assert RecipeError("x").exit_code == 2
    assert isinstance(error, KfdeployError)


def test_nearest_finds_a_slip_and_says_nothing_of_a_stranger():
    assert nearest("epoch", ["epochs", "batch"]) == "did you mean 'epochs'?"
    assert nearest("dgo", ["cat", "dog"]) == "did you mean 'dog'?"
    assert nearest("Folder", ["folder"]) == "did you mean 'folder'?"
    assert nearest("zebra", ["cat", "dog"]) == ""
