"""The judges of a data set as one module of frozen networks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import UserError, one_line
from ..graph import CausalGraph
from ..storage.plain import read_plain
from ..storage.tensors import open_arrays
from .autoencoders import AllClassAutoEncoder, ClassAutoEncoder
from .reader import Reader
from .vae import VAE

__all__ = ["Judges", "seeded"]

CHUNK = 256
WEIGHTS, ABOUT = "judges.safetensors", "judges.json"
MAX_JSON = 2**20
"""Bytes of the description of judges."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context manager that seeds torch's global generator and restores it on exit."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def _exact() -> Iterator[None]:
    """Context manager without gradients and with deterministic float32 arithmetic on a GPU."""
    with torch.no_grad(), torch.backends.cudnn.flags(True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


class Judges(nn.Module):
    """Readers, encoder and auto-encoders of a data set, in evaluation mode (satisfies `JudgePanel`).

    Images [B, C, H, W] in [0, 1] of any float type and batch size; answers are float32 on the images' device. No
    call draws random numbers or changes a network.

    Args:
        graph: the causal graph of the data set.
        width: channels of the reader's first convolution.
        features: length of the feature vector.
        latents: dimensions of the VAE's code.
    """

    def __init__(self, graph: CausalGraph, width: int = 32, features: int = 64, latents: int = 16) -> None:
        super().__init__()
        self.graph = graph
        self.sizes = {"width": width, "features": features, "latents": latents}
        with seeded(0):
            channels = graph.shape[0]
            self.reader = Reader(graph, width, features)
            self.vae = VAE(graph, latents)
            self.class_encoders = nn.ModuleList(
                nn.ModuleList(ClassAutoEncoder(channels) for _ in range(v.size if v.categorical else 0))
                for v in graph.variables
            )
            self.all_encoder = AllClassAutoEncoder(channels)
        self.to(memory_format=torch.channels_last).requires_grad_(False).eval()

    def read(self, x: Tensor) -> dict[str, Tensor]:
        """For each variable: class probabilities [B, K], or the value in raw units [B]."""
        values = self._run(lambda chunk: tuple(self.reader(chunk).values()), x)
        return dict(zip(self.graph.names, values, strict=True))

    def features(self, x: Tensor) -> Tensor:
        """The reader's penultimate layer [B, F], non-negative."""
        return self._run(lambda chunk: (self.reader.features(chunk),), x)[0]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and STANDARD DEVIATION [B, Z] (neither variance nor a logarithm) of the VAE's posterior."""
        mean, std = self._run(self.vae.encode, x)
        return mean, std

    def reconstruct(self, x: Tensor, variable: str, value: Tensor | None = None) -> Tensor:
        """x through the auto-encoder of each row's class ``value`` [B] of ``variable``, or of all classes.

        The result [B, C, H, W] is not clipped; rows whose class has no training image are NaN.

        Raises:
            ValueError: ``value`` is not a class of ``variable``, or not one value a row.
        """
        if value is None:
            return self._run(lambda chunk: (self.all_encoder(chunk),), x)[0]
        coders, value = self.coders(variable), value.to(x.device)
        classes = value.long()
        if value.shape != x.shape[:1] or bool(((value < 0) | (value >= len(coders)) | (classes != value)).any()):
            raise ValueError(f"{variable} has {len(coders)} classes with an auto-encoder each; asked for {value}")
        out = torch.empty_like(x, dtype=torch.float32)
        for k in classes.unique().tolist():
            rows = classes == k
            out[rows] = self._run(coders[k], x[rows], one=True)[0]
        return out

    def coders(self, variable: str) -> Sequence[ClassAutoEncoder]:
        """The auto-encoder of each class of ``variable``; none where it is continuous."""
        return cast(Sequence[ClassAutoEncoder], self.class_encoders[self.graph.index(variable)])

    def draw(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] through the VAE: the image of its posterior's mean."""
        return self._run(lambda chunk: (self.vae(chunk),), x)[0]

    def _run(self, judge: Callable[[Tensor], Any], x: Tensor, one: bool = False) -> tuple[Tensor, ...]:
        """The outputs of ``judge`` for x, computed in chunks, on the device of x."""
        self._check(x)
        device = self.reader.mean.device
        parts = []
        with _exact():
            for chunk in x.split(CHUNK):
                out = judge(chunk.to(device, torch.float32).contiguous(memory_format=torch.channels_last))
                parts.append((out,) if one else out)
        return tuple(torch.cat(column).to(x.device) for column in zip(*parts, strict=True))

    def _check(self, x: Tensor) -> None:
        """Raise unless all networks are in evaluation mode and x are images of this data set."""
        if wrong := [name or "the panel" for name, module in self.named_modules() if module.training]:
            raise RuntimeError(f"judges must be in evaluation mode; in training mode: {', '.join(wrong[:3])}")
        if x.shape[1:] != self.graph.shape or not x.is_floating_point():
            shape = list(self.graph.shape)
            raise ValueError(f"judges take float images [B, *{shape}] in [0, 1]; found {x.dtype} {list(x.shape)}")

    def state(self) -> dict[str, Tensor]:
        """All weights and buffers in one flat dict of contiguous CPU tensors, ready for safetensors."""
        return {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}

    def save(self, folder: Path) -> None:
        """Write judges.safetensors and judges.json into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state(), folder / WEIGHTS)
        about = {"sizes": self.sizes, "graph": _describe(self.graph)}
        (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path, graph: CausalGraph, device: torch.device | str = "cpu") -> Judges:
        """The judges that `save` wrote.

        Raises:
            UserError: the files are missing, damaged, or belong to another causal graph.
        """
        try:
            about = json.loads(read_plain(folder / ABOUT, MAX_JSON))
            if about["graph"] != _describe(graph):
                raise UserError(f"the judges in {folder} belong to another causal graph; remove the folder")
            _check_shapes(folder / WEIGHTS, graph, about["sizes"])
            judges = cls(graph, **about["sizes"])
            judges.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
            reason = one_line(error.strerror if isinstance(error, OSError) and error.strerror else error, 200)
            raise UserError(
                f"cannot read the judges in {folder} ({reason}); remove the folder to train again"
            ) from error
        return judges.to(device)


def _check_shapes(weights: Path, graph: CausalGraph, sizes: Mapping[str, int]) -> None:
    """Raise unless a file has the tensors of judges of these sizes, before memory is allocated for them.

    Raises:
        ValueError: a tensor is missing, superfluous or has another shape.
    """
    with torch.device("meta"):
        wanted = {name: tuple(t.shape) for name, t in Judges(graph, **sizes).state_dict().items()}
    found = {name: array.shape for name, array in open_arrays(weights).items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(f"{one_line(name, 60)} is {found.get(name)}, not {wanted.get(name)}")


def _describe(graph: CausalGraph) -> Mapping[str, Any]:
    """The parts of the graph that determine the networks' shapes, in JSON types."""
    return {"shape": list(graph.shape), "variables": [[v.name, v.kind, v.size] for v in graph.variables]}
