#!/usr/bin/env bash
# Makes sure that the program $1 needs no library, and that it finds hosts by all ways that a name has: /etc/hosts and a name service.
# The latter is one of this script, in namespaces: without root that part is left out, and says so.
set -euo pipefail

program=$(realpath "$1")
if readelf -l "$program" | grep -q INTERP; then
  echo "release: $program needs a loader, so it is not static" >&2
  exit 1
fi
"$program" --version
"$program" --self-check >/dev/null

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
file() {
  printf 'cluster: live\norigin: { host: %s, port: 11935 }\nedges:\n  - { host: 127.0.0.6, ports: [11935] }\n' "$1" >"$dir/cluster.yaml"
}
file localhost
"$program" check "$dir/cluster.yaml"

if [ "$(id -u)" -ne 0 ]; then
  echo "release: not root, so no name service was tried" >&2
  exit 0
fi
cat >"$dir/service.py" <<'PYTHON'
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.53", 53))
open(sys.argv[1], "w").close()
while True:
    query, client = server.recvfrom(512)
    end = query.index(b"\0", 12) + 5
    is_v4 = query[end - 4:end - 2] == b"\0\1"
    head = query[:2] + b"\x85\x80\0\1" + (b"\0\1" if is_v4 else b"\0\0") + b"\0\0\0\0"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + bytes([127, 0, 0, 5]) if is_v4 else b""
    server.sendto(head + query[12:end] + answer, client)
PYTHON
file origin.srsctl.test
echo 'nameserver 127.0.0.53' >"$dir/resolv.conf"
unshare --net --mount --pid --fork --kill-child bash -euo pipefail -c '
  dir=$1 program=$2
  ip link set lo up
  mount --bind "$dir/resolv.conf" "$(realpath /etc/resolv.conf)"
  python3 "$dir/service.py" "$dir/listens" &
  until [ -e "$dir/listens" ]; do sleep 0.05; done
  "$program" check "$dir/cluster.yaml"
' bash "$dir" "$program"
# Users and hosts that are in no file: libraries that nsswitch.conf names would be asked next, which a static program cannot have.
printf 'passwd: files systemd\ngroup: files systemd\nhosts: files myhostname resolve dns\n' >"$dir/nsswitch.conf"
chmod 755 "$dir"
cp "$program" "$dir/srsctl"
unshare --mount bash -euo pipefail -c '
  mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf
  code=0
  env -u HOME setpriv --reuid 61999 --regid 61999 --clear-groups "$1/srsctl" ls || code=$?
  [ "$code" -lt 128 ]
  "$1/srsctl" probe rtmp://nowhere.invalid/live/x || code=$?
  [ "$code" -lt 128 ]
' bash "$dir"
echo "release: $program is static, and finds hosts"
