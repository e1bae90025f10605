#!/bin/sh
# The trivial agent of child.c for machines without a C compiler; what needs a clock is left to child.py.
case $* in *--input-format=stream-json*) exit 2 ;; esac # it serves one prompt
read -r prompt
case $prompt in
stream* | began*)
    exec "$BENCH_PYTHON" -IS "$BENCH_CHILD" "$prompt"
    ;;
idle*)
    echo '{"type":"system","subtype":"init","model":"bench","session_id":"0199f1a2-0000-7000-8000-000000000000"}'
    exec sleep 120
    ;;
esac
echo '{"type":"system","subtype":"init","model":"bench","session_id":"0199f1a2-0000-7000-8000-000000000000"}
{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hello"}}}
{"type":"result","subtype":"success","is_error":false,"num_turns":1,"usage":{"input_tokens":9,"output_tokens":3}}'
