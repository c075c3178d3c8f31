#!/usr/bin/env bash
# Makes the pictures of the README by running the demo in a terminal and opening TensorBoard on it.
# Needs lightning-doctor[test] on the PATH (an active environment), tmux, chromium and chromedriver.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
assets=$PWD
work=$(mktemp -d)
columns=100

cleanup() {
  tmux -L lightning-doctor kill-server 2>/dev/null || true
  [ -z "${board:-}" ] || kill "$board" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

photograph() { # WIDTH HEIGHT PNG ADDRESS
  chromium --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --hide-scrollbars --virtual-time-budget=20000 \
    --user-data-dir="$work/chromium" --window-size="$1,$2" --screenshot="$assets/$3" "$4" >"$work/chromium.log" 2>&1
}

# A real terminal: capture-pane gives what is on the screen when the demo is done, colours and all.
cd "$work"
tmux -L lightning-doctor -f /dev/null new-session -d -x "$columns" -y 80 \
  "env TERM=screen-256color PS1='$ ' bash --norc --noprofile"
tmux -L lightning-doctor send-keys 'clear; lightning-doctor demo; touch done' Enter
timeout 300 bash -c 'until [ -e done ]; do sleep 1; done'
tmux -L lightning-doctor capture-pane -e -p >screen.ansi

python - "$columns" <<'PYTHON'
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

lines = Path("screen.ansi").read_text().rstrip().split("\n")
# From the command on, without the empty rest of the screen and the prompt that waits for the next command.
first = next(i for i, line in enumerate(lines) if "Loading PyTorch" in line)
shown = ["$ lightning-doctor demo", *lines[first:]]
while not re.sub(r"\x1b\[[0-9;]*m", "", shown[-1]).strip(" $"):
    shown.pop()
console = Console(record=True, width=int(sys.argv[1]), file=open("/dev/null", "w"), force_terminal=True)
console.print(Text.from_ansi("\n".join(shown)), soft_wrap=True)
page = """<meta charset="utf-8"><style>body {{ margin: 0; background: {background} }}
pre {{ margin: 14px; font: 14px/17px "DejaVu Sans Mono", monospace; color: {foreground} }}</style>
<pre>{code}</pre>"""
Path("screen.html").write_text(console.export_html(theme=MONOKAI, code_format=page, inline_styles=True))
Path("height").write_text(str(len(shown) * 17 + 28))
PYTHON
photograph 880 "$(cat height)" terminal.png "file://$work/screen.html"

tensorboard --logdir doctor_demo/memorizing_sick --host 127.0.0.1 --port 6123 >tensorboard.log 2>&1 &
board=$!
timeout 60 bash -c 'until (exec 3<>/dev/tcp/127.0.0.1/6123) 2>/dev/null; do sleep 1; done'
photograph 1360 640 tensorboard.png "http://127.0.0.1:6123/#text"
python "$assets/tab.py" doctor_demo
ls -l "$assets"/*.png
