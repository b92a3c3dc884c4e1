"""Methods that compare a query with the support set in a learned space."""

from ._protonet import ProtoNetClassifier

__all__ = ["ProtoNetClassifier"]
