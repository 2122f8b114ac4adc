#!/bin/sh
# Deletes from nginx's cache all responses with a tag: m-ID (an image), u-USER, s-SIZE (thumbnail, w640).
#
#     purge.sh m-123 [FOLDER]        by default /var/cache/nginx/smartserve
#
# It reads the whole cache: seconds for ten thousand images. nginx treats a deleted file as a miss. Purge
# the server first (`smartserve purge`), the CDN last.
set -eu

tag=${1:?usage: purge.sh TAG [FOLDER]}
folder=${2:-/var/cache/nginx/smartserve}
case $tag in
    *[!A-Za-z0-9_-]* | [!mus]* | ?[!-]* | ?-) echo "purge.sh: not a tag: $tag (use m-ID, u-USER or s-SIZE)" >&2; exit 2 ;;
esac
[ -d "$folder" ] || { echo "purge.sh: no folder: $folder" >&2; exit 1; }

found=$(mktemp)
trap 'rm -f "$found"' EXIT
# The header lines of the response precede its body.
LC_ALL=C find "$folder" -type f -exec \
    grep -lZaiE "^Cache-Tag: ([^,]*,)*$tag(,[^,]*)*.?\$" {} + >"$found" || true
xargs -0r rm -f -- <"$found"
echo "$(tr -dc '\0' <"$found" | wc -c | tr -d ' ') dropped"
