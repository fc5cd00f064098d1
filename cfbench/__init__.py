"""A benchmark of deep structural causal models for counterfactual images.

What is listed here is imported when it is first used: ``import cfbench`` alone imports neither torch nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .api.counterfactual import Answer, counterfactual
    from .api.result import Result
    from .api.run import load, load_action, load_dataset, load_method, run
    from .contract import Column, Control, Dataset, Derived, Fit, Method, Metric, Noise, Questions, Split
    from .errors import PluginError, UserError
    from .evidence import Evidence
    from .graph import CausalGraph, Variable
    from .rng import Streams, derive

__all__ = [
    "Answer",
    "CausalGraph",
    "Column",
    "Control",
    "Dataset",
    "Derived",
    "Evidence",
    "Fit",
    "Method",
    "Metric",
    "Noise",
    "PluginError",
    "Questions",
    "Result",
    "Split",
    "Streams",
    "UserError",
    "Variable",
    "__version__",
    "counterfactual",
    "derive",
    "load",
    "load_action",
    "load_dataset",
    "load_method",
    "run",
]

_CONTRACT = ("Column", "Control", "Dataset", "Derived", "Fit", "Method", "Metric", "Noise", "Questions", "Split")
_HOMES = {
    **dict.fromkeys(("load", "load_action", "load_dataset", "load_method", "run"), "api.run"),
    **dict.fromkeys(_CONTRACT, "contract"),
    **dict.fromkeys(("PluginError", "UserError"), "errors"),
    "Evidence": "evidence",
    **dict.fromkeys(("CausalGraph", "Variable"), "graph"),
    "Result": "api.result",
    **dict.fromkeys(("Streams", "derive"), "rng"),
    **dict.fromkeys(("Answer", "counterfactual"), "api.counterfactual"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
