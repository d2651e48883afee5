"""`python -m tests.support.branches`: after a run with `--cov`, are enough branches of the core and the rules taken?"""

import io
import json
import sys
from pathlib import Path

import coverage

FLOOR_PERCENT = 90.0
FOLDERS = ("actors", "server/domain")


def main() -> int:
    """Print the report of each folder; 1 when one is below the floor."""
    measured = coverage.Coverage()
    measured.load()
    status = 0
    for folder in FOLDERS:
        report = Path(measured.get_option("run:data_file") or ".coverage").with_name(".coverage.json")
        measured.json_report(outfile=str(report), include=[f"{folder}/*"])
        totals = json.loads(report.read_text())["totals"]
        report.unlink()
        percent = 100 * totals["covered_branches"] / max(1, totals["num_branches"])
        text = io.StringIO()
        measured.report(include=[f"{folder}/*"], show_missing=True, skip_covered=True, file=text)
        print(f"\n{text.getvalue()}\n{folder}: {percent:.1f} % of its branches (at least {FLOOR_PERCENT:g} %)")
        if percent < FLOOR_PERCENT:
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
