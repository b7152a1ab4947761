// The other use cases. `node use-cases.mjs` does them all, `node use-cases.mjs health` one.
import { SERVER, result, turn } from "./turn.mjs";

const ask = async (path, method = "GET") => (await fetch(SERVER + path, { method })).json();

const cases = {
  // Use case 1: one turn, nothing kept.
  async oneShot() {
    const prompt = "Write a Python function for Fibonacci numbers to fibonacci.py";
    console.log(await result(turn("/spawn", { agent_type: "code_generator", prompt, tools_allowed: ["Write"] })));
  },

  // Use case 2: several turns, and a fork.
  async conversation() {
    const prompt = "Create a REST API server in Node.js with Express";
    const first = turn("/spawn", { agent_type: "coding_assistant", prompt, create_session: true });
    const { session_id } = (await first.next()).value;
    console.log(await result(first));
    console.log(await result(turn(`/message/${session_id}`, { prompt: "Add error handling middleware" })));
    const fork = { agent_type: "coding_assistant", resume_id: session_id, create_session: true };
    console.log(await result(turn("/spawn", { prompt: "Try the same with Fastify", ...fork })));
  },

  // Use case 3: the model is offered one tool and no other.
  async restrictedTools() {
    const prompt = "Review main.py and suggest improvements";
    const fence = { tools_allowed: ["Read"], flags: ["--tools=Read"] };
    console.log(await result(turn("/spawn", { agent_type: "code_reviewer", prompt, ...fence })));
  },

  // Use case 4: a text of one's own after the CLI's system prompt.
  async systemPrompt() {
    const prompt = "Write unit tests for the calculator module";
    const system_append = "You are an expert in test-driven development. Follow pytest conventions.";
    console.log(await result(turn("/spawn", { agent_type: "test_generator", prompt, system_append })));
  },

  // Use case 6: does the server answer?
  async health() {
    console.log(await ask("/health"));
  },

  // Use case 7: what is stored, what runs, and the end of it.
  async sessionsAndRuns() {
    const prompt = "Review the whole code base";
    const run = turn("/spawn", { agent_type: "reviewer", prompt, create_session: true });
    const { session_id } = (await run.next()).value;
    console.log((await ask("/sessions")).sessions.length, "stored");
    console.log((await ask("/runs")).runs.length, "live");
    console.log(await ask(`/terminate/${session_id}`, "POST"));
    console.log(await ask(`/sessions/${session_id}`, "DELETE"));
    await run.return();
  },

  // Use case 8: arguments for the CLI as they are.
  async cliFlags() {
    const flags = ["--max-turns", "5", "--model", "sonnet"];
    console.log(await result(turn("/spawn", { agent_type: "advanced", prompt: "Analyse the code base", flags })));
  },
};

const [wanted] = process.argv.slice(2);
for (const [name, run] of Object.entries(cases)) {
  if (wanted !== undefined && wanted !== name) continue;
  console.log("-", name);
  await run();
}
