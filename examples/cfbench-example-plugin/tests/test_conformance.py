"""Every check of cfbench that applies to a plugin of this distribution, and what the plugins promise beside."""

from __future__ import annotations

import pytest
import torch
from cfbench_example.additive import Additive
from cfbench_example.sharpness import Sharpness, contrast
from cfbench_example.skies import Skies

from cfbench.conformance import Check, Subject, checks, subject

SUBJECTS = [subject(plugin) for plugin in (Additive, Skies, Sharpness)]
CASES = [pytest.param(s, c, id=f"{s}-{c}") for s in SUBJECTS for c in checks(s)]


@pytest.mark.parametrize(("subject", "check"), CASES)
def test_conforms(subject: Subject, check: Check) -> None:
    check(subject)


def test_a_blurred_image_has_less_contrast() -> None:
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert (contrast(torch.nn.functional.avg_pool2d(x, 3, 1, 1)) < contrast(x)).all()
