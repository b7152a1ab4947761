"""Pattern 2: an interactive session. The next message may follow the terminal event at once."""

from turn import result, turn

first = turn(
    "/spawn", agent_type="reviewer", prompt="Start a code review", tools_allowed=["Read"], create_session=True
)
session_id = next(first)["session_id"]
print(result(first))
for message in "Check for security issues", "Suggest performance improvements":
    print(result(turn(f"/message/{session_id}", prompt=message, tools_allowed=["Read"])))
