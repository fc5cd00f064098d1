"""Files on disk: atomic stage folders, safetensors by rows, validators of untrusted JSON."""

from __future__ import annotations

from .stage import (
    MANIFEST,
    MAX_JSON,
    copy_stage,
    damaged_files,
    is_complete,
    is_intact,
    json_text,
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
from .temporary import atomic_write, entries, remove_abandoned, remove_tree, temporary_folder

__all__ = [
    "MANIFEST",
    "MAX_JSON",
    "atomic_write",
    "copy_stage",
    "damaged_files",
    "entries",
    "is_complete",
    "is_intact",
    "json_text",
    "next_numbered",
    "read_json",
    "read_tensors",
    "read_verified",
    "records",
    "remove_abandoned",
    "remove_damaged",
    "remove_tree",
    "sha256",
    "temporary_folder",
    "write_json",
    "write_stage",
    "write_tensors",
]
