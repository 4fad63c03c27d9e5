"""The networks."""

from refusion.nn.nafnet import ConditionalNAFNet

__all__ = ["ConditionalNAFNet"]
