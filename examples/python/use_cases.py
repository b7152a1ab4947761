"""The other use cases. `python use_cases.py` does them all, `python use_cases.py health` one."""

import sys

import httpx
from turn import SERVER, result, turn


def one_shot():
    """Use case 1: one turn, nothing kept."""
    prompt = "Write a Python function for Fibonacci numbers to fibonacci.py"
    print(result(turn("/spawn", agent_type="code_generator", prompt=prompt, tools_allowed=["Write"])))


def conversation():
    """Use case 2: several turns, and a fork."""
    prompt = "Create a REST API server in Node.js with Express"
    first = turn("/spawn", agent_type="coding_assistant", prompt=prompt, create_session=True)
    session_id = next(first)["session_id"]
    print(result(first))
    print(result(turn(f"/message/{session_id}", prompt="Add error handling middleware")))
    prompt = "Try the same with Fastify"
    fork = {"resume_id": session_id, "create_session": True}
    print(result(turn("/spawn", agent_type="coding_assistant", prompt=prompt, **fork)))


def restricted_tools():
    """Use case 3: the model is offered one tool and no other."""
    prompt = "Review main.py and suggest improvements"
    fence = {"tools_allowed": ["Read"], "flags": ["--tools=Read"]}
    print(result(turn("/spawn", agent_type="code_reviewer", prompt=prompt, **fence)))


def system_prompt():
    """Use case 4: a text of one's own after the CLI's system prompt."""
    prompt = "Write unit tests for the calculator module"
    append = "You are an expert in test-driven development. Follow pytest conventions."
    print(result(turn("/spawn", agent_type="test_generator", prompt=prompt, system_append=append)))


def health():
    """Use case 6: does the server answer?"""
    print(httpx.get(f"{SERVER}/health", timeout=30).raise_for_status().json())


def sessions_and_runs():
    """Use case 7: what is stored, what runs, and the end of it."""
    run = turn("/spawn", agent_type="reviewer", prompt="Review the whole code base", create_session=True)
    session_id = next(run)["session_id"]
    print(len(httpx.get(f"{SERVER}/sessions", timeout=30).json()["sessions"]), "stored")
    print(len(httpx.get(f"{SERVER}/runs", timeout=30).json()["runs"]), "live")
    print(httpx.post(f"{SERVER}/terminate/{session_id}", timeout=30).json())
    print(httpx.delete(f"{SERVER}/sessions/{session_id}", timeout=30).json())
    run.close()


def cli_flags():
    """Use case 8: arguments for the CLI as they are."""
    flags = ["--max-turns", "5", "--model", "sonnet"]
    print(result(turn("/spawn", agent_type="advanced", prompt="Analyse the code base", flags=flags)))


CASES = [one_shot, conversation, restricted_tools, system_prompt, health, sessions_and_runs, cli_flags]
for case in CASES:
    if sys.argv[1:] in ([], [case.__name__]):
        print(f"- {case.__doc__}")
        case()
