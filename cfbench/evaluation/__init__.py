"""Pearl's steps and metrics on arrays: plan, parents' mechanisms, answers, scoring, resamples."""

from __future__ import annotations
