"""The networks."""

from refusion.nn.latent_unet import LatentUNet
from refusion.nn.nafnet import ConditionalNAFNet

__all__ = ["ConditionalNAFNet", "LatentUNet"]
