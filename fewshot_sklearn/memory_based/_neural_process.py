"""What the neural processes share: their rows, their sizes and their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from ..base import FewShotEstimator, ProbabilisticFewShotRegressor
from ..nn.dense import dense_network
from ..nn.neural_process import GaussianDecoder, JointNetwork
from ..utils._sklearn import Integral, Interval, Real


@dataclass(kw_only=True, eq=False, repr=False)
class NeuralProcess(FewShotEstimator):
    """An estimator whose encoder and decoder are multilayer perceptrons of one size."""

    n_hidden: int = 128
    n_layers: int = 3

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **FewShotEstimator._parameter_constraints,
        "n_hidden": [Interval(Integral, 1, None, closed="left")],
        "n_layers": [Interval(Integral, 1, None, closed="left")],
    }

    def _encoder_network(self, n_inputs: int) -> nn.Sequential:
        """Return a new network that encodes rows of that width."""
        return dense_network(n_inputs, self.n_hidden, self.n_layers, self.n_hidden)

    def _decoder_network(self, n_row: int, n_context: int, n_outputs: int) -> JointNetwork:
        """Return a new network that decodes rows and contexts of these widths."""
        sizes = {"n_hidden": self.n_hidden, "n_layers": self.n_layers}
        return JointNetwork(n_row, n_context, **sizes, n_outputs=n_outputs)


@dataclass(kw_only=True, eq=False, repr=False)
class NeuralProcessRegressor(ProbabilisticFewShotRegressor, NeuralProcess):
    """One that predicts a normal distribution."""

    min_std: float = 0.01
    min_support_share: float = 0.5

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **ProbabilisticFewShotRegressor._parameter_constraints,
        **NeuralProcess._parameter_constraints,
        "min_std": [Interval(Real, 0, 1, closed="neither")],
        "min_support_share": [Interval(Real, 0, 1, closed="both")],
    }

    def _decoder(self, n_row: int, n_context: int, n_outputs: int) -> GaussianDecoder:
        """Return a new decoder of rows and contexts of these widths."""
        network = self._decoder_network(n_row, n_context, 2 * n_outputs)
        return GaussianDecoder(network, self.min_std)
