"""Known vulnerabilities in the pinned packages, but for those that .ci/audit-allowed.toml excuses.

Asks the OSV database through pip-audit. Where that is out of reach, this says so and passes: a
check that fails without a network would be switched off.
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PINS, ALLOWED = HERE.parent / "constraints.txt", HERE / "audit-allowed.toml"
TIMEOUT_S = 120
"""For all packages, one question each: seconds where the database answers."""
_OUT_OF_REACH = ("ConnectionError", "ConnectTimeout", "ReadTimeout", "ConnectionTimeout")


def ask() -> dict[str, Any] | None:
    """pip-audit's report; None: its database is out of reach.

    Raises:
        SystemExit: pip-audit failed otherwise.
    """
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(PINS), "--no-deps"]
    command += ["--disable-pip", "--vulnerability-service=osv", "--timeout=5"]
    command += ["--progress-spinner=off", "--format=json"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if any(name in last for name in _OUT_OF_REACH):
            return None
        sys.exit(f"audit: pip-audit failed: {last}")
    return report


def faults(report: dict[str, Any], allowed: list[dict[str, Any]], today: date) -> Iterator[str]:
    """Vulnerabilities that nothing excuses today, and excuses that nothing needs any more."""
    excused = {(one["package"], one["id"]): one for one in allowed}
    found = set()
    for package in report["dependencies"]:
        for vulnerability in package.get("vulns", []):
            names = [vulnerability["id"], *vulnerability.get("aliases", [])]
            keys = {(package["name"], name) for name in names} & excused.keys()
            found |= keys
            if any(excused[key]["until"] >= today for key in keys):
                continue
            fixed = ", ".join(vulnerability.get("fix_versions", [])) or "no version"
            overdue = " (its excuse is over)" if keys else ""
            yield (f"{package['name']} {package['version']}: {names[0]}{overdue}; fixed in {fixed}")
    for key in sorted(excused.keys() - found):
        yield f"{key[0]} no longer has {key[1]}: remove its excuse"


def main() -> None:
    allowed = tomllib.loads(ALLOWED.read_text("utf-8")).get("allowed", [])
    report = ask()
    if report is None:
        print("audit: the database of vulnerabilities is out of reach: nothing was checked")
        return
    told = [*faults(report, allowed, date.today())]
    if told:
        sys.exit("\n".join(f"audit: {line}" for line in told))
    print(f"audit: nothing known against {len(report['dependencies'])} packages")


if __name__ == "__main__":
    main()
