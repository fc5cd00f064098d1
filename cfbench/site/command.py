"""What ``cfbench site`` does."""

from __future__ import annotations

from pathlib import Path

from .collect import collect
from .libraries import check_installed
from .pages import check_replaceable, write_page

__all__ = ["site_command"]


def site_command(names: tuple[str, ...], out: Path, run_root: Path) -> int:
    """Write the page of some runs into a folder and print where it is.

    Raises:
        UserError: a run cannot be read, the folder holds something else, or a package is missing.
    """
    check_installed()
    check_replaceable(out)
    page = collect(names, run_root)
    size = write_page(page, out)
    rows = sum(len(d.summary.rows) for d in page.datasets)
    datasets = f"{len(page.datasets)} data set{'s' * (len(page.datasets) > 1)}"
    print(f"{out / 'index.html'}: {datasets}, {rows} rows, {size / 1e6:.1f} MB; open it in a browser")
    return 0
