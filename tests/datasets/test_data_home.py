"""Where data is looked for."""

from pathlib import Path

from fewshot_sklearn.datasets import get_data_home


def test_the_argument_wins_over_the_environment_over_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_SKLEARN_DATA", str(tmp_path))
    assert get_data_home(tmp_path / "mine") == tmp_path / "mine"
    assert get_data_home() == tmp_path
    monkeypatch.setenv("FEWSHOT_SKLEARN_DATA", "")
    assert get_data_home() == Path.home() / "fewshot_sklearn_data"
    monkeypatch.delenv("FEWSHOT_SKLEARN_DATA")
    assert get_data_home() == Path.home() / "fewshot_sklearn_data"


def test_a_tilde_is_the_home_and_nothing_is_created(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert get_data_home("~/data") == tmp_path / "data"
    assert not list(tmp_path.iterdir())
