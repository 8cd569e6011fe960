"""Known vulnerabilities of the packages that are installed, by pip-audit: `make audit`.

Exit code 1 where an update would mend one; one that nobody has mended yet is listed and fails nothing. Where the index
of vulnerabilities cannot be asked, the last line reports NOT CHECKED and why: exit code 0, and 2 with `--release`
(`make audit RELEASE=1`), since what nobody has checked is not to be released.
"""

from __future__ import annotations

import json
import subprocess
import sys

NOT_ASKED = 2  # exit code where a release wants to be checked and could not be


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    lines, code = told(asked.stdout, asked.stderr, release="--release" in sys.argv[1:])
    print("\n".join(lines))
    return code


def told(report: str, errors: str, release: bool = False) -> tuple[list[str], int]:
    """What to print of pip-audit's JSON and its standard error, and the exit code."""
    unchecked = NOT_ASKED if release else 0
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return [_unchecked((errors.strip() or "it said nothing").splitlines()[-1])], unchecked
    checked = sum("vulns" in package for package in packages)
    if not checked:  # something answered, such as a mirror, that knows of no vulnerabilities
        reason = next((p["skip_reason"] for p in packages if "skip_reason" in p), "there are no packages")
        return [_unchecked(reason)], unchecked
    lines, mendable = [], 0
    for package in packages:
        for found in package.get("vulns", ()):
            fixed = ", ".join(found["fix_versions"])
            mendable += bool(fixed)
            mend = f"mended in {fixed}" if fixed else "not mended yet"
            lines.append(f"{package['name']} {package['version']}: {found['id']}, {mend}")
    lines.append(
        f"audit: {checked} packages checked, {len(lines)} vulnerabilities known, {mendable} mended by an update"
    )
    return lines, int(mendable > 0)


def _unchecked(reason: str) -> str:
    return f"audit: NOT CHECKED, the index of vulnerabilities could not be asked: {reason}"


if __name__ == "__main__":
    sys.exit(main())
