#!/bin/sh
# Use case 2: a conversation of several turns, and a fork of it.
set -eu

SESSION_ID=$(
  curl -sN localhost:8080/spawn -H 'content-type: application/json' -d '{
    "agent_type": "coding_assistant",
    "prompt": "Create a REST API server in Node.js with Express",
    "tools_allowed": ["Write", "Read"],
    "create_session": true
  }' | tee /dev/stderr | sed -n 's/.*"session_created","session_id":"\([^"]*\)".*/\1/p'
)

curl -N "localhost:8080/message/$SESSION_ID" -H 'content-type: application/json' -d '{
  "prompt": "Add error handling middleware",
  "tools_allowed": ["Write", "Read"]
}'

curl -N localhost:8080/spawn -H 'content-type: application/json' -d '{
  "agent_type": "coding_assistant",
  "prompt": "Try the same with Fastify",
  "resume_id": "'"$SESSION_ID"'",
  "create_session": true
}'
