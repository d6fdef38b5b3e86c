#!/bin/sh
# Installs the program `host` out of a release, for this user or for everybody.
#
#     sh install.sh --base URL [--dir DIR] [--target TRIPLE] [--sums-sha256 HEX]
#
#   --base URL         where the files of the release are: its archives and SHA256SUMS
#   --dir DIR          where `host` goes: /usr/local/bin for root, ~/.local/bin for others
#   --target TRIPLE    the archive that is taken; the one for this machine without it
#   --sums-sha256 HEX  the hash that SHA256SUMS has, as somebody you trust told you
#
# The archive is installed only if its hash is in SHA256SUMS. That finds damage on the way. Somebody
# who can write to the address can replace both files: against that, give --sums-sha256, or verify
# the archive first (`gh attestation verify`). Addresses are https://, or file:// for a folder;
# http:// is taken of this machine only.
set -eu

name=lattice-host
fail() { echo "install.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }

base="" dir="" wanted="" sums_hash=""
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage; exit ;;
        --base | --dir | --target | --sums-sha256)
            [ $# -ge 2 ] || fail "$1 needs a value"
            case "$1" in
                --base) base=${2%/} ;;
                --dir) dir=$2 ;;
                --target) wanted=$2 ;;
                *) sums_hash=$2 ;;
            esac
            shift 2
            ;;
        *) fail "unknown argument $1; --help tells of all" ;;
    esac
done
[ -n "$base" ] || fail "say with --base where the release is"
case "$base" in
    https://* | file:///* | http://127.0.0.1:* | http://localhost:*) ;;
    *) fail "$base is no https:// address" ;;
esac
if [ -z "$dir" ]; then
    if [ "$(id -u)" -eq 0 ]; then dir=/usr/local/bin; else dir=${HOME:?}/.local/bin; fi
fi

# The targets that can run here, the better one first. The one of musl needs no libraries.
targets() {
    case "$(uname -s)-$(uname -m)" in
        Linux-x86_64)
            if ! has_musl; then echo x86_64-unknown-linux-gnu; fi
            echo x86_64-unknown-linux-musl
            ;;
        Linux-aarch64 | Linux-arm64)
            if ! has_musl; then echo aarch64-unknown-linux-gnu; fi
            echo aarch64-unknown-linux-musl
            ;;
        Darwin-arm64) echo aarch64-apple-darwin ;;
        *) fail "there is no program for $(uname -s) on $(uname -m); build it from source" ;;
    esac
}
has_musl() { (ldd --version 2>&1 || true) | grep -qi musl; }

fetch() { # NAME FILE
    case "$base" in
        file://*) cp "${base#file://}/$1" "$2" ;;
        *)
            if command -v curl >/dev/null; then
                # Slow is well, and nothing for a minute is not.
                curl -fsSL --retry 3 --connect-timeout 20 --speed-limit 1000 --speed-time 60 \
                    --proto-redir =https -o "$2" "$base/$1"
            elif command -v wget >/dev/null; then
                # The short forms: the wget of busybox knows no others, and one of them crashes on -q.
                wget -T 60 -t 3 -O "$2" "$base/$1" 2>"$work/said" || { cat "$work/said" >&2; false; }
            else
                fail "curl or wget is needed"
            fi
            ;;
    esac || fail "cannot get $base/$1"
}

hash_of() { # FILE
    if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1
}

work=$(mktemp -d)
fresh=""
trap 'rm -rf "$work" ${fresh:+"$fresh"}' EXIT
trap 'exit 130' INT TERM HUP

fetch SHA256SUMS "$work/SHA256SUMS"
if [ -n "$sums_hash" ] && [ "$(hash_of "$work/SHA256SUMS")" != "$sums_hash" ]; then
    fail "SHA256SUMS has another hash than $sums_hash; nothing was installed"
fi

# Finds the archive of a target in SHA256SUMS; there is one of each in a release.
archive_for() { # TARGET
    sed -n "s/^[0-9a-f]\{64\}  \($name-[0-9A-Za-z.+-]*-$1\.tar\.gz\)\$/\1/p" "$work/SHA256SUMS"
}
wanted=${wanted:-$(targets)}
archive=""
for target in $wanted; do
    archive=$(archive_for "$target")
    [ -z "$archive" ] || break
done
[ -n "$archive" ] || fail "the release has no archive for $(echo "$wanted" | tr '\n' ' ')"
[ "$(echo "$archive" | wc -l)" -eq 1 ] || fail "SHA256SUMS names several archives for $target"

fetch "$archive" "$work/archive.tar.gz"
expected=$(grep -F "  $archive" "$work/SHA256SUMS" | cut -d' ' -f1)
found=$(hash_of "$work/archive.tar.gz")
[ "$found" = "$expected" ] ||
    fail "$archive has the hash $found, and SHA256SUMS says $expected; nothing was installed"

mkdir "$work/out"
tar -xzf "$work/archive.tar.gz" -C "$work/out"
program=$work/out/${archive%.tar.gz}/host
if [ ! -f "$program" ] || [ -L "$program" ]; then fail "there is no program in $archive"; fi
other=""
case "$(uname -s)-$(uname -m) $target" in
    *-musl) ;;
    "Linux-x86_64 "*) other="; --target x86_64-unknown-linux-musl runs on every Linux" ;;
    Linux-a*64*) other="; --target aarch64-unknown-linux-musl runs on every Linux" ;;
esac
version=$("$program" --version) || fail "the program does not run here, so nothing was installed$other"

# Beside its place first: a program that runs is replaced in one step and never half.
mkdir -p "$dir" || fail "cannot make $dir; choose another with --dir"
fresh=$dir/.host.$$
cp "$program" "$fresh" || fail "cannot write to $dir; choose another with --dir"
chmod 755 "$fresh"
mv -f "$fresh" "$dir/host"
echo "$version is in $dir/host"
case "$(command -v host || true)" in
    "$dir/host") ;;
    "") echo "$dir is not in PATH; add it, or call $dir/host" ;;
    *) echo "the name \`host\` means $(command -v host) first; put $dir before it in PATH, or call $dir/host" ;;
esac
echo "Begin with: host up --demo"
