"""Time of one small task."""

import torch
from sklearn.datasets import make_blobs

from fewshot_sklearn import MLP, EpisodicTasks, MAMLClassifier, ProtoNetClassifier

METHODS = {
    "protonet": ProtoNetClassifier(max_iter=5, random_state=0),
    "maml": MAMLClassifier(n_inner_steps=5, max_iter=5, random_state=0),
}


class Latency:
    """``fit`` on 10 rows of 64 features and ``predict`` on 75, on one thread."""

    params = (list(METHODS),)
    param_names = ("method",)
    timeout = 300

    def setup(self, method):
        torch.set_num_threads(1)
        X, y = make_blobs(2000, n_features=64, centers=40, cluster_std=8.0, random_state=0)
        tasks = EpisodicTasks(X, y, n_way=5, n_shot=2, n_query=15, random_state=0)
        backbone = MLP(hidden_layer_sizes=(256, 128), norm=None)
        self.estimator = METHODS[method].set_params(backbone=backbone).meta_fit(tasks)
        self.task = tasks[0]
        self.estimator.fit(self.task.X_support, self.task.y_support)

    def time_fit(self, method):
        self.estimator.fit(self.task.X_support, self.task.y_support)

    def time_predict(self, method):
        self.estimator.predict(self.task.X_query)

    def time_fit_and_predict(self, method):
        self.estimator.fit(self.task.X_support, self.task.y_support).predict(self.task.X_query)
