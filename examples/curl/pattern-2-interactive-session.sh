#!/bin/sh
# Pattern 2: one session, a message for each line of standard input.
set -eu

SESSION_ID=$(
  curl -sN localhost:8080/spawn -H 'content-type: application/json' -d '{
    "agent_type": "reviewer", "prompt": "Start a code review", "tools_allowed": ["Read"], "create_session": true
  }' | tee /dev/stderr | sed -n 's/.*"session_created","session_id":"\([^"]*\)".*/\1/p'
)

while read -r message; do
  jq -n --arg prompt "$message" '{prompt: $prompt, tools_allowed: ["Read"]}' |
    curl -sN "localhost:8080/message/$SESSION_ID" -H 'content-type: application/json' -d @-
done
