"""Networks in Flax Linen: DenseNet with one of four decoders, MineC2FNet's attentive injection, and Prithvi."""

from minec2f_jax.models.cbam import CBAM
from minec2f_jax.models.deeplabv3plus import ASPP, DeepLabV3Plus
from minec2f_jax.models.densenet import DenseNet
from minec2f_jax.models.factory import count_parameters, make_minec2fnet, make_segmenter
from minec2f_jax.models.fpn import FPN, Head
from minec2f_jax.models.gated_fusion import GatedFusion
from minec2f_jax.models.gs_aufpn import GSAUFPN, FCNHead, GSAUFPNHead
from minec2f_jax.models.minec2fnet import AttentiveInjection, MineC2FNet
from minec2f_jax.models.pointwise_head import PointwiseHead
from minec2f_jax.models.prithvi import PixelHead, PrithviDecoder
from minec2f_jax.models.projector import Projector, Reconstruction
from minec2f_jax.models.refinement import Refinement
from minec2f_jax.models.segmenter import Segmenter
from minec2f_jax.models.unet import UNet, UNetHead
from minec2f_jax.models.vit import ViTEncoder

__all__ = [
  "ASPP",
  "CBAM",
  "FPN",
  "GSAUFPN",
  "AttentiveInjection",
  "DeepLabV3Plus",
  "DenseNet",
  "FCNHead",
  "GSAUFPNHead",
  "GatedFusion",
  "Head",
  "MineC2FNet",
  "PixelHead",
  "PointwiseHead",
  "PrithviDecoder",
  "Projector",
  "Reconstruction",
  "Refinement",
  "Segmenter",
  "UNet",
  "UNetHead",
  "ViTEncoder",
  "count_parameters",
  "make_minec2fnet",
  "make_segmenter",
]
