"""An agent that answers with its prompt and the number of the turn, so that no answer fits another prompt.

It is a shell script, as many of it are started. It speaks like Claude Code or Codex, goes on with its own
conversations, and counts each time that it was started for a prompt.
"""

import shutil
from itertools import count
from pathlib import Path

from clinvk.types.events import Usage
from scripted import Scripted

A_TURN = Usage(input_tokens=12, output_tokens=5, cached_tokens=2)
"""What one turn takes. Claude Code tells that of the turn, Codex that of the conversation so far."""

_SCRIPT = """\
#!/bin/sh
# The prompt: a name of 12 digits, and the seconds that the answer takes.
here=${0%/*}
if [ "$1" = --version ]; then echo '9.9.9 (echo)'; exit; fi
thread=
prompt() { line=${line##*'"text":"'}; line=${line%%'"'*}; }
result() { id=${line#'{"id":'}; echo '{"id":'"${id%%,*}"',"result":{'"$1"'}}'; }
notify() { echo '{"method":"'"$1"'","params":{"threadId":"'$thread'","turnId":"turn",'"$2"'}}'; }
if [ "$1" = app-server ]; then
    while read -r line; do
        case $line in
            *'"method":"initialize"'*) result ;;
            *'"method":"config/read"'*) result '"config":{}' ;;
            *'"method":"thread/start"'*) read -r thread < /proc/sys/kernel/random/uuid ;;
            *'"method":"thread/resume"'*) thread=${line##*'"threadId":"'}; thread=${thread%%'"'*} ;;
            *'"method":"turn/start"'*) result '"turn":{"id":"turn","status":"inProgress"}'; prompt; break ;;
        esac
        case $line in *'"method":"thread/'*) result '"thread":{"id":"'$thread'"},"model":"codex-echo"' ;; esac
    done
else
    for word do
        case $word in --resume=*) thread=${word#--resume=} ;; esac
    done
    read -r line
    case $line in '{"type":"control_request"'*) read -r line; prompt ;; esac
fi
read -r name seconds <<END
$line
END
[ "$name" ] || exit 1
echo "$name" >> "$here/prompts"
thread=${thread:-00000000-0000-4000-8000-$name}
echo "$name" >> "$here/$thread"
turn=0
while read -r _; do turn=$((turn + 1)); done < "$here/$thread"
trap 'exit 130' INT TERM
think() {
    "$here/sleep" "$seconds" &
    wait $!
}
"""

_CLAUDE = """
head='"type":"message","role":"assistant","model":"claude-echo"'
usage='"input_tokens":10,"cache_read_input_tokens":2,"output_tokens":5'
event() { echo '{"type":"stream_event","event":{"type":'"$1"'}}'; }
piece() {
    event '"content_block_delta","index":0,"delta":{"type":"text_delta","text":"'"$1"'"}'
}
echo '{"type":"system","subtype":"init","session_id":"'$thread'","model":"claude-echo"}'
event '"message_start","message":{"id":"m",'$head',"content":[]}'
event '"content_block_start","index":0,"content_block":{"type":"text","text":""}'
piece "$name "
think
piece "turn $turn"
echo '{"type":"assistant","message":{"id":"m",'$head',"content":[{"type":"text","text":"'$name turn $turn'"}]}}'
echo '{"type":"result","subtype":"success","is_error":false,"num_turns":1,"result":"'$name turn $turn'",' \\
    '"stop_reason":"end_turn","session_id":"'$thread'","usage":{'$usage'}}'
"""

_CODEX = """
count() { echo '{"inputTokens":'$((12 * $1))',"cachedInputTokens":'$((2 * $1))',"outputTokens":'$((5 * $1))'}'; }
notify turn/started '"turn":{"id":"turn","status":"inProgress"}'
think
notify item/completed '"item":{"type":"agentMessage","id":"0","text":"'"$name turn $turn"'"}'
notify thread/tokenUsage/updated '"tokenUsage":{"total":'"$(count $turn)"',"last":'"$(count 1)"'}'
notify turn/completed '"turn":{"id":"turn","status":"completed","error":null}'
"""


class Echo(Scripted):
    """The agent, installed in a folder as `claude` and `codex`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, names=())
        (folder / "sleep").symlink_to(shutil.which("sleep") or "/bin/sleep")  # so that `alive` finds it
        for name, speech in (("claude", _CLAUDE), ("codex", _CODEX)):
            executable = folder / name
            executable.write_text(_SCRIPT + speech)
            executable.chmod(0o755)
        self._numbers = count(1)

    def name(self) -> str:
        """Return a name that no prompt has had."""
        return f"{next(self._numbers):012}"

    def prompts(self) -> list[str]:
        """Return the names of the prompts that the agent was started for, once for each time."""
        file = self.folder / "prompts"
        return file.read_text().split() if file.exists() else []


def answer(name: str, turn: int = 1) -> str:
    """Return the answer to a prompt."""
    return f"{name} turn {turn}"
