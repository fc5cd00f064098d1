"""Convolutional networks that read a noisy image and its noise level: a U-Net and its half, an encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfbench.nn import pad_to_multiple

__all__ = ["Attention", "AttentionPool", "Encoder", "ResBlock", "TimeEmbedding", "UNet", "unshuffle"]


def unshuffle(x: Tensor, patch: int) -> Tensor:
    """Images [B, C, H, W] with patch × patch pixels as channels [B, C * patch², ⌈H/patch⌉, ⌈W/patch⌉], zero padded."""
    return F.pixel_unshuffle(pad_to_multiple(x, patch), patch).contiguous(memory_format=torch.channels_last)


def normalise(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, channels), channels)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class TimeEmbedding(nn.Module):
    """Steps t [B] as vectors [B, 4 * width]: cosines and sines of periods up to 10,000 through two linear layers."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.register_buffer("frequencies", torch.exp(-math.log(1e4) * torch.arange(half) / half), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * half, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None].float() * self.frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))


class ResBlock(nn.Module):
    """Residual block h [B, cin, H, W], time embedding [B, embedding] -> [B, cout, H, W] (halved where ``down``).

    The embedding scales and shifts the second normalisation (Dhariwal & Nichol 2021, arXiv 2105.05233, section 3).
    """

    def __init__(self, cin: int, cout: int, embedding: int, dropout: float = 0.0, down: bool = False) -> None:
        super().__init__()
        self.down = down
        self.norm1, self.norm2 = normalise(cin), normalise(cout)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.conv2 = zeroed(nn.Conv2d(cout, cout, 3, padding=1))
        self.film = nn.Linear(embedding, 2 * cout)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if cin == cout else nn.Conv2d(cin, cout, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.down and min(x.shape[2:]) > 1:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        h = self.conv1(h)
        scale, shift = self.film(F.silu(emb))[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class Attention(nn.Module):
    """Self-attention over the positions of h [B, channels, H, W], added to h."""

    def __init__(self, channels: int, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.norm = normalise(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        # [B, heads, positions, channels per head], three times
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w).transpose(3, 4).unbind(dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(b, c, h, w)
        return x + self.out(mixed)


class AttentionPool(nn.Module):
    """What a mean token attends to among the positions of h [B, channels, H, W]: [B, out] (Radford et al. 2021)."""

    def __init__(self, channels: int, positions: int, out: int, head: int = 64) -> None:
        super().__init__()
        self.heads = max(1, channels // head)
        self.position = nn.Parameter(torch.randn(positions + 1, channels) / channels**0.5)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) + self.position
        b, n, c = tokens.shape
        q, k, v = self.qkv(tokens).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q[:, :, :1], k, v).reshape(b, c))


class UNet(nn.Module):
    """Noise ε [B, C, H, W] in noisy images x [B, C, H, W] at steps t [B].

    Each level has ``blocks`` residual blocks on the way down and one more on the way up; between levels a strided
    convolution halves the map and nearest-neighbour upsampling with a convolution doubles it. The image is read
    and written in patches of ``patch`` × ``patch`` pixels; sizes need not divide. With ``condition`` > 0 it also
    reads a vector c [B, condition], which two linear layers add to the embedding of the step.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        mult: Sequence[int],
        blocks: int = 1,
        patch: int = 1,
        attention: bool = False,
        dropout: float = 0.0,
        condition: int = 0,
    ) -> None:
        super().__init__()
        self.patch = patch
        emb, wide = 4 * width, [width * m for m in mult]
        self.time = TimeEmbedding(width)
        self.inlet = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        skips, c = [width], width
        for level, w in enumerate(wide):
            for _ in range(blocks):
                self.downs.append(ResBlock(c, w, emb, dropout))
                c = w
                skips.append(c)
            if level < len(wide) - 1:
                self.downs.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                skips.append(c)
        self.middle = nn.ModuleList([ResBlock(c, c, emb, dropout), ResBlock(c, c, emb, dropout)])
        self.attention = Attention(c) if attention else nn.Identity()
        for level, w in reversed(list(enumerate(wide))):
            for _ in range(blocks + 1):
                self.ups.append(ResBlock(c + skips.pop(), w, emb, dropout))
                c = w
            if level:
                self.ups.append(nn.Conv2d(c, c, 3, padding=1))
        self.norm = normalise(c)
        self.outlet = zeroed(nn.Conv2d(c, channels * patch**2, 3, padding=1))
        if condition:
            self.condition = nn.Sequential(nn.Linear(condition, emb), nn.SiLU(), nn.Linear(emb, emb))

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        emb = self.time(t) if c is None else self.time(t) + self.condition(c)
        h = self.inlet(unshuffle(x, self.patch))
        skips = [h]
        for down in self.downs:
            h = down(h, emb) if isinstance(down, ResBlock) else down(h)
            skips.append(h)
        h = self.middle[1](self.attention(self.middle[0](h, emb)), emb)
        for up in self.ups:
            if isinstance(up, ResBlock):
                h = up(torch.cat([h, skips.pop()], dim=1), emb)
            else:
                h = up(F.interpolate(h, size=skips[-1].shape[2:]))
        out = F.pixel_shuffle(self.outlet(F.silu(self.norm(h))), self.patch)
        return out[:, :, : x.shape[2], : x.shape[3]].contiguous()


class Encoder(nn.Module):
    """``out`` numbers [B, out] about images x [B, C, H, W] = [B, *shape] at steps t [B]: half a U-Net and a pool.

    ``pool`` is ``attention`` (with an attention block in the middle, as Diff-SCM's classifier has it) or
    ``flatten`` (two linear layers over all positions, cheaper).
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        out: int,
        width: int,
        mult: Sequence[int],
        patch: int = 1,
        pool: str = "flatten",
    ) -> None:
        super().__init__()
        self.patch = patch
        emb, wide = 4 * width, [width * m for m in mult]
        self.time = TimeEmbedding(width)
        self.inlet = nn.Conv2d(shape[0] * patch**2, width, 3, padding=1)
        self.blocks = nn.ModuleList()
        c, size = width, [-(-n // patch) for n in shape[1:]]
        for level, w in enumerate(wide):
            self.blocks.append(ResBlock(c, w, emb))
            c = w
            if level < len(wide) - 1:
                self.blocks.append(ResBlock(c, c, emb, down=True))
                size = [n // 2 for n in size] if min(size) > 1 else size
        self.middle = nn.ModuleList([ResBlock(c, c, emb)])
        self.attention: nn.Module = nn.Identity()
        self.norm = normalise(c)
        if pool == "attention":
            self.attention = Attention(c, max(1, c // 64))
            self.middle.append(ResBlock(c, c, emb))
            self.pool: nn.Module = AttentionPool(c, size[0] * size[1], out)
        else:
            self.pool = nn.Sequential(
                nn.Flatten(), nn.Linear(c * size[0] * size[1], 4 * width), nn.SiLU(), nn.Linear(4 * width, out)
            )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        emb = self.time(t)
        h = self.inlet(unshuffle(x, self.patch))
        for block in self.blocks:
            h = block(h, emb)
        h = self.attention(self.middle[0](h, emb))
        for block in self.middle[1:]:
            h = block(h, emb)
        return self.pool(F.silu(self.norm(h)))
