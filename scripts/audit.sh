#!/usr/bin/env bash
# Known weaknesses: of the code (bandit), and of the packages that constraints/hashes.txt pins (pip-audit).
# What bandit finds fails. What pip-audit finds is printed, and fails with STRICT=1 alone: advisories appear without a
# change here. Where no index answers, it is said what was not looked at, and that is no failure.
# Usage: scripts/audit.sh [python of an environment to make and use, default .venv/audit]
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=${1:-.venv/audit}
if ! "$tools/bin/bandit" --version >/dev/null 2>&1; then
	python=$([ -x .venv/bin/python ] && echo .venv/bin/python || command -v python3)
	if ! { "$python" -m venv "$tools" && timeout 300 "$tools/bin/python" -m pip -q --disable-pip-version-check install \
		--retries 1 -c constraints/ci.txt bandit pip-audit; } >/dev/null 2>&1; then
		echo "audit: bandit and pip-audit cannot be installed here (no index answers); nothing was looked at"
		exit 0
	fi
fi
"$tools/bin/bandit" -q -r src scripts -c pyproject.toml || exit 1
report=$(timeout 300 "$tools/bin/pip-audit" --disable-pip --require-hashes -r constraints/hashes.txt -f json 2>/dev/null)
PIP_AUDIT=$report "$tools/bin/python" - <<'PYTHON'
import json
import os

try:
    found = json.loads(os.environ["PIP_AUDIT"])["dependencies"]
except (ValueError, KeyError):
    raise SystemExit(print("audit: bandit found nothing; pip-audit got no answer, so packages were not looked at"))
weak = [f"{one['name']} {one['version']}: {weakness['id']}" for one in found for weakness in one.get("vulns", ())]
unknown = sum("skip_reason" in one for one in found)
print(f"audit: bandit found nothing; {len(found) - unknown} packages looked up, of {unknown} the index knows nothing")
print(*weak, sep="\n", end="\n" if weak else "")
raise SystemExit(bool(weak) and os.environ.get("STRICT") == "1")
PYTHON
