#!/usr/bin/env bash
# Ask a server what is on a photo, over HTTP:  examples/curl.sh localhost:8080 food42 photo.jpg
#
# A token goes in HANSANG_TOKEN. --fail-with-body prints what is wrong, and ends with curl's code 22.
set -euo pipefail
address=$1 model=$2 photo=$3
ask=(curl --silent --show-error --fail-with-body --max-time 10)
[ -z "${HANSANG_TOKEN:-}" ] || ask+=(--header "Authorization: Bearer $HANSANG_TOKEN")

# A photo as it is, the three likeliest classes.
"${ask[@]}" --data-binary "@$photo" "http://$address/v1/models/$model:classify?topK=3"
echo

# Two photos as a form.
"${ask[@]}" --form "photo=@$photo" --form "photo=@$photo" "http://$address/v1/models/$model:classify"
echo

# As JSON, with a deadline.
printf '{"images": ["%s"], "topK": 1}' "$(base64 <"$photo" | tr -d '\n')" |
  "${ask[@]}" --header 'Content-Type: application/json' --header 'X-Request-Timeout-Ms: 5000' \
    --data-binary @- "http://$address/v1/models/$model:classify"
echo

# What the model is.
"${ask[@]}" "http://$address/v1/models/$model"
echo
