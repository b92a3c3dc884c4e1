"""CLINC150: short questions to an assistant, 150 intents of ten domains."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from fewshot_sklearn.datasets._base import get_data_home

_HOME = "https://github.com/clinc/oos-eval/tree/master/data"
_COLUMNS = ["split", "text", "intent", "domain"]
_OUT_OF_SCOPE = "oos"

_DESCRIPTION = """CLINC150: questions to an assistant, by what their writer wants

{n_samples} short English texts of {n_classes} classes: 150 intents of ten domains (banking,
travel, small talk, ...), 150 texts of each, and "oos", 1,200 texts that are out of scope. Written
by crowd workers. `split` is the original one: "train", "val" and "test" with 100, 20 and 30 texts
of each intent, "oos_train", "oos_val" and "oos_test".

Licence: CC BY 3.0. To be cited as
S. Larson et al. (2019). An evaluation dataset for intent classification and out-of-scope
prediction. EMNLP-IJCNLP, 1311-1316.
"""


def fetch_clinc150(*, data_home: str | os.PathLike[str] | None = None) -> Bunch:
    """Load the CLINC150 intents, texts of 150 classes, from the folder of the data sets.

    Nothing is downloaded: put the files of the original, see Raises, or a table ``clinc150.csv.gz``
    with the columns split, text, intent and domain, into the folder ``intents`` of `data_home`.

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder of the data sets, see `get_data_home`.

    Returns
    -------
    clinc150 : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (23700,), dtype object
            The texts.
        target : ndarray of shape (23700,), int64
            The class of each text, an index into `target_names`.
        target_names : ndarray of shape (151,), dtype object
            The intents in alphabetical order; "oos" is out of scope.
        domain : ndarray of shape (151,), dtype object
            The domain of each class, 15 classes in each; "oos" for "oos".
        split : ndarray of shape (23700,), dtype object
            "train", "val", "test", "oos_train", "oos_val" or "oos_test".
        DESCR : str
            Description of the data.

    Raises
    ------
    OSError
        If neither the table nor both ``data_full.json`` and ``domains.json`` of
        https://github.com/clinc/oos-eval are there.
    ValueError
        If a file is damaged.

    References
    ----------
    .. [1] S. Larson et al. (2019). "An evaluation dataset for intent classification and
       out-of-scope prediction." EMNLP-IJCNLP.

    Examples
    --------
    >>> from fewshot_sklearn.datasets import fetch_clinc150
    >>> intents = fetch_clinc150()  # doctest: +SKIP
    >>> intents.data[0], intents.target_names[intents.target[0]]  # doctest: +SKIP
    ('what expression would i use to say i love you if i were an italian', 'translate')
    """
    table = _read(get_data_home(data_home) / "intents")
    names, target = np.unique(table["intent"].to_numpy(dtype=object), return_inverse=True)
    domain = table.groupby("intent")["domain"].first()
    return Bunch(
        data=table["text"].to_numpy(dtype=object),
        target=target.astype(np.int64),
        target_names=names,
        domain=domain.loc[names].to_numpy(dtype=object),
        split=table["split"].to_numpy(dtype=object),
        DESCR=_DESCRIPTION.format(n_samples=len(table), n_classes=len(names)),
    )


def _read(folder: Path) -> pd.DataFrame:
    """Return the table of texts from whichever files are there."""
    path, originals = (
        folder / "clinc150.csv.gz",
        [folder / "data_full.json", folder / "domains.json"],
    )
    try:
        if path.exists():
            table = pd.read_csv(path, usecols=_COLUMNS, dtype=str, keep_default_na=False)
            return _checked(table)
        if all(original.exists() for original in originals):
            path = originals[0]
            texts, intents = (json.loads(original.read_text("utf-8")) for original in originals)
            return _checked(_convert(texts, intents))
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); fetch it again.") from error
    raise OSError(
        f"CLINC150 is not in {folder}; download data_full.json and domains.json from {_HOME} into "
        "that folder, or set FEWSHOT_SKLEARN_DATA to a folder whose intents/ has them."
    )


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table, which must have rows."""
    if table.empty:
        raise ValueError("it has no texts")
    return table


def _convert(
    texts: dict[str, list[tuple[str, str]]], intents: dict[str, list[str]]
) -> pd.DataFrame:
    """Make the table of the original files: texts by split, and intents by domain."""
    domain_of = {intent: domain for domain, members in intents.items() for intent in members}
    domain_of[_OUT_OF_SCOPE] = _OUT_OF_SCOPE
    rows = [
        (split, text, intent, domain_of[intent])
        for split, members in texts.items()
        for text, intent in members
    ]
    return pd.DataFrame(rows, columns=_COLUMNS)
