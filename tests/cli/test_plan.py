import shutil

from kfdeploy.measuring.costs import Costs, write_costs
from kfdeploy.pool.pool import Pool


def test_a_design_is_chosen_for_named_tasks(run, toy, here):
    shutil.copytree(toy.students, "students")
    digest = Pool.open(toy.pool).sha256
    write_costs(here / "costs.json", Costs(digest, "cpu", "onnx", "fp32", 1, 0.5, 0.1, 0.02, {}, {"small": 2.0}, False))
    words = ("plan", "--pool", toy.pool, "--tasks", "pets", "élan")
    code, out, err = run(*words, "--budget-ms", "1")
    assert code == 0, err
    assert "choose:     the assembly, about 0.700 ms" in out
    assert "confusion of the assembly, each row a class:" in out
    assert "confusion of small, masked to them, each row a class:" in out
    assert "strangers:  --open-set tells them with AUROC" in out
    code, out, err = run(*words, "--budget-ms", "0.1")
    assert (code, "no design meets 0.1 ms for these tasks; the nearest is the assembly" in err) == (1, True)
    code, out, err = run(*words, "--target", "openvino")
    assert (code, "holds the costs of onnx, and --target is 'openvino'" in err) == (2, True)
    code, out, err = run(*words, "--budget-ms", "1", "--size", "2")
    assert (code, "--size chooses tasks, and --tasks names them" in err) == (2, True)
    code, out, err = run(*words, "--budget-ms", "1", "--target", "onnx")
    assert code == 0, err


def test_an_assembly_is_no_student(run, toy, assembly):
    code, out, err = run("plan", "--pool", toy.pool, "--tasks", "pets", "élan", "--student", assembly.path)
    assert (code, out) == (2, "")
    assert "is an assembly: it has no validation logits of its own" in err
