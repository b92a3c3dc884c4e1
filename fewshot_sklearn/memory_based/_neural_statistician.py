"""The neural statistician."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._incremental import IncrementalClassifier
from ..base import TaskSpec
from ..nn import Learner, embedding_size
from ..nn.dense import dense_network
from ..nn.functional import all_rows, masked_labels, update_class_means
from ..nn.learner import State
from ..nn.normals import (
    Normal,
    NormalNetwork,
    bounded_log_variance,
    normal_kl,
    normal_log_density,
    pairwise_normal_kl,
    row_noise,
    sample,
)
from ..utils._sklearn import Integral, Interval, StrOptions

if TYPE_CHECKING:
    from ..tasks._batch import TaskBatch


class NormalRows(nn.Module):
    """Flat rows as normal variables whose means and variances a decoder gives."""

    n_numbers: int = 2

    def forward(self, x: Tensor, decoded: Tensor) -> Tensor:
        """Return the log-density [T, N] of rows [T, N, F] under what was decoded [T, N, 2 F]."""
        mean, log_variance = decoded.chunk(2, dim=-1)
        return normal_log_density(x, (mean, bounded_log_variance(log_variance)))


class BernoulliRows(nn.Module):
    """Flat rows of numbers from 0 to 1 as binary variables whose logits a decoder gives."""

    n_numbers: int = 1

    def forward(self, x: Tensor, decoded: Tensor) -> Tensor:
        """Return the log-probability [T, N] of rows [T, N, F] under logits [T, N, F]."""
        if bool(((x < 0) | (x > 1)).any()):
            raise ValueError(
                "likelihood='bernoulli' needs features between 0 and 1, got numbers from "
                f"{float(x.min()):g} to {float(x.max()):g}; scale the rows, or take "
                "likelihood='normal'."
            )
        return -F.binary_cross_entropy_with_logits(decoded, x, reduction="none").sum(dim=-1)


LIKELIHOODS: dict[str, type[NormalRows] | type[BernoulliRows]] = {
    "normal": NormalRows,
    "bernoulli": BernoulliRows,
}


class StatisticNetwork(nn.Module):
    r"""The approximate posterior of the context given a set of rows, :math:`q(c \mid D)`.

    Every encoded row passes a dense layer; the results are averaged over the set; and a network
    turns the mean, and the reciprocal of how many rows there were, into a normal distribution.

    Parameters
    ----------
    n_inputs, n_hidden, n_context : int
        Widths of an encoded row, of the hidden layers, and of c.
    """

    def __init__(self, n_inputs: int, n_hidden: int, n_context: int) -> None:
        super().__init__()
        self.before = nn.Linear(n_inputs, n_hidden)
        self.after = NormalNetwork(n_hidden + 1, n_hidden, n_context)

    def encode(self, h: Tensor) -> Tensor:
        """Return what is averaged of encoded rows [..., D]."""
        return self.before(h).relu()

    def forward(self, means: Tensor, counts: Tensor) -> Normal:
        """Return the context's distribution [..., E] from means [..., H] and counts [...]."""
        return self.after(means, counts.clamp_min(1).reciprocal().unsqueeze(-1))


