// Use case 5: a client in JavaScript, in the guide's way: `fetch` and a reader. An event may span
// two reads, and so may a character: the text is decoded as a stream, and only whole lines are parsed.
// `localhost:8080` is replaced by the test; whoever reads this may run it as it stands.

const SERVER = "http://localhost:8080";

async function run(path, body) {
  const response = await fetch(SERVER + path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);

  const decoder = new TextDecoder();
  let sessionId = null;
  let rest = "";
  for await (const bytes of response.body) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      const event = JSON.parse(line.slice(6));
      if (event.type === "session_created") {
        sessionId = event.session_id;
        console.log("Session:", sessionId);
      } else if (event.type === "output") {
        console.log("Claude:", JSON.stringify(JSON.parse(event.data)));
      } else if (event.type === "completed") {
        console.log("Done!");
      }
    }
  }
  return sessionId;
}

const sessionId = await run("/spawn", {
  agent_type: "assistant",
  prompt: "Create a TODO app",
  tools_allowed: ["Write", "Read"],
  create_session: true,
});
await run(`/message/${sessionId}`, { prompt: "Add a test", tools_allowed: ["Read"] });
