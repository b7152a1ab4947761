// A client in one function, for Node 18 and newer and for browsers.

export const SERVER = "http://localhost:8080";

export async function* turn(path, body, signal) {
  const response = await fetch(SERVER + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  if (!response.ok) throw new Error(`${response.status} ${(await response.json()).error}`);

  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = ""; // an event may span two reads, and so may a character
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Error("the stream was cut");
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ")) continue; // a blank line, or a heartbeat
        const event = JSON.parse(line.slice("data: ".length));
        if (event.type === "error") throw Object.assign(new Error(event.error), { event });
        yield event;
        if (event.type === "completed") return;
      }
    }
  } finally {
    await reader.cancel(); // leaving the loop closes the connection, which ends the run
  }
}

/** The text of the CLI's result line. */
export async function result(events) {
  let text;
  for await (const event of events) {
    if (event.type !== "output" || !event.data.startsWith("{")) continue;
    const line = JSON.parse(event.data);
    if (line.type === "result") text = line.result;
  }
  return text;
}
