#!/bin/sh
# Installs the programs that the tests start, from Debian's packages, if this is Debian and the user
# is root. Otherwise it names the missing ones; tests that need them are skipped and say so.
# Usage: servers.sh [PROGRAM ...], by default mariadbd.
set -u

package_of() {
    case "$1" in
        mariadbd) echo mariadb-server ;;
        nginx) echo nginx-light ;;
        node) echo nodejs ;;
        fiu-run) echo fiu-utils ;;
        tesseract) echo tesseract-ocr ;;
        heif-enc) echo libheif-examples ;;
        exiftool) echo libimage-exiftool-perl ;;
        promtool) echo prometheus ;;
        systemd-analyze) echo systemd ;;
        *) echo "$1" ;;
    esac
}

# Debian has an old kustomize and none of the others, so Go builds them: in half a minute, a minute, and five
# seconds.
module_of() {
    case "$1" in
        kustomize) echo sigs.k8s.io/kustomize/kustomize/v5@v5.7.1 ;;
        helm) echo helm.sh/helm/v3/cmd/helm@v3.22.0 ;;
        # Merges compose files as `docker compose` does; it has the library's only program.
        compose-go) echo github.com/compose-spec/compose-go/v2/cmd@v2.16.2 ;;
    esac
}

build() {
    command -v go >/dev/null 2>&1 && [ "$(id -u)" = 0 ] || return 1
    echo "building for the tests: $1"
    folder=$(mktemp -d)
    GOBIN="$folder" go install "$(module_of "$1")" >/dev/null 2>&1 && mv "$folder"/* "/usr/local/bin/$1"
    rm -rf "$folder"
    command -v "$1" >/dev/null 2>&1
}

missing=""
PATH="$PATH:/usr/sbin"
for program in "${@:-mariadbd}"; do
    if command -v "$program" >/dev/null 2>&1; then
        continue
    elif [ -n "$(module_of "$program")" ]; then
        build "$program" || echo "MISSING: $program. The files in deploy that need it will not be tested." >&2
    else
        missing="$missing $(package_of "$program")"
    fi
done
[ -z "$missing" ] && exit 0

if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "installing for the tests:$missing"
    # Debian's packages start their servers. This prevents it: the tests start their own.
    printf '#!/bin/sh\nexit 101\n' >/tmp/policy-rc.d.$$ && chmod +x /tmp/policy-rc.d.$$
    [ -e /usr/sbin/policy-rc.d ] || cp /tmp/policy-rc.d.$$ /usr/sbin/policy-rc.d
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # All at once; if that fails, one by one, so that one missing package does not block the others.
    result=0
    apt-get install -y -qq $missing >/dev/null || for package in $missing; do
        apt-get install -y -qq "$package" >/dev/null || result=1
    done
    cmp -s /tmp/policy-rc.d.$$ /usr/sbin/policy-rc.d && rm -f /usr/sbin/policy-rc.d
    rm -f /tmp/policy-rc.d.$$
    [ "$result" = 0 ] && exit 0
fi
echo "MISSING:$missing. Tests that need it are skipped, or fail if CI=true." >&2
