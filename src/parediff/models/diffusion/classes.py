"""The modules of diffusers that methods look for, by their classes."""

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel

__all__ = ["Attention", "BasicTransformerBlock", "ResnetBlock2D", "Transformer2DModel"]
