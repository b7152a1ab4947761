#!/bin/sh
# Use case 7: what is stored, what runs, and the end of it.
set -eu

# Something to look at: a turn in the background, and its session's id.
curl -sN localhost:8080/spawn -H 'content-type: application/json' -d '{
  "agent_type": "reviewer", "prompt": "Review the whole code base", "create_session": true
}' > turn.txt &
until SESSION_ID=$(sed -n 's/.*"session_created","session_id":"\([^"]*\)".*/\1/p' turn.txt) && [ "$SESSION_ID" ]; do
  sleep 0.1
done

curl localhost:8080/sessions                             # the stored sessions
curl localhost:8080/runs                                 # the live runs
curl -X POST "localhost:8080/terminate/$SESSION_ID"      # end a session's live run; also takes a run's id
curl -X DELETE "localhost:8080/sessions/$SESSION_ID"     # forget a session

wait
cat turn.txt
