"""Files on disk: atomic stage folders, safetensors by rows, validators of untrusted JSON."""

from __future__ import annotations

from .stage import (
    MANIFEST,
    copy_stage,
    damaged_files,
    is_complete,
    is_intact,
    next_numbered,
    read_json,
    read_tensors,
    read_verified,
    records,
    remove_damaged,
    sha256,
    write_json,
    write_stage,
    write_tensors,
)
from .temporary import atomic_write, remove_abandoned, temporary_folder

__all__ = [
    "MANIFEST",
    "atomic_write",
    "copy_stage",
    "damaged_files",
    "is_complete",
    "is_intact",
    "next_numbered",
    "read_json",
    "read_tensors",
    "read_verified",
    "records",
    "remove_abandoned",
    "remove_damaged",
    "sha256",
    "temporary_folder",
    "write_json",
    "write_stage",
    "write_tensors",
]
