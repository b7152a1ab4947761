#!/bin/sh
# Use case 3: the model is offered one tool and no other.
set -eu

curl -N localhost:8080/spawn -H 'content-type: application/json' -d '{
  "agent_type": "code_reviewer",
  "prompt": "Review main.py and suggest improvements",
  "tools_allowed": ["Read"],
  "flags": ["--tools=Read"]
}'
