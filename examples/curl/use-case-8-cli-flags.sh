#!/bin/sh
# Use case 8: arguments for the CLI as they are.
set -eu

curl -N localhost:8080/spawn -H 'content-type: application/json' -d '{
  "agent_type": "advanced",
  "prompt": "Analyse the code base",
  "tools_allowed": ["Read"],
  "flags": ["--max-turns", "5", "--model", "sonnet"]
}'
