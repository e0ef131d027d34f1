#!/usr/bin/env bash
# The Dockerfile, where there is no container engine: hadolint reads it if there is one, and its steps are carried out in a
# clean directory (production install, build, only what runs), which is then started as another user. Needs `npm ci`.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n--- container: %s\n' "$*"; }

step 'hadolint Dockerfile'
if command -v hadolint >/dev/null; then
  hadolint Dockerfile
  echo 'hadolint: nothing to say'
else
  echo 'hadolint: SKIPPED, it is not in PATH (it comes as one binary: https://github.com/hadolint/hadolint)'
fi

step "the Dockerfile's steps, without an engine"
# Not through npx: the npm inside must not see the settings of one outside.
exec node_modules/.bin/node tests/container/main.ts
