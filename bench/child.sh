#!/bin/sh
# The trivial agent of child.c for machines without a C compiler; what needs a clock is left to child.py.
[ "$1" = app-server ] && exit 2 # clinvk then takes `exec`
read -r prompt
case $prompt in
stream* | began*)
    exec "$BENCH_PYTHON" -IS "$BENCH_CHILD" "$prompt"
    ;;
idle*)
    echo '{"type":"thread.started","thread_id":"0199f1a2-0000-7000-8000-000000000000"}'
    exec sleep 120
    ;;
esac
echo '{"type":"thread.started","thread_id":"0199f1a2-0000-7000-8000-000000000000"}
{"type":"turn.started"}
{"type":"item.completed","item":{"id":"item_0","type":"agent_message","text":"hello"}}
{"type":"turn.completed","usage":{"input_tokens":9,"cached_input_tokens":0,"output_tokens":3}}'
