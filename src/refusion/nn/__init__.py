"""The networks."""

from refusion.nn.latent_unet import LatentUNet
from refusion.nn.nafnet import ConditionalNAFNet
from refusion.nn.unet import ConditionalUNet

__all__ = ["ConditionalNAFNet", "ConditionalUNet", "LatentUNet"]
