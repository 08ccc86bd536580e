#!/bin/sh
# Puts web's own limits, and a little more, into nginx's configuration: who is over one hears it from web.
set -eu
number() { awk -v value="$1" -v factor="$2" -v more="$3" 'BEGIN { printf "%d", value * factor + more }'; }
body=$(number "${MAX_BODY_MB:-4}" 1000 1024)      # kB
file=$(number "${MAX_FILE_MB:-512}" 1000 1024)    # kB
wait=$(number "${SYNC_WAIT_SECONDS:-600}" 1 30)   # seconds
sed -e "s/@BODY_KB@/$body/" -e "s/@FILE_KB@/$file/" -e "s/@WAIT_SECONDS@/$wait/" /penstock/nginx.conf.in > /tmp/nginx.conf
exec nginx -e stderr -c /tmp/nginx.conf -g "daemon off;"
