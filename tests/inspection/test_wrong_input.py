"""What cannot be drawn is refused with a sentence, before anything is computed."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from fewshot_sklearn.inspection import EpisodeDisplay, ShotCurveDisplay

TASK = (np.eye(4), np.array([0, 1, 0, 1]), np.eye(4), np.array([0, 1, 0, 1]))


@pytest.mark.parametrize("scoring", [["accuracy"], {"a": "accuracy"}])
def test_a_curve_is_of_one_scorer(scoring):
    with pytest.raises(ValueError, match="scoring must be None, the name of one scorer"):
        ShotCurveDisplay.from_estimator(KNeighborsClassifier(1), [TASK] * 2, scoring=scoring)


def test_predictions_belong_to_the_query_rows():
    with pytest.raises(ValueError, match="one class for each of the 4 query rows, got shape"):
        EpisodeDisplay(TASK, y_pred=[1])


def test_an_image_shape_is_a_shape():
    with pytest.raises(ValueError, match=r"such as \(28, 28\), got 2"):
        EpisodeDisplay.from_task(TASK, image_shape=2)
