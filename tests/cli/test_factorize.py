import shutil

from kfdeploy.pool.pool import Pool


def test_a_task_is_added_and_assembled(run, toy, here):
    shutil.copytree(toy.pool, "pool")
    words = ("--data", toy.data, "--set", "train.epochs=2")
    code, out, err = run("factorize", "--add-task", "junk", *words)
    assert code == 0, err
    assert "task:    junk, 1 classes, learned from labels in" in out
    assert "validation images, 5 tasks" in out
    assert "every file of the other tasks is what it was" in out
    assert "next:  kfdeploy assemble --tasks pets junk" in out
    code, out, err = run("assemble", "--tasks", "pets", "junk", "--open-set", "--false-accept", "0.2")
    assert code == 0, err
    assert "open set:   lets in" in out
    code, out, err = run("pool", "show")
    assert "added:     junk" in out
    code, out, err = run("factorize", "--add-task", "junk", *words)
    assert (code, "task 'junk' is already in pool 'pool'" in err) == (1, True)
    code, out, err = run("pool", "remove", "--tasks", "junk")
    assert code == 0, err
    assert [task.name for task in Pool.open("pool").tasks] == toy.tasks
    assert sorted(path.name for path in here.iterdir()) == ["assembly", "pool"]


def test_options_that_do_not_go_together(run, toy, here):
    for words, message in (
        (("--data", "x"), "--data has no meaning without --add-task"),
        (("--classes", "a", "b"), "--classes has no meaning without --add-task"),
        (("--add-task", "fish"), "--add-task needs --data"),
        (("digits", "--add-task", "fish", "--data", "x"), "--add-task takes the pool's recipe, not 'digits'"),
        (("--add-task", "fish", "--data", "x", "--pool", "s3://b/p"), "is on a server, and adding a task writes"),
    ):
        code, _, err = run("factorize", *words)
        assert (code, message in err) == (2, True), err
    code, _, err = run("assemble", "--tasks", "pets", "--pool", toy.pool, "--false-accept", "0.2")
    assert (code, "--false-accept has no meaning without --open-set" in err) == (2, True)
    assert not list(here.iterdir())
