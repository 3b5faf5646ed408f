// The gateway's API as far as this page uses it. An error's message is the API's own.

export async function readModel(key) {
  const listed = await (await call("v1/models", { key })).json();
  return listed.data[0];
}

// What `request` would cost: tokens, and how its pictures are cut.
export async function readCost(request, key, signal) {
  return (await call("v1/chat/prompt", { body: request, key, signal })).json();
}

// The request's id, and then each event of its answer.
export async function* streamAnswer(request, key, signal) {
  const body = { ...request, stream: true, stream_options: { include_usage: true } };
  const response = await call("v1/chat/completions", { body, key, signal });
  yield { requestId: response.headers.get("x-request-id") };
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let unread = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The connection ended before the answer did.");
    const events = (unread + value).split("\n\n");
    unread = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const parsed = JSON.parse(data);
      if (parsed.error) throw new Error(parsed.error.message);
      yield parsed;
    }
  }
}

async function call(path, { body, key, signal }) {
  const headers = {};
  if (body) headers["content-type"] = "application/json";
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET", body: body && JSON.stringify(body), headers, signal, credentials: "omit",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached.");
  }
  if (!response.ok) throw new Error(await said(response));
  return response;
}

async function said(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered with status ${response.status}.`;
  }
}
