#!/usr/bin/env bash
# Installs what a group of targets needs on Debian and Ubuntu: tools/setup.sh [GROUP...], default group: build.
# What is there already is left alone; nothing missing means no network and no root.
set -euo pipefail
cd "$(dirname "$0")"

groups=("${@:-build}")
packages=()
for group in "${groups[@]}"; do
  mapfile -t found < <(awk -v group="$group" '$1 == group { print $2 }' apt-packages.txt)
  if [ ${#found[@]} -eq 0 ]; then
    echo "error: tools/apt-packages.txt has no group '$group'" >&2
    exit 2
  fi
  packages+=("${found[@]}")
done
mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)

if ! command -v apt-get > /dev/null || ! command -v dpkg-query > /dev/null; then
  if command -v cmake > /dev/null && command -v ninja > /dev/null; then
    exit 0  # another system, prepared by hand: CMake says what it still lacks
  fi
  echo "error: this system has no apt; install the counterparts of these Debian packages, then run make again:" >&2
  printf '  %s\n' "${packages[@]}" >&2
  exit 1
fi

installed() { dpkg-query --show --showformat='${db:Status-Status}' "$1" 2> /dev/null | grep -q '^installed'; }
missing=()
for package in "${packages[@]}"; do
  installed "$package" || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo > /dev/null; then
    echo "error: not root and no sudo; ask an administrator for: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "Installing with apt: ${missing[*]}"
"${as_root[@]}" apt-get update -qq || echo "warning: the package lists are not fresh" >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install --yes --no-install-recommends -qq -o Dpkg::Use-Pty=0 "${missing[@]}"
