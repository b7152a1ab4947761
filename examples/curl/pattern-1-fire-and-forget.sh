#!/bin/sh
# Pattern 1: the output is thrown away; the connection stays open, as a client that goes ends its run.
set -eu

curl -sS -o /dev/null localhost:8080/spawn -H 'content-type: application/json' -d '{
  "agent_type": "docs", "prompt": "Generate documentation", "tools_allowed": ["Read", "Write"]
}' &

echo "started"
wait
