"""What a few-shot method promises beyond scikit-learn's tags."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FewShotTags:
    """Promises that the battery of checks holds an estimator to.

    Parameters
    ----------
    order_dependent : bool, default=False
        The order of the support rows may change the predictions.
    permutes_classes : bool, default=True
        Renaming the classes permutes the probabilities and changes nothing else.
    transductive : bool, default=False
        A prediction may depend on the other query rows.
    spread : bool, default=False
        The outputs are means and, behind them, as many standard deviations.
    describes_classes : bool, default=False
        Support rows describe classes and may have other features than query rows.
    any_features : bool, default=False
        Tasks may have other features than the ones before; ``fit`` learns which its rows have.
    ignores_support : bool, default=False
        The support set changes no prediction among its classes.
    meta_trains : bool, default=True
        Meta-training has parameters to learn.
    """

    order_dependent: bool = False
    permutes_classes: bool = True
    transductive: bool = False
    spread: bool = False
    describes_classes: bool = False
    any_features: bool = False
    ignores_support: bool = False
    meta_trains: bool = True
