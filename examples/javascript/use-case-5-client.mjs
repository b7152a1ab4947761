// Use case 5: a conversation of two turns, from a program.
import { result, turn } from "./turn.mjs";

const first = turn("/spawn", {
  agent_type: "assistant",
  prompt: "Create a TODO app",
  tools_allowed: ["Write", "Read"],
  create_session: true,
});
const { session_id } = (await first.next()).value; // session_created, always the first event
console.log("session", session_id);
console.log(await result(first));

console.log(await result(turn(`/message/${session_id}`, { prompt: "Add a test", tools_allowed: ["Read"] })));
