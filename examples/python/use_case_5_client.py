"""Use case 5: a conversation of two turns, from a program."""

from turn import result, turn

first = turn(
    "/spawn",
    agent_type="assistant",
    prompt="Create a web scraper",
    tools_allowed=["Write", "Read"],
    create_session=True,
)
session_id = next(first)["session_id"]  # session_created, always the first event
print("session", session_id)
print(result(first))

print(result(turn(f"/message/{session_id}", prompt="Now add a test", tools_allowed=["Write", "Read"])))
