"""Whether parents of a plan lie where training parents do: all at once, and row by row as it is defined.

With ``--benchmark-enable`` the CPU-seconds of both stand under ``extra_info`` of ``--benchmark-json``.
"""

from __future__ import annotations

import time

import pytest
from test_plan import RowByRow, drawn, graph

from cfbench.evaluation.plan import Support

pytestmark = pytest.mark.serial


@pytest.mark.benchmark(group="support of parents")
def test_support_of_a_plan(benchmark):
    train, asked = drawn(0, 10_000, 1, 2, 10, 0.0), drawn(1, 10_000 if benchmark.enabled else 300, 1, 2, 10, 0.0)
    together, alone = Support(graph(1, 2), train), RowByRow(1, train)
    spent = {}
    for name, tell in (("row by row", alone), ("together", lambda pa: together(pa).tolist())):
        begun = time.process_time()
        told = tell(asked)
        spent[name] = time.process_time() - begun
        assert told == spent.setdefault("told", told)
    benchmark.extra_info.update({name: spent[name] for name in ("row by row", "together")})
    benchmark(together, asked)
    assert 0 < spent["together"] < spent["row by row"]
