"""What asv tracks from commit to commit; small enough for two cores.

    pip install asv
    asv run --quick --python=same      # this checkout, in this environment
    asv run v1..v2; asv compare v1 v2  # commits, each in an environment of its own

``inner_loop.py`` and the other scripts beside compare with other programs; this compares with the
past. A meta-iteration is one of ``partial_meta_fit``, everything included.
"""
