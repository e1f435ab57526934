"""What each factor knows: linear probes on its features."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kfdeploy.arrays import Floats
from kfdeploy.errors import unloaded


def probe_matrix(
    here: Mapping[str, Floats], labels: Any, there: Mapping[str, Floats], test_labels: Any, owner: Any,
    fields: Sequence[int] = (),
) -> Floats:  # → (F, K)  # fmt: skip
    """Return how well a linear probe reads each task off each factor's features.

    `labels` (N,) are columns, of which `owner` says whose task each is; labels (N, fields) have a column for each
    field, and `fields` (K,) says which is each task's. A label of -1 is not known, and its image left out.

    A ridge classifier with balanced classes tells the task's classes and "other" apart, which a task that is its whole
    field does not have; it is fitted on `here` and scored on `there` by balanced accuracy, whose chance level is 1 over
    the number of these. NaN where there is nothing to tell apart, or nothing to score.
    """
    try:
        from sklearn.linear_model import RidgeClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        absent = "probes are fitted by scikit-learn, which is not installed"
        raise unloaded(error, "sklearn", absent, 'pip install "kfdeploy[train]"') from None
    out = np.full((len(here), int(owner.max()) + 1), np.nan)
    for task in range(out.shape[1]):
        of = [which if which.ndim == 1 else which[:, fields[task]] for which in (labels, test_labels)]
        known = [which >= 0 for which in of]
        fit_to, score_on = (np.where(owner[w[k]] == task, w[k], -1) for w, k in zip(of, known, strict=True))
        if len(np.unique(fit_to)) < 2 or not len(score_on):
            continue
        for i, name in enumerate(here):
            probe = make_pipeline(StandardScaler(), RidgeClassifier(class_weight="balanced"))
            probe.fit(here[name][known[0]], fit_to)
            right = probe.predict(there[name][known[1]]) == score_on
            out[i, task] = np.mean([right[score_on == value].mean() for value in np.unique(score_on)])
    return out
