"""From results to numbers, tables, charts and pages; computes nothing that is not in the cells."""

from __future__ import annotations
