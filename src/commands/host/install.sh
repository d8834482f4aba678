# What `srsctl host install` runs on a machine, for sh(1). In front of it stand name= (the SHA-256 of the program), role= and the other
# values; behind it, where role=copy, comes the program. Each line that begins with "srsctl:" is read there.
set -eu
umask 022
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin
dir=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/srsctl
program=$dir/$name
say() { printf 'srsctl: %s\n' "$*"; }
is_there() { [ -x "$program" ] && [ "$(sha256sum <"$program")" = "$name  -" ]; }

case $role in
  look)
    say "system $(uname -s) $(uname -m)"
    say "user $(id -u)"
    if [ "$(readlink /usr/local/bin/srsctl 2>/dev/null)" = "/usr/local/lib/srsctl/$name/srsctl" ]; then say installed; fi
    if [ -n "$unit" ] && systemctl is-active --quiet "$unit" 2>/dev/null; then say active; fi
    if is_there; then say copied; fi
    if [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }; then say root; fi
    if ! command -v sudo >/dev/null; then say no-sudo; fi
    say "program $program"
    ;;
  copy)
    mkdir -p "$dir"
    # One of its own: what was cut off before may still wait for the rest.
    part=$program.$$
    trap 'rm -f "$part"' EXIT
    trap 'exit 1' HUP PIPE TERM
    cat >"$part"
    if [ "$(sha256sum <"$part")" != "$name  -" ]; then
      say "broken"
      exit 1
    fi
    chmod 755 "$part"
    sync
    mv "$part" "$program"
    if ! "$program" --version >/dev/null; then
      say "unusable"
      exit 1
    fi
    say "copied"
    ;;
  setup)
    if [ "$(id -u)" = 0 ]; then
      eval "set -- $words"
    else
      eval "set -- sudo -n $words"
    fi
    "$@"
    # It lies where it belongs now.
    rm -rf "$dir"
    say "done"
    ;;
esac
