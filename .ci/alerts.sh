#!/usr/bin/env bash
# Checks the alerts in deploy/prometheus and plays their unit tests, with promtool: the one in PATH, or Debian's.
# Where there is neither, it says so and ends with 0; whatever promtool itself finds fault with is a failure.
set -euo pipefail
cd "$(dirname "$0")/../deploy/prometheus"

step() { printf '\n--- alerts: %s\n' "$*"; }

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

skip() {
  echo "alerts: SKIPPED, not checked: $*"
  echo 'alerts: install promtool (Debian: apt-get install prometheus) to have them checked'
  exit 0
}

# The package is unpacked, not installed: installing it would start a Prometheus of its own on this machine, and nothing
# but the one program is needed.
fetch_promtool() {
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    skip 'promtool is not in PATH, and there is no apt-get to get it with'
  # In a directory that apt's own user can write to, or it warns.
  mkdir -m 777 "$work/deb"
  download() { (cd "$work/deb" && timeout 300 apt-get -qq download prometheus) >"$work/log" 2>&1; }
  # Images of Debian come without package lists, and old lists name versions that are gone; only root may fetch them.
  if ! download; then
    [ "$(id -u)" = 0 ] || skip "promtool is not in PATH, and apt-get cannot download it: $(tail -n 1 "$work/log")"
    timeout 120 apt-get -qq update >"$work/log" 2>&1 ||
      skip "promtool is not in PATH, and apt-get update fails: $(tail -n 1 "$work/log")"
    download || skip "promtool is not in PATH, and apt-get cannot download it: $(tail -n 1 "$work/log")"
  fi
  dpkg-deb --fsys-tarfile "$work"/deb/prometheus_*.deb | tar -x -C "$work" ./usr/bin/promtool
  promtool="$work/usr/bin/promtool"
}

promtool="$(command -v promtool || true)"
if [ -z "$promtool" ]; then
  step "no promtool in PATH: unpacking Debian's"
  fetch_promtool
fi
"$promtool" --version 2>&1 | sed -n 1p

step 'promtool check rules alerts.yml'
"$promtool" check rules alerts.yml

step 'promtool check config prometheus.yml'
"$promtool" check config prometheus.yml

step 'promtool test rules alerts_test.yml'
"$promtool" test rules alerts_test.yml
