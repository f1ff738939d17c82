#!/bin/sh
# curl: a chat, and the same as a stream of server-sent events.
set -eu
url="${OPENAI_BASE_URL:-http://127.0.0.1:8101/v1}"
body='"model": "default", "max_tokens": 40, "messages": [{"role": "user", "content": "Write a function that adds."}]'
curl --fail --silent --show-error "$url/chat/completions" --header "Content-Type: application/json" --data "{$body}"
echo
curl --fail --silent --show-error --no-buffer "$url/chat/completions" --header "Content-Type: application/json" \
  --data "{\"stream\": true, $body}"
