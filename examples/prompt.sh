#!/bin/sh
# clinvk's APIs with curl: sh examples/prompt.sh [BACKEND]
# Start `clinvk serve` first. CLINVK_URL and CLINVK_KEY say where the server is and what key it asks for, where they are
# not the usual.
set -eu
url=${CLINVK_URL:-http://localhost:8080}
backend=${1:-claude}

post() {
    path=$1
    shift
    curl --fail-with-body --silent --show-error --no-buffer "$url$path" \
        -H "Authorization: Bearer ${CLINVK_KEY:-not-needed}" -H 'Content-Type: application/json' "$@"
    echo
}

echo "clinvk's own API, one JSON object:"
post /api/v1/prompt -d '{"backend": "'"$backend"'", "prompt": "hello world"}'

echo "The same as a stream of events, one a line:"
post /api/v1/prompt -d '{"backend": "'"$backend"'", "prompt": "hello world", "output_format": "stream-json"}'

echo "OpenAI's API:"
post /openai/v1/chat/completions \
    -d '{"model": "'"$backend"'", "messages": [{"role": "user", "content": "hello world"}]}'

echo "OpenAI's newer API, as a stream:"
post /openai/v1/responses -d '{"model": "'"$backend"'", "input": "hello world", "stream": true}'

echo "Anthropic's API:"
post /anthropic/v1/messages \
    -d '{"model": "'"$backend"'", "max_tokens": 1024, "messages": [{"role": "user", "content": "hello world"}]}'
