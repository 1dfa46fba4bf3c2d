"""The trunk of the model without letters: from features of pairs to the pair representation.

Contacts come in patterns of a few residues (ladders of strands, every third or fourth residue of helices),
which residual convolutions see at once (as in Wang et al., PLoS Comput. Biol. 13:e1005324, 2017); triangle
updates then weigh pairs that share a residue (:class:`foldase_models.layers.evoformer.PairStack`).

Shapes: B proteins, N residues, F features, c channels.
"""

from __future__ import annotations

import torch
from torch import nn

from foldase_models.folding.contacts.config import PAIR_FEATURES, ContactModelConfig
from foldase_models.layers.evoformer import PairStack
from foldase_models.layers.primitives import Linear

DILATIONS = (1, 2, 4)
"""Of successive convolutions, in turn."""


class PairEmbedder(nn.Module):
    """Features and separations of pairs as channels. Keys: ``linear_relpos``, ``linear_1``, ``linear_2``."""

    def __init__(self, config: ContactModelConfig) -> None:
        super().__init__()
        self.max_offset = config.max_offset
        self.linear_relpos = nn.Embedding(2 * config.max_offset + 1, config.width)
        self.linear_1 = Linear(PAIR_FEATURES, config.width, init="relu")
        self.linear_2 = Linear(config.width, config.width)

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """``[B, N, N, c]`` from float32 ``[B, N, N, F]``."""
        index = torch.arange(pairs.shape[-2], device=pairs.device)
        offset = (index[:, None] - index[None]).clamp(-self.max_offset, self.max_offset) + self.max_offset
        hidden: torch.Tensor = self.linear_2(torch.relu(self.linear_1(pairs)))
        near: torch.Tensor = self.linear_relpos(offset)
        return hidden + near


class PairConvolution(nn.Module):
    """Two 3 x 3 convolutions with a residual. Keys: ``layer_norm``, ``conv_1``, ``conv_2``."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(width)
        self.conv_1 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv_2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv_2.weight)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """New ``z`` ``[B, N, N, c]``."""
        hidden = torch.relu(self.conv_1(self.layer_norm(z).permute(0, 3, 1, 2)))
        update: torch.Tensor = self.conv_2(hidden)
        return z + update.permute(0, 2, 3, 1)


class PairTrunk(nn.Module):
    """``config.blocks`` times ``config.convolutions`` convolutions and one pair stack."""

    def __init__(self, config: ContactModelConfig) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            PairConvolution(config.width, DILATIONS[k % len(DILATIONS)])
            for _ in range(config.blocks)
            for k in range(config.convolutions)
        )
        self.blocks = nn.ModuleList(PairStack(config.evoformer) for _ in range(config.blocks))
        self.per_block = config.convolutions

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """New ``z`` ``[B, N, N, c]``."""
        for number, block in enumerate(self.blocks):
            for k in range(self.per_block):
                z = self.convolutions[number * self.per_block + k](z)
            z = block(z)
        return z
