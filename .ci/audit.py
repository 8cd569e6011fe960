"""Known vulnerabilities of the packages that are installed, by pip-audit: `make audit`.

Exit code 1 where an update would mend one; one that nobody has mended yet is listed and fails nothing. Where the index
of vulnerabilities cannot be reached, that is said, and nothing is checked.
"""

from __future__ import annotations

import json
import subprocess
import sys


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    lines, code = told(asked.stdout, asked.stderr)
    print("\n".join(lines))
    return code


def told(report: str, errors: str) -> tuple[list[str], int]:
    """What to print of pip-audit's JSON and its standard error, and the exit code."""
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return [_unchecked((errors.strip() or "it said nothing").splitlines()[-1])], 0
    checked = sum("vulns" in package for package in packages)
    if not checked:  # something answered, such as a mirror, that knows of no vulnerabilities
        return [
            _unchecked(next((p["skip_reason"] for p in packages if "skip_reason" in p), "there are no packages"))
        ], 0
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
    return f"audit: nothing was checked, the index of vulnerabilities cannot be reached: {reason}"


if __name__ == "__main__":
    sys.exit(main())
