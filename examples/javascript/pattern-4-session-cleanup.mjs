// Pattern 4: give a conversation up, whether or not a turn of it is live.
import { SERVER, turn } from "./turn.mjs";

const body = { agent_type: "reviewer", prompt: "Review the whole code base", create_session: true };
const run = turn("/spawn", body);
const { session_id } = (await run.next()).value;

const response = await fetch(`${SERVER}/terminate/${session_id}`, { method: "POST" });
const answer = await response.json();
if (response.status === 200) console.log(answer.code, answer.killed);
else if (response.status === 404) console.log("no turn was live");
await fetch(`${SERVER}/sessions/${session_id}`, { method: "DELETE" });
await run.return();
