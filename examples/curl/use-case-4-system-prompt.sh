#!/bin/sh
# Use case 4: a text of one's own after the CLI's system prompt.
set -eu

curl -N localhost:8080/spawn -H 'content-type: application/json' -d '{
  "agent_type": "test_generator",
  "prompt": "Write unit tests for the calculator module",
  "tools_allowed": ["Read", "Write"],
  "system_append": "You are an expert in test-driven development. Follow pytest conventions."
}'
