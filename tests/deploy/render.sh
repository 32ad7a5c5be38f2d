#!/usr/bin/env bash
# Renders the overlays of deploy/kubernetes into tests/deploy/rendered, for tests where there is no kubectl.
# Needs kubectl 1.27 or later. Look at what changes: it is what clusters get.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
for folder in deploy/kubernetes/overlays/*/; do
    overlay=$(basename "$folder")
    kubectl kustomize "$folder" >"tests/deploy/rendered/$overlay.yaml"
done
