"""L2 distance of an answer to the true counterfactual.

To try it:

    cfbench check mine.py
    cfbench run --methods deepscm --plugin mine.py --preset tiny
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from cfbench.contract import Column, Metric
from cfbench.evidence import Evidence


class Mine(Metric):
    """Root mean square difference to the true counterfactual over the pixels, in grey levels (0 to 255).

    It punishes one pixel that is far off more than the mean absolute error does. Only data sets with an oracle have
    it; elsewhere its cells stay empty. The distance to the factual needs no truth, but is no score: doing nothing wins.
    """

    # What it is asked for as: --metrics mine. Without this line: the class's name in lower case.
    name = "mine"

    # Its columns in the leaderboard: what each measures; where better lies (lower, higher, target with `target=1.0`,
    # or none for a description); the unit; the least and the greatest possible value. `privileged` marks a comparison
    # with the truth, which the row `oracle` wins by definition.
    columns: ClassVar[Mapping[str, Column]] = {
        "l2": Column("root mean square error to the truth", "lower", "grey levels", 0.0, 255.0, privileged=True),
    }

    # Evidence without which it cannot be computed: truth, reverse (the image after the intervention and its reversal),
    # cycles (after null interventions), judges (classifiers, regressors and features), measure (of the data set).
    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    # "do": called once for each intervened variable; "null": on no intervention; "cell": on costs.
    scope: ClassVar[Literal["do", "null", "cell"]] = "do"

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """A number for each image [N], which gets intervals and pairs methods; or 0-d where only a set has a score.

        evidence.x, .answer and .truth are [N, C, H, W] in [0, 1], .pa and .cf_pa [N, D] in raw units, .do the name of
        the intervened variable, .graph all variables. Rows without a finite answer or truth are left out already.
        What is slow belongs into `evidence.once("name", compute)`, which is kept between calls.
        """
        assert evidence.truth is not None  # because `needs` names it
        difference = 255 * (evidence.answer - evidence.truth).flatten(1)  # [N, C*H*W]
        return {"l2": difference.square().mean(1).sqrt()}
