"""Use case 5: a client in Python, in the guide's way: `requests`, `iter_lines`, the prefix cut off.

`localhost:8080` is replaced by the test; whoever reads this may run it as it stands.
"""

import json

import requests

SERVER = "http://localhost:8080"


def spawn_agent(prompt, tools=None, create_session=False):
    """Run one turn, print what happens, and return the session's id if one was asked for."""
    response = requests.post(
        f"{SERVER}/spawn",
        json={
            "agent_type": "assistant",
            "prompt": prompt,
            "tools_allowed": tools or [],
            "create_session": create_session,
        },
        stream=True,
    )
    session_id = None
    for line in response.iter_lines():
        if not line.startswith(b"data: "):
            continue
        event = json.loads(line[6:])
        if event["type"] == "session_created":
            session_id = event["session_id"]
            print(f"Session: {session_id}")
        elif event["type"] == "output":
            print(f"Claude: {json.loads(event['data'])}")
        elif event["type"] == "completed":
            print("Done!")
    return session_id


spawn_agent("Create a web scraper", tools=["Write", "Read"], create_session=True)
