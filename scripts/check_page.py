"""Check a report page in headless Chromium, and print what holds as a table.

    python scripts/check_page.py RUN/report.html ...

Exit status 1 if something does not hold, 2 if it could not be checked.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ofa.report.browser import Browser, BrowserError
from ofa.report.page_check import check_page


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path, metavar="PAGE")
    pages = parser.parse_args(argv).pages
    console = Console()
    try:
        with Browser() as browser:
            checks = {page: check_page(browser, page) for page in pages}
    except (BrowserError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    for page, found in checks.items():
        table = Table("check", "holds", "found", title=str(page), title_justify="left")
        for check in found:
            table.add_row(check.name, "yes" if check.ok else "no", check.found)
        console.print(table)
    return int(not all(check.ok for found in checks.values() for check in found))


if __name__ == "__main__":
    sys.exit(main())
