#!/usr/bin/env bash
# Installs what a Debian machine with a Rust toolchain lacks: `build` for building, `bench` for `make bench`, `test` (default)
# for testing as well. Does nothing when nothing is missing. None of these packages brings a service; nginx-rtmp, which would
# start a web server, is unpacked into target/nginx-rtmp and not installed, and so is openssh-server.
set -euo pipefail

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

packages=()
if ! command -v cc >/dev/null; then
  packages+=(gcc libc6-dev)
fi
if [ "${1:-test}" = test ] && ! python3 -m pip --version >/dev/null 2>&1; then
  packages+=(python3-pip)      # installs tests/tools.txt
fi
wanted=()
if [ "${1:-test}" = bench ]; then
  wanted=(
    ffmpeg                     # makes the 2 Mbit/s stream
    util-linux                 # taskset, unshare, nsenter, setpriv
    iproute2                   # the network namespace, and several machines
    openssh-client
  )
fi
if [ "${1:-test}" = test ]; then
  wanted=(
    ffmpeg                     # publisher and player, libavformat
    rtmpdump                   # player, librtmp
    mpv                        # player
    gstreamer1.0-tools         # gst-launch-1.0
    gstreamer1.0-plugins-base
    gstreamer1.0-plugins-good  # flvmux, flvdemux
    gstreamer1.0-plugins-bad   # rtmp2src, rtmp2sink, rtmpsink, openh264dec, checksumsink
    util-linux                 # unshare, nsenter, setpriv
    sudo                       # on a machine that srsctl is installed on
    systemd                    # PID 1 of machines in namespaces; installed into a running system, it starts nothing
    procps                     # kill and pgrep there
    iproute2                   # the network of several machines
    openssh-client
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
  if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
    echo "install-deps: neither root nor sudo; as root: apt-get install ${packages[*]}" >&2
    exit 1
  fi
  echo "install-deps: installing ${packages[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

nginx=target/nginx-rtmp
if [ "${1:-test}" != build ] && [ ! -x "$nginx/usr/sbin/nginx" ] && command -v apt-get >/dev/null; then
  echo "install-deps: unpacking nginx-rtmp into $nginx"
  rm -rf "$nginx.part" && mkdir -p "$nginx.part"
  get() { (cd "$nginx.part" && apt-get download -qq nginx libnginx-mod-rtmp 2>"$1"); }
  # A new machine has no lists yet, or old ones.
  get /dev/null || { as_root apt-get update -qq && get /dev/stderr; }
  for deb in "$nginx.part"/*.deb; do dpkg-deb -x "$deb" "$nginx.part"; done
  if ldd "$nginx.part/usr/sbin/nginx" | grep -q 'not found'; then
    as_root apt-get install -y -qq --no-install-recommends libpcre2-8-0 libssl3 zlib1g >/dev/null
  fi
  rm -rf "$nginx" && mv "$nginx.part" "$nginx"
fi

# Its service would listen on this machine: it is unpacked, and tests start it in namespaces of their own.
sshd=target/openssh
if [ "${1:-test}" != build ] && [ ! -x "$sshd/usr/sbin/sshd" ] && command -v apt-get >/dev/null; then
  echo "install-deps: unpacking openssh-server into $sshd"
  rm -rf "$sshd.part" && mkdir -p "$sshd.part"
  get() { (cd "$sshd.part" && apt-get download -qq openssh-server libwrap0 2>"$1"); }
  get /dev/null || { as_root apt-get update -qq && get /dev/stderr; }
  for deb in "$sshd.part"/*.deb; do dpkg-deb -x "$deb" "$sshd.part"; done
  rm -rf "$sshd" && mv "$sshd.part" "$sshd"
fi

tools=target/tools
if [ "${1:-test}" = test ] && ! cmp -s tests/tools.txt "$tools/tools.txt"; then
  echo "install-deps: installing the tools of tests/tools.txt into $tools"
  rm -rf "$tools"
  python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary=:all: \
    --require-hashes --target "$tools" -r tests/tools.txt
  cp tests/tools.txt "$tools/"
fi

if [ "${1:-test}" = test ] && command -v rustup >/dev/null; then
  cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
  cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
fi
