"""Sphinx configuration: `make docs` builds with it, and a warning is an error."""

import re
import warnings
from pathlib import Path

import fewshot_sklearn

HERE = Path(__file__).parent

project = "fewshot-sklearn"
author = "The fewshot-sklearn developers"
copyright = "2026, the fewshot-sklearn developers"
release = fewshot_sklearn.__version__
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = [
    "_build",
    "_templates",
    "auto_examples/**.ipynb",
    "auto_examples/**.py",
    "generated/unreleased.rst",
    "sg_execution_times.rst",
]
default_role = "code"

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_[^/]*\.py$",
    "ignore_pattern": r"/(?!plot_)[^/]*\.py$",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "within_subsection_order": "FileNameSortKey",
    "plot_gallery": "True",
}
warnings.filterwarnings("ignore", message=".*non-interactive, and thus cannot be shown.*")

html_theme = "pydata_sphinx_theme"
html_title = "fewshot-sklearn"
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"installation": [], "glossary": [], "changelog": [], "contributing": []}
html_show_sourcelink = False

KINDS = {
    "feature": "New",
    "enh": "Better",
    "fix": "Fixed",
    "doc": "Documentation",
}


def write_unreleased(app):
    """Gather the fragments of ``changes/`` into the page that the changelog includes."""
    lines = []
    for kind, title in KINDS.items():
        fragments = sorted((HERE.parent / "changes").glob(f"*.{kind}.md"))
        if fragments:
            lines += [title, "~" * len(title), ""]
        for fragment in fragments:
            text = " ".join(fragment.read_text(encoding="utf-8").split())
            lines += ["- " + re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", text), ""]
    target = HERE / "generated" / "unreleased.rst"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def mend_docstring(app, what, name, obj, options, lines):
    """Keep signs from acting as markup, and scikit-learn's references out of this documentation."""
    for i, line in enumerate(lines):
        line = re.sub(r"(?<=, )\*(?=[\])])", r"\\*", line)  # shape (T, S, *)
        line = re.sub(r"(?<=shape \()(\w+)_(?=,)", r"\1\\_", line)  # shape (n_features_in_,)
        if str(getattr(obj, "__module__", "")).startswith("sklearn."):
            line = re.sub(r":\w+:`~?([^<`]+?)(?: <[^>]+>)?`", r"``\1``", line)
        lines[i] = line


def setup(app):
    """Register the changelog's builder and the docstrings' mender."""
    app.connect("builder-inited", write_unreleased)
    app.connect("autodoc-process-docstring", mend_docstring, priority=1000)
