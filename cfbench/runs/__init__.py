"""What a run is and how its folder is laid out: job, keys, stage chain, manifest, reader, progress."""

from __future__ import annotations
