#!/usr/bin/env bash
# Puts Debian's arm64 libraries that the project builds with into a folder, for the preset aarch64:
# tools/aarch64_sysroot.sh [FOLDER], build/aarch64-sysroot without one.  Needs no root and leaves this system's packages
# alone: apt works on lists and a status of its own below the folder, and packages are unpacked, not installed.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mkdir -p "${1:-build/aarch64-sysroot}" && cd "${1:-build/aarch64-sysroot}" && pwd)
# What the group build has of libraries; header-only ones come along. libc6-dev and libstdc++ are the target's own.
mapfile -t packages < <(awk '$1 == "build" && $2 ~ /-dev$/ { print $2 }' tools/apt-packages.txt)
packages+=(libc6-dev libstdc++6)

wanted="${packages[*]}"
if [ "$(cat "$folder/packages" 2> /dev/null)" = "$wanted" ]; then
  exit 0
fi

apt=$folder/apt
mkdir -p "$apt"/{lists,cache/archives/partial}
: > "$apt/status"
own_apt() {
  apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State="$apt" -o Dir::State::status="$apt/status" \
    -o Dir::Cache="$apt/cache" -o APT::Sandbox::User= -o Debug::NoLocking=1 "$@"
}
own_apt update
own_apt install --yes --no-install-recommends --download-only "${packages[@]}"

for archive in "$apt"/cache/archives/*.deb; do
  dpkg-deb --extract "$archive" "$folder"
done
# Links that start at the root would lead to this system's files.
find "$folder/lib" "$folder/usr" -type l -lname '/*' | while read -r link; do
  ln -sfn --relative "$folder$(readlink "$link")" "$link"
done
rm -rf "$apt"
echo "$wanted" > "$folder/packages"
echo "$folder: $(du -sh "$folder" | cut -f1)"
