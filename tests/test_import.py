"""The package's top level: quick to import, every name there, no other name."""

import json
import subprocess
import sys

import pytest

import fewshot_sklearn

PROBE = """
import json, sys, time
start = time.perf_counter()
import fewshot_sklearn
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def probe():
    """Import the package in a fresh interpreter: the seconds it took and what it loaded."""
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def test_import_is_quick_and_loads_no_heavy_package():
    runs = [probe() for _ in range(3)]
    assert min(seconds for seconds, _ in runs) < 0.3
    assert not {"torch", "sklearn", "numpy", "scipy", "pandas"} & set(runs[0][1])


@pytest.mark.parametrize("name", fewshot_sklearn.__all__)
def test_every_public_name_resolves_and_is_listed(name):
    assert getattr(fewshot_sklearn, name) is not None
    assert name in dir(fewshot_sklearn)


def test_a_star_import_gives_every_public_name():
    namespace = {}
    exec("from fewshot_sklearn import *", namespace)
    assert set(fewshot_sklearn.__all__) <= set(namespace)


def test_an_unknown_name_is_refused_as_by_any_module():
    with pytest.raises(AttributeError, match="'fewshot_sklearn' has no attribute 'ProtoNet'"):
        fewshot_sklearn.ProtoNet  # noqa: B018
