"""The whole line on untrained networks and two images: nothing is left behind, and what cannot work is refused."""

import pytest

from kfdeploy.errors import ComposeError, OutputError
from kfdeploy.training.experiment import Experiment
from kfdeploy.training.learners.factor import FactorLearner
from kfdeploy.training.nets.classifier import Classifier
from kfdeploy.training.nets.factor import FactorNet
from kfdeploy.training.writing.rehearsal import rehearse_classifier, rehearse_pool


@pytest.fixture
def experiment(toy):
    return Experiment(toy.recipe)


def learner(experiment):
    recipe = experiment.recipe
    net = FactorNet(recipe.ckn, recipe.tsn, experiment.image, experiment.tasks)
    return FactorLearner(net, (16, 16), recipe.objective, 0)


def test_no_image_is_read_and_nothing_is_left(experiment, tmp_path):
    rehearse_pool(experiment, learner(experiment), tmp_path / "deep" / "pool")
    net = Classifier(experiment.recipe.students[0].net, experiment.image, len(experiment.classes))
    rehearse_classifier(experiment, net, "small", tmp_path / "small")
    assert not {"train", "validation", "record"} & set(experiment.__dict__)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_or_written_is_refused(experiment, tmp_path, monkeypatch):
    import kfdeploy.training.writing.pool as writing

    with pytest.raises(OutputError, match="cannot be written: File name too long"):
        rehearse_pool(experiment, learner(experiment), tmp_path / ("x" * 300))

    def refuse(*_):
        raise ComposeError("torch cannot export the network")

    monkeypatch.setattr(writing, "graphs_of", refuse)
    with pytest.raises(ComposeError, match="torch cannot export"):
        rehearse_pool(experiment, learner(experiment), tmp_path / "pool")
    assert not list(tmp_path.iterdir())
