#!/bin/sh
# Pattern 3: three agents at once, each into a file of its own.
set -eu

for prompt in "Generate docs" "Write tests" "Run the linter"; do
  curl -sN localhost:8080/spawn -H 'content-type: application/json' \
    -d "{\"agent_type\": \"parallel\", \"prompt\": \"$prompt\", \"tools_allowed\": [\"Read\"]}" > "$prompt.txt" &
done
wait

tail -n 2 ./*.txt
