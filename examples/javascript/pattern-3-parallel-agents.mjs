// Pattern 3: parallel agents. They share nothing but the working directory.
import { result, turn } from "./turn.mjs";

const prompts = ["Generate docs", "Write tests", "Run the linter"];
const agents = prompts.map((prompt) => result(turn("/spawn", { agent_type: "parallel", prompt, tools_allowed: ["Read"] })));
for (const text of await Promise.all(agents)) console.log(text);
