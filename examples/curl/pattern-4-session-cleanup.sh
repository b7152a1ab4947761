#!/bin/sh
# Pattern 4: give a conversation up, whether or not a turn of it is live.
set -eu

curl -sN localhost:8080/spawn -H 'content-type: application/json' -d '{
  "agent_type": "reviewer", "prompt": "Review the whole code base", "create_session": true
}' > turn.txt &
until SESSION_ID=$(sed -n 's/.*"session_created","session_id":"\([^"]*\)".*/\1/p' turn.txt) && [ "$SESSION_ID" ]; do
  sleep 0.1
done

curl -X POST "localhost:8080/terminate/$SESSION_ID"      # 404 if no turn is live: nothing to terminate
curl -X DELETE "localhost:8080/sessions/$SESSION_ID"
wait
