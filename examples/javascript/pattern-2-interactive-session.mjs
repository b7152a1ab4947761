// Pattern 2: an interactive session. The next message may follow the terminal event at once.
import { result, turn } from "./turn.mjs";

const tools_allowed = ["Read"];
const first = turn("/spawn", { agent_type: "reviewer", prompt: "Start a code review", tools_allowed, create_session: true });
const { session_id } = (await first.next()).value;
console.log(await result(first));
for (const prompt of ["Check for security issues", "Suggest performance improvements"]) {
  console.log(await result(turn(`/message/${session_id}`, { prompt, tools_allowed })));
}
