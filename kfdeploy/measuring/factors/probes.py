"""What each factor knows: linear probes on its features."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kfdeploy.arrays import Floats
from kfdeploy.errors import unloaded


def probe_matrix(
    here: Mapping[str, Floats], labels: Any, there: Mapping[str, Floats], test_labels: Any, owner: Any
) -> Floats:  # → (F, K)
    """Return how well a linear probe reads each task off each factor's features.

    A ridge classifier with balanced classes tells the task's classes and "other" apart; it is fitted on `here` and
    scored on `there` by balanced accuracy, whose chance level is 1 / (classes + 1).
    """
    try:
        from sklearn.linear_model import RidgeClassifier
        from sklearn.metrics import balanced_accuracy_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        absent = "probes are fitted by scikit-learn, which is not installed"
        raise unloaded(error, "sklearn", absent, 'pip install "kfdeploy[train]"') from None
    tasks = int(owner.max()) + 1
    out = np.zeros((len(here), tasks))
    for i, name in enumerate(here):
        for task in range(tasks):
            fit_to, score_on = (np.where(owner[which] == task, which, -1) for which in (labels, test_labels))
            probe = make_pipeline(StandardScaler(), RidgeClassifier(class_weight="balanced"))
            probe.fit(here[name], fit_to)
            out[i, task] = balanced_accuracy_score(score_on, probe.predict(there[name]))
    return out