class NeuralStatisticianLearner(Learner):
    r"""Model the rows of a class as a data set with a context, and compare contexts [1]_.

    .. math::
        \mathcal{L}_D = E_{q(c \mid D)} \Bigl[ \sum_{x \in D} E_{q(z \mid c, x)}
            \log p(x \mid z_{1:L}, c) - \sum_{x \in D} \sum_{l} D_l(x, c) \Bigr]
            - D\bigl(q(c \mid D) \,\|\, p(c)\bigr)

    with :math:`D_l` the divergence of :math:`q(z_l \mid z_{l+1}, c, x)` from
    :math:`p(z_l \mid z_{l+1}, c)`; at the top, :math:`l = L`, there is no :math:`z_{l+1}`. A
    query belongs to the class with the least
    :math:`D(q(c \mid D_k) \,\|\, q(c \mid x))`.

    Parameters
    ----------
    backbone : nn.Module
        The encoder that all networks share, rows [N, *] to embeddings [N, D].
    statistic : StatisticNetwork
        q(c | D).
    posteriors, priors : list of NormalNetwork
        q(z | c, x) and p(z | c) of every layer, the top one first; all but it get z of the layer
        above as well.
    decoder : nn.Module
        Every z and c side by side to the numbers that describe a row.
    likelihood : nn.Module
        The log-density of rows under these numbers.
    n_latent : int
        Width of each z.

    References
    ----------
    .. [1] Edwards, Storkey (2017). "Towards a neural statistician." ICLR.
    """

    def __init__(
        self,
        backbone: nn.Module,
        statistic: StatisticNetwork,
        posteriors: list[NormalNetwork],
        priors: list[NormalNetwork],
        decoder: nn.Module,
        likelihood: nn.Module,
        n_latent: int,
    ) -> None:
        super().__init__()
        self.backbone, self.statistic = backbone, statistic
        self.posteriors, self.priors = nn.ModuleList(posteriors), nn.ModuleList(priors)
        self.decoder, self.likelihood = decoder, likelihood
        self.n_latent = n_latent

    # ------------------------------------------------------------------ classification

    def adapt(self, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Return the mean statistics of each class and the distribution of its context."""
        nothing = {"means": y.new_zeros(len(y), 0, 1), "counts": y.new_zeros(len(y), 0)}
        return self.update(nothing, x, y, mask)

    def update(self, state: State, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        """Move the mean statistics on by more rows."""
        e = self.statistic.encode(self.embed(self.backbone, x))
        means, counts = update_class_means(state["means"], state["counts"], e, y, mask)
        mean, log_variance = self.statistic(means, counts)
        return {"means": means, "counts": counts, "mean": mean, "log_variance": log_variance}

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return minus the divergence of each class's context from that of each query alone."""
        e = self.statistic.encode(self.embed(self.backbone, x))
        of_query = self.statistic(e, torch.ones_like(e[..., 0]))
        of_class = (state["mean"], state["log_variance"])
        return -pairwise_normal_kl(of_class, of_query)

    # ------------------------------------------------------------------ the lower bound

    def meta_loss(self, batch: TaskBatch) -> Tensor:
        """Return minus the lower bound of all classes' rows, a row, averaged over tasks."""
        x, y, mask = all_rows(batch)
        y = masked_labels(y, mask)
        seeds = torch.randint(2**62, (3,)).tolist()
        width = len(self.priors) * self.n_latent + 1
        n_support, n_query = batch.x_support.shape[1], batch.x_query.shape[1]
        n_context = self.statistic.after.leave.out_features // 2
        of_rows = torch.cat(
            [row_noise(n_support, width, y, seeds[0]), row_noise(n_query, width, y, seeds[1])]
        )
        of_classes = row_noise(y.shape[-1], n_context + 1, y, seeds[2])
        return -self.lower_bound(x, y, of_rows, of_classes).mean()

    def lower_bound(self, x: Tensor, y: Tensor, row_noise: Tensor, class_noise: Tensor) -> Tensor:
        """Return an estimate of each task's lower bound, divided by its number of rows.

        Parameters
        ----------
        x : Tensor of shape (T, N, *)
        y : Tensor of shape (T, N, C)
            Which data set each row is of; zero on padding rows.
        row_noise : Tensor of shape (N, L * Z + 1)
            What z is drawn with, and the last column the subsets that q(c | D) sees.
        class_noise : Tensor of shape (C, E + 1)
            What c is drawn with, and the last column how large these subsets are.

        Returns
        -------
        bounds : Tensor of shape (T,)
        """
        real = y.any(dim=-1)
        x = torch.where(real.view(*real.shape, *[1] * (x.dim() - 2)), x, 0.0)
        h = self.embed(self.backbone, x)
        seen = y
        if self.training:
            seen = y * subsets(y, row_noise[:, -1], class_noise[:, -1])
        e = self.statistic.encode(h)
        nothing = e.new_zeros(len(e), 0, 1), e.new_zeros(len(e), 0)
        q_c = self.statistic(*update_class_means(*nothing, e, seen, None))
        c = y @ sample(q_c, class_noise[:, :-1])  # the context of every row's class
        zs: list[Tensor] = []
        of_rows = torch.zeros_like(c[..., 0])
        layers = zip(
            self.posteriors, self.priors, row_noise[:, :-1].split(self.n_latent, -1), strict=True
        )
        for posterior, prior, noise in layers:
            q_z, p_z = posterior(h, c, *zs[-1:]), prior(c, *zs[-1:])
            of_rows = of_rows - normal_kl(q_z, p_z)
            zs.append(sample(q_z, noise))
        decoded = self.decoder(torch.cat([*zs, c], dim=-1))
        of_rows = of_rows + self.likelihood(x.flatten(2), decoded)
        p_c = (torch.zeros_like(q_c[0]), torch.zeros_like(q_c[1]))
        of_sets = torch.where(y.any(dim=1), normal_kl(q_c, p_c), 0.0)
        total = torch.where(real, of_rows, 0.0).sum(dim=-1) - of_sets.sum(dim=-1)
        return total / real.sum(dim=-1)


def subsets(y: Tensor, row_noise: Tensor, class_noise: Tensor) -> Tensor:
    """Return which rows of each class are seen: any number of them, each as likely, at least one.

    Parameters
    ----------
    y : Tensor of shape (T, N, C)
    row_noise : Tensor of shape (N,)
    class_noise : Tensor of shape (C,)

    Returns
    -------
    seen : Tensor of shape (T, N, C)
        One or zero.
    """
    noise = torch.where(y > 0, row_noise.view(-1, 1), torch.inf)
    return (noise <= noise.amin(dim=1, keepdim=True).maximum(class_noise)).to(y)


@dataclass(kw_only=True, eq=False, repr=False)
class NeuralStatisticianClassifier(IncrementalClassifier):
    """Neural statistician: classes are data sets, told apart by inferred contexts [1]_.

    ``meta_fit`` learns, without looking at which class is which, a generative model of sets of
    rows: a context that all rows of a set share, latent variables of each row given the
    context, and the row given both. ``fit`` infers the distribution of each class's context;
    a query goes to the class whose context is least divergent from the one that the query
    suggests by itself. Both cost one pass through the backbone. Prefer it to see what
    comes of a generative model; for accuracy :class:`ProtoNetClassifier` is simpler and usually
    better. It takes any number of classes and rows.

    Parameters
    ----------
    likelihood : {"normal", "bernoulli"}, default="normal"
        What rows are, given the latent variables: normal with a mean and variance for each feature,
        or, for features between 0 and 1 such as pixels, binary.
    context_size : int, default=32
        Width of the context c.
    latent_size : int, default=16
        Width of each layer of latent variables z.
    n_latent_layers : int, default=1
        Layers of latent variables.
    n_hidden : int, default=64
        Hidden units of the networks of distributions and of the decoder.
    %(shared_parameters)s

    Attributes
    ----------
    %(classifier_attributes)s
    %(shared_attributes)s

    See Also
    --------
    NPRegressor : A latent variable for each task in regression.

    Notes
    -----
    The loss is minus the lower bound, a row. As in the paper the statistic network sees a random
    subset of each set in training, and is told how many rows there are: it gets the reciprocal
    of their number beside their mean.

    Departures from the paper: its networks are convolutional with batch normalisation, here the
    decoder is dense and the backbone is the one that is given; log-variances are
    bounded to between -10 and 10; the support and the query rows of a class are one data set in
    meta-training; and the tasks of a meta-batch share the noise of their draws.

    References
    ----------
    .. [1] Edwards, Storkey (2017). "Towards a neural statistician." ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from fewshot_sklearn import EpisodicTasks, NeuralStatisticianClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> tasks = EpisodicTasks(X / 16, y, n_way=5, n_shot=5, n_query=5, random_state=0)
    >>> clf = NeuralStatisticianClassifier(max_iter=200, random_state=0).meta_fit(tasks)
    >>> X_support, y_support, X_query, y_query = tasks[0]
    >>> clf.fit(X_support, y_support).score(X_query, y_query) > 0.4
    True
    """

    likelihood: str = "normal"
    context_size: int = 32
    latent_size: int = 16
    n_latent_layers: int = 1
    n_hidden: int = 64

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **IncrementalClassifier._parameter_constraints,
        "likelihood": [StrOptions(set(LIKELIHOODS))],
        "context_size": [Interval(Integral, 1, None, closed="left")],
        "latent_size": [Interval(Integral, 1, None, closed="left")],
        "n_latent_layers": [Interval(Integral, 1, None, closed="left")],
        "n_hidden": [Interval(Integral, 1, None, closed="left")],
    }

    def _make_learner(self, spec: TaskSpec) -> NeuralStatisticianLearner:
        backbone = self._build_backbone(spec.input_shape)
        n_embedding = embedding_size(backbone, spec.input_shape)
        n_features = int(torch.Size(spec.input_shape).numel())
        c, z, n_hidden = self.context_size, self.latent_size, self.n_hidden
        # What the layer above adds to the inputs.
        above = [0] + [z] * (self.n_latent_layers - 1)
        likelihood = LIKELIHOODS[self.likelihood]()
        n_numbers = likelihood.n_numbers * n_features
        decoder = dense_network(self.n_latent_layers * z + c, n_hidden, 2, n_numbers)
        return NeuralStatisticianLearner(
            backbone,
            StatisticNetwork(n_embedding, n_hidden, c),
            [NormalNetwork(n_embedding + c + n, n_hidden, z) for n in above],
            [NormalNetwork(c + n, n_hidden, z) for n in above],
            decoder,
            likelihood,
            z,
        )
