#!/bin/sh
# llm (https://llm.datasette.io): the agent as a model of its own, in a folder of its own.
set -eu
LLM_USER_PATH="$(mktemp -d)"
export LLM_USER_PATH
trap 'rm -rf "$LLM_USER_PATH"' EXIT
cat > "$LLM_USER_PATH/extra-openai-models.yaml" <<EOF
- model_id: pipesd
  model_name: default
  api_base: "${OPENAI_BASE_URL:-http://127.0.0.1:8101/v1}"
  api_key_name: none
EOF
llm --model pipesd --option max_tokens 40 --key unused "Write a function that adds two numbers."
