#!/usr/bin/env bash
# Installs what a Debian machine with a Rust toolchain lacks: `build` for building, `bench` for `make bench`, `test` (default)
# for testing as well. nginx-rtmp, which `make bench` compares with, is left to you: it brings a web server that starts at once.
# Does nothing when nothing is missing. None of these packages brings a service.
set -euo pipefail

packages=()
if ! command -v cc >/dev/null; then
  packages+=(gcc libc6-dev)
fi
wanted=()
if [ "${1:-test}" = bench ]; then
  wanted=(
    ffmpeg                     # makes the 2 Mbit/s stream
    util-linux                 # taskset
  )
fi
if [ "${1:-test}" = test ]; then
  wanted=(
    ffmpeg                     # publisher and player, libavformat
    rtmpdump                   # player, librtmp
    gstreamer1.0-tools         # gst-launch-1.0
    gstreamer1.0-plugins-base
    gstreamer1.0-plugins-good  # flvmux, flvdemux
    gstreamer1.0-plugins-bad   # rtmp2src, rtmp2sink, rtmpsink
    util-linux                 # unshare
  )
fi
for package in ${wanted[@]+"${wanted[@]}"}; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || packages+=("$package")
done

if [ ${#packages[@]} -gt 0 ]; then
  if ! command -v apt-get >/dev/null; then
    echo "install-deps: not a Debian system; install what provides these packages: ${packages[*]}" >&2
    exit 1
  fi
  root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "install-deps: neither root nor sudo; as root: apt-get install ${packages[*]}" >&2; exit 1; }
    root=(sudo)
  fi
  echo "install-deps: installing ${packages[*]}"
  "${root[@]}" apt-get update -qq
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

if [ "${1:-test}" = test ] && command -v rustup >/dev/null; then
  cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
  cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
fi
