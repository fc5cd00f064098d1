"""Abduction, action and prediction of one counterfactual, without a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..contract import Control, Dataset, Method, Noise
from ..errors import InvalidAnswer, UserError, did_you_mean
from ..evaluation.answers import Caller, MethodMechanism, Part
from ..evaluation.plan import Act, check_parents
from ..graph import CausalGraph, Variable
from ..rng import derive
from ..runs.environment import isolated, standard
from ..storage.scratch import new_scratch_folder
from .load import learned_action_of
from .notebook import show_tuples

if TYPE_CHECKING:
    from .result import Picture

__all__ = ["Answer", "counterfactual"]


BATCH, SHOWN = 64, 16


@dataclass(frozen=True, eq=False, repr=False)
class Answer:
    """A method's counterfactuals, and the steps that led to them.

    ``image`` [B, C, H, W] in [0, 1] under the counterfactual parents ``cf_pa`` [B, D], from the noise ``u`` that was
    abducted from ``x`` [B, C, H, W] with parents ``pa`` [B, D]; ``do`` holds the values [B] of each intervention.
    """

    image: Tensor
    cf_pa: Tensor
    u: Noise
    x: Tensor
    pa: Tensor
    do: Mapping[str, Tensor]
    graph: CausalGraph

    def __post_init__(self) -> None:
        show_tuples()

    def show(self) -> Picture:
        """The first factuals, each above its counterfactual."""
        return self._picture

    @cached_property
    def _picture(self) -> Picture:
        from ..report.sheet import contact_sheet
        from .result import Picture

        folder = new_scratch_folder()
        n = min(len(self.x), SHOWN)
        rows = {"factual": self.x[:n], "counterfactual": self.image[:n]}
        labels = [self._label(i) for i in range(n)]
        title = "" if len(self.do) == 1 else "; ".join(self._interventions(0)) if n == 1 else ""
        return Picture(contact_sheet(Path(folder.name) / "answer.png", labels, rows, title=title), folder)

    def _label(self, i: int) -> str:
        return f"do({self._interventions(i)[0]})" if len(self.do) == 1 else str(i)

    def _interventions(self, i: int) -> list[str]:
        return [f"{v}={float(value[i]):.3g}" for v, value in self.do.items()]

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image.shape[1:]))
        return f"Answer(do({', '.join(self.do)}) of {len(self.image)} images {shape})"

    def _repr_png_(self) -> bytes:
        return self.show()._repr_png_()


@standard()
def counterfactual(
    method: Method,
    x: Any,
    pa: Any,
    do: Mapping[str, Any],
    *,
    dataset: Dataset | str | None = None,
    seed: int = 0,
    action: Act | None = None,
    index: Any = None,
) -> Answer:
    """Images as they would have been under do(variable = value): abduction, action and prediction.

    The same seed gives the same answer, and each image has its own random streams, independent of the other images.

    Args:
        method: fitted, as `load_method` returns it.
        x: factuals [B, C, H, W] or one [C, H, W], floats in [0, 1] or uint8.
        pa: their parents [B, D] or [D] in raw units, or a mapping of variables to values.
        do: a number for each variable that is set, or one an image [B].
        dataset: a name or an instance, whose SCM gives the parents' response; where it knows none, they respond by
            the mechanisms that the run of ``method`` fitted. Without one and without an action, no variable may
            respond: each effect of a variable that is set must be set itself.
        seed: of the noise that a method draws.
        action: the parents' response in place of a data set's: ``action(pa, do, rng)``, as `load_action` returns it.
        index: numbers of the images in their data set, which seed their streams as in a run; 0, 1, ... by default.

    Raises:
        UserError: an argument does not fit the graph, or the parents' response is unknown.
    """
    _check_method(method)
    graph = method.graph
    images = _images(x, graph)
    parents = _parents(pa, graph, len(images))
    values = {v: _values(v, given, graph, len(images)) for v, given in do.items()}
    cf_pa = _act(method, parents, values, dataset, action, seed)
    numbers = torch.arange(len(images)) if index is None else torch.as_tensor(index).reshape(-1)
    if len(numbers) != len(images):
        raise UserError(f"index: {len(numbers)} numbers for {len(images)} images; give one an image")
    image, u = _answer(method, images, parents, cf_pa, f"do/{'+'.join(values)}" if values else "null", seed, numbers)
    return Answer(image, cf_pa, u, images, parents, values, graph)


def _answer(
    method: Method, x: Tensor, pa: Tensor, cf_pa: Tensor, step: str, seed: int, index: Tensor
) -> tuple[Tensor, Noise]:
    device = next((t.device for t in (*method.parameters(), *method.buffers())), torch.device("cpu"))
    caller = Caller(MethodMechanism(method), index, tuple(x.shape[1:]), seed, device, BATCH)
    rows, training = torch.arange(len(x)), method.training
    try:
        method.eval()
        with isolated(derive("images", seed), torch.get_num_threads()):
            u = caller.abduct("factual", rows, x, pa)
            (image,) = caller.predict(u, [Part(step, rows, rows, cf_pa)])
    except InvalidAnswer as error:
        raise UserError(f"{type(method).__name__}: {error}") from error
    finally:
        method.train(training)
    for what, n in caller.answers.wrong.items():
        warnings.warn(f"{type(method).__name__}: {n} of {len(x)} answers {what}; they are NaN", stacklevel=3)
    return image, u


def _check_method(method: Any) -> None:
    if isinstance(method, Control):
        raise UserError(
            f"{type(method).__name__} is a control: it looks answers up in the data and has no noise to abduct; "
            "give a Method"
        )
    if not isinstance(method, Method):
        raise UserError(f"{method!r} is no Method; give a fitted one, as cfbench.load_method(run, name) does")


def _images(x: Any, graph: CausalGraph) -> Tensor:
    """Factuals as float32 [B, C, H, W] in [0, 1]."""
    x = torch.as_tensor(x)
    x = x[None] if x.ndim == 3 else x
    if tuple(x.shape[1:]) != graph.shape or x.ndim != 4 or not len(x):
        raise UserError(f"x holds images [B, {', '.join(map(str, graph.shape))}], found {list(x.shape)}")
    if not (x.dtype == torch.uint8 or x.is_floating_point()):
        raise UserError(f"x holds uint8 or floats in [0, 1], found {x.dtype}")
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    x = x.clone() if x.is_inference() else x  # gradients cannot be taken of inference tensors
    if missing := int((~x.isfinite()).sum()):
        wrong = int((~x.flatten(1).isfinite().all(1)).sum())
        raise UserError(f"x holds {missing} pixels that are not finite, in {wrong} of {len(x)} images; leave those out")
    if x.min() < -1e-4 or x.max() > 1 + 1e-4:
        raise UserError(f"x holds values in [0, 1], found {float(x.min()):.4g} to {float(x.max()):.4g}; divide by 255?")
    return x


def _parents(given: Any, graph: CausalGraph, n: int) -> Tensor:
    """Parents as float32 [B, D]."""
    if isinstance(given, Mapping):
        if lacking := [v for v in graph.names if v not in given]:
            raise UserError(f"pa has no value for {', '.join(lacking)}; the graph has {', '.join(graph.names)}")
        return torch.stack([_values(v, given[v], graph, n) for v in dict.fromkeys([*graph.names, *given])], 1)
    pa = torch.as_tensor(given, dtype=torch.float32)
    pa = pa[None] if pa.ndim == 1 else pa
    if pa.shape != (n, len(graph.names)):
        names = ", ".join(graph.names)
        raise UserError(f"pa holds [{n}, {len(graph.names)}] values ({names}), found {list(pa.shape)}")
    return torch.stack([_values(v, pa[:, k], graph, n) for k, v in enumerate(graph.names)], 1)


def _values(name: str, given: Any, graph: CausalGraph, n: int) -> Tensor:
    """Values of a variable [B]."""
    if name not in graph.names:
        raise UserError(f"the graph has no variable {name!r}; {did_you_mean(name, graph.names)}")
    try:
        value = torch.as_tensor(given, dtype=torch.float32).reshape(-1)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{name} takes a number, or one an image; found {given!r}") from None
    if len(value) not in (1, n):
        raise UserError(f"{name}: {len(value)} values for {n} images; give one, or one an image")
    if problem := _outside(graph[name], value):
        raise UserError(f"{name}: {problem}")
    return value.expand(n).clone()


def _outside(v: Variable, value: Tensor) -> str:
    if missing := int((~value.isfinite()).sum()):
        return f"{missing} of {len(value)} values are not finite; give numbers"
    if v.categorical and ((value != value.round()) | (value < 0) | (value >= v.size)).any():
        bad = next(x for x in value.tolist() if x != round(x) or not 0 <= x < v.size)
        return f"found {bad:g}, the classes are 0 to {v.size - 1}"
    return ""


def _act(method: Method, pa: Tensor, do: Mapping[str, Tensor], dataset: Any, action: Act | None, seed: int) -> Tensor:
    """The parents' response [B, D]."""
    graph = method.graph
    rng = torch.Generator().manual_seed(derive("action", *do, seed))
    if action is not None and dataset is not None:
        raise UserError("both a data set and an action say how parents respond; give one of them")
    responding = {d: v for v in do for d in graph.descendants(v) if d not in do}
    act = action or _act_of(dataset, graph)
    cf_pa = act(pa, do, rng) if act and do else None
    learned = learned_action_of(method) if dataset is not None and cf_pa is None and responding else None
    if learned:
        cf_pa = learned(pa, do, rng)
    if cf_pa is None and not responding:
        cf_pa = graph.set(pa, do)
    if cf_pa is None:
        effects = ", ".join(f"{d} to do({v})" for d, v in responding.items())
        who = "nothing says" if dataset is None else "the data set does not say"
        raise UserError(
            f"{who} how parents respond ({effects}); give {'dataset=, or ' * (dataset is None)}action=, "
            "as cfbench.load_action(run) returns it for a run that learned it"
        )
    check_parents(cf_pa, len(pa), graph.names, "the action gives")
    return cf_pa.float()


def _act_of(dataset: Any, graph: CausalGraph) -> Callable[..., Tensor | None] | None:
    if dataset is None:
        return None
    from .run import load_dataset

    found: Dataset = load_dataset(dataset) if isinstance(dataset, (str, type)) else dataset
    if found.graph != graph:
        raise UserError(f"the method is made for another graph than that of {type(found).__name__}")
    return found.act
