"""The laws that every few-shot estimator is held to; ``estimator_checks`` is their public door."""
