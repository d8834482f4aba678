#!/usr/bin/env bash
# Makes sure that the package $1 is whole: what it has, whose that is, and, as root, that it installs and goes again. That is done in a copy
# of this machine's files which is gone afterwards.
set -euo pipefail

deb=$(realpath "$1")
fail() {
  echo "deb: $*" >&2
  exit 1
}

list=$(dpkg-deb --contents "$deb")
for path in usr/bin/srsctl usr/lib/systemd/system/srsctl@.service usr/lib/systemd/system/srsctl-ports@.service \
  usr/lib/tmpfiles.d/srsctl.conf etc/needrestart/conf.d/srsctl.conf usr/share/man/man1/srsctl.1.gz \
  usr/share/man/man1/srsctl-up.1.gz usr/share/bash-completion/completions/srsctl \
  usr/share/zsh/vendor-completions/_srsctl usr/share/fish/vendor_completions.d/srsctl.fish \
  usr/share/doc/srsctl/copyright usr/share/doc/srsctl/examples/guide.yaml; do
  grep -qE " \./$path$" <<<"$list" || fail "$path is missing"
done
! grep -vE '^[-d]rw[-x]r-[-x]r-[-x] +(root/root|0/0) ' <<<"$list" || fail "that is not root's alone to write"
control=$(dpkg-deb --field "$deb")
for field in Package Version Architecture Maintainer Description Section Priority Depends; do
  grep -q "^$field: ." <<<"$control" || fail "no $field"
done
[ "$(dpkg-deb --info "$deb" conffiles)" = /etc/needrestart/conf.d/srsctl.conf ] || fail "conffiles"

if [ "$(id -u)" -ne 0 ]; then
  echo "deb: not root, so it was not installed" >&2
  exit 0
fi
unshare --mount --pid --fork --kill-child bash -euo pipefail -c '
  mount --make-rprivate /
  mount -t tmpfs tmpfs /mnt
  mkdir /mnt/upper /mnt/work /mnt/root
  mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
  mount -t proc proc /mnt/root/proc
  mount --rbind /dev /mnt/root/dev
  mount -t tmpfs tmpfs /mnt/root/run
  cp "$1" /mnt/root/srsctl.deb
  chroot /mnt/root bash -euo pipefail -c "
    export DEBIAN_FRONTEND=noninteractive
    dpkg --install /srsctl.deb >/dev/null
    [ \"\$(stat -c %U:%a /var/lib/srsctl)\" = srsctl:700 ]
    [ \"\$(getent shadow srsctl | cut -d: -f2)\" = \"*\" ]
    setpriv --reuid srsctl --regid srsctl --clear-groups srsctl ls
    systemd-analyze verify --man=no srsctl@live.service 2>&1 | grep srsctl && exit 1
    zcat /usr/share/man/man1/srsctl.1.gz | grep -q ^.TH
    bash -n /usr/share/bash-completion/completions/srsctl
    dpkg --install /srsctl.deb >/dev/null
    dpkg --remove srsctl >/dev/null
    [ -d /var/lib/srsctl ] && ! command -v srsctl
    dpkg --purge srsctl >/dev/null
    [ ! -e /var/lib/srsctl ] && [ ! -e /etc/needrestart/conf.d/srsctl.conf ]
  "
' bash "$deb"
echo "deb: $deb is whole, installs and goes again"
