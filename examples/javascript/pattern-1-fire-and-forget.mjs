// Pattern 1: fire and forget. The connection stays open, as a client that goes ends its run.
import { result, turn } from "./turn.mjs";

const body = { agent_type: "docs", prompt: "Generate documentation", tools_allowed: ["Read", "Write"] };
result(turn("/spawn", body)).catch(console.error); // not awaited; node stays until the run has ended
console.log("started");
