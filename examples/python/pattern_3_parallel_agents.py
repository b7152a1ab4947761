"""Pattern 3: parallel agents. They share nothing but the working directory."""

from concurrent.futures import ThreadPoolExecutor

from turn import result, turn


def do(prompt):
    """One agent, one turn."""
    return result(turn("/spawn", agent_type="parallel", prompt=prompt, tools_allowed=["Read"]))


with ThreadPoolExecutor(3) as pool:
    for text in pool.map(do, ["Generate docs", "Write tests", "Run the linter"]):
        print(text)
