"""The networks that a checkpoint may hold; all have the methods of :class:`models.proxyformer.ProxyFormer`."""

from __future__ import annotations

from models.proxyformer import ProxyFormer, VideoFeatures
from models.referformer import ClipFeatures, ReferFormer

Network = ProxyFormer | ReferFormer
Features = VideoFeatures | ClipFeatures
