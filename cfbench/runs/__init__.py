"""What a run is and where it lies: job, keys, stage chain, manifest, reader, progress."""

from __future__ import annotations
