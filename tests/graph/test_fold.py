import numpy as np
import onnx
import pytest
import torch
from runtimes import session
from torch import nn

from kfdeploy.errors import ComposeError
from kfdeploy.graph.fold import check_template, initializers, set_initializers
from kfdeploy.training.writing import to_onnx as graphs


class Siblings(nn.Module):
    """Several Conv + BatchNorm on one tensor: the exporter once gave them one bias."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 5, 3, bias=i == 1), nn.BatchNorm2d(5)) for i in range(3)
        )
        self.kept = nn.BatchNorm2d(4)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.data.normal_()
                module.bias.data.normal_()

    def forward(self, x):
        x = self.stem(x)
        return torch.cat([branch(x) for branch in self.branches], 1).mean((2, 3)), self.kept(torch.relu(x))


def run(model, x, tmp_path):
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    return session(tmp_path / "m.onnx", 1).run(None, {"x": x.numpy()})


@pytest.fixture(scope="module")
def exported():
    module = Siblings().eval()
    return module, graphs.to_onnx(module, torch.zeros(2, 3, 8, 8), ["x"], ["y", "z"])


def test_sibling_branches_keep_their_own_biases(exported, tmp_path):
    module, graph = exported
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        expected = module(x)
    for a, b in zip(run(graph.model, x, tmp_path), expected, strict=True):
        assert np.abs(a - b.numpy()).max() < 1e-5


def test_normalisation_is_folded_where_a_convolution_is_before_it(exported):
    _, graph = exported
    operators = [node.op_type for node in graph.model.graph.node]
    assert operators.count("BatchNormalization") == 1  # the one behind a ReLU
    assert len(graph.folds) == 3
    names = set(initializers(graph.model))
    assert {"stem.weight", "stem.bias", "branches.0.0.weight", "branches.0.0.bias", "kept.weight"} <= names


def test_a_graph_is_clean(exported):
    _, graph = exported
    text = str(graph.model)
    assert "metadata_props" not in text
    assert all(line.endswith('""') for line in text.splitlines() if "doc_string" in line)
    assert "site-packages" not in text
    assert graph.model.ir_version == 8
    assert [(entry.domain, entry.version) for entry in graph.model.opset_import] == [("", 18)]
    assert not {"Identity", "Constant", "CastLike", "Expand"} & {node.op_type for node in graph.model.graph.node}
    assert graph.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_the_folding_rule_fits_any_weights(exported, tmp_path):
    _, graph = exported
    other = Siblings().eval()
    for parameter in other.parameters():
        parameter.data.normal_()
    state = {k: v.numpy() for k, v in other.state_dict().items() if not k.endswith("num_batches_tracked")}
    arrays = graph.fold(state)
    assert check_template(graph, [arrays]) == sorted(arrays)
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    set_initializers(model, initializers(model) | arrays)
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        expected = other(x)
    for a, b in zip(run(model, x, tmp_path), expected, strict=True):
        assert np.abs(a - b.numpy()).max() < 1e-4


def test_tasks_that_do_not_fit_the_template_are_refused(exported):
    _, graph = exported
    with pytest.raises(ComposeError, match=r"lost the weights \['extra'\]"):
        check_template(graph, [{"extra": np.zeros(1)}])
    with pytest.raises(ComposeError, match="two tasks have different weights"):
        check_template(graph, [{"stem.bias": np.zeros(4)}, {"stem.weight": np.zeros(1)}])
    with pytest.raises(ComposeError, match=r"'stem\.bias' has shape \(1,\), the template's has \(4,\)"):
        check_template(graph, [{"stem.bias": np.zeros(1)}])
