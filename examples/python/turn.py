"""A client in one function, with httpx: `pip install httpx`."""

import json

import httpx

SERVER = "http://localhost:8080"


class RunFailed(Exception):
    """The run ended with an error event; `event` has its code."""

    def __init__(self, event):
        super().__init__(event["error"])
        self.event = event


def turn(path, **body):
    """Do a turn: yield its events up to `completed`, and raise whatever else ends it."""
    timeout = httpx.Timeout(5, read=60)  # four heartbeats
    with httpx.stream("POST", SERVER + path, json=body, timeout=timeout) as response:
        if response.status_code != 200:
            response.read()
            raise RuntimeError(f"{response.status_code} {response.json()['error']}")
        for line in response.iter_lines():
            if not line.startswith("data: "):
                continue  # a blank line, or a heartbeat
            event = json.loads(line.removeprefix("data: "))
            if event["type"] == "error":
                raise RunFailed(event)
            yield event
            if event["type"] == "completed":
                return
    raise RuntimeError("the stream was cut")


def result(events):
    """The text of the CLI's result line."""
    for event in events:
        if event["type"] == "output" and event["data"].startswith("{"):
            line = json.loads(event["data"])
            if line["type"] == "result":
                text = line["result"]
    return text
