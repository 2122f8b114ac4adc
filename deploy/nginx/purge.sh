#!/bin/sh
# Drops from nginx's cache what carries a tag: m-ID (a medium), u-USER, s-SIZE (thumbnail, w640).
#
#     purge.sh m-123 [FOLDER]        by default /var/cache/nginx/smartserve
#
# It reads the cache once through: seconds for ten thousand pictures. nginx takes a file that is gone
# for one that it never had. Purge the server first (`smartserve purge`), the CDN last.
set -eu

tag=${1:?usage: purge.sh TAG [FOLDER]}
folder=${2:-/var/cache/nginx/smartserve}
case $tag in
    *[!A-Za-z0-9_-]* | [!mus]* | ?[!-]* | ?-) echo "purge.sh: no tag: $tag" >&2; exit 2 ;;
esac
[ -d "$folder" ] || { echo "purge.sh: no folder: $folder" >&2; exit 1; }

found=$(mktemp)
trap 'rm -f "$found"' EXIT
# The head of the answer stands before its body, a line for each header.
LC_ALL=C find "$folder" -type f -exec \
    grep -lZaiE "^Cache-Tag: ([^,]*,)*$tag(,[^,]*)*.?\$" {} + >"$found" || true
xargs -0r rm -f -- <"$found"
echo "$(tr -dc '\0' <"$found" | wc -c | tr -d ' ') dropped"
