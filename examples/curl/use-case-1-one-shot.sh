#!/bin/sh
# Use case 1: one turn, nothing kept.
set -eu

curl -N localhost:8080/spawn -H 'content-type: application/json' -d '{
  "agent_type": "code_generator",
  "prompt": "Write a Python function for Fibonacci numbers to fibonacci.py",
  "tools_allowed": ["Write"],
  "create_session": false
}'
