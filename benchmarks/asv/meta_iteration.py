"""Time and memory of a meta-iteration."""

from .common import WORKLOADS, meta_fitted


class MetaIteration:
    """Meta-iterations of MAML through ``partial_meta_fit``; the call has as many as stated."""

    params = (list(WORKLOADS),)
    param_names = ("workload",)
    timeout = 300

    def setup(self, workload):
        self.estimator, self.tasks, _ = meta_fitted(workload)

    def time_meta_iterations(self, workload):
        self.estimator.partial_meta_fit(self.tasks)

    def peakmem_meta_iterations(self, workload):
        self.estimator.partial_meta_fit(self.tasks)
