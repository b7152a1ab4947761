"""Pattern 4: give a conversation up, whether or not a turn of it is live."""

import httpx
from turn import SERVER, turn

run = turn("/spawn", agent_type="reviewer", prompt="Review the whole code base", create_session=True)
session_id = next(run)["session_id"]

answer = httpx.post(f"{SERVER}/terminate/{session_id}", timeout=30)
if answer.status_code == 200:
    print(answer.json()["code"], answer.json()["killed"])
elif answer.status_code == 404:
    print("no turn was live")
httpx.delete(f"{SERVER}/sessions/{session_id}", timeout=30).raise_for_status()
run.close()
