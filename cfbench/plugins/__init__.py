"""From a name to a checked class: row specs, discovery, files, signatures, registry, digests."""

from __future__ import annotations
