// What a person does here, and what is shown of it.

import { readCost, readModel, streamAnswer } from "./api.js";
import { Picture } from "./picture.js";

const at = (id) => document.getElementById(id);
const picture = new Picture();
let model = null;
let costing = null;
let asking = null;

const key = () => at("key").value.trim();

function request() {
  const text = at("question").value;
  const detail = document.querySelector("input[name=detail]:checked").value;
  const content = [];
  if (picture.uri) content.push({ type: "image_url", image_url: { url: picture.uri, detail } });
  if (text.trim()) content.push({ type: "text", text });
  const most = at("max-tokens").valueAsNumber;
  return { model: model?.id, messages: [{ role: "user", content }], ...(most ? { max_tokens: most } : {}) };
}

function tell(id, message) {
  at(id).textContent = message;
  at(id).hidden = !message;
}

// The model's name and size. Without the key that is needed there is nothing to ask for yet.
async function meet() {
  if (document.documentElement.dataset.keys === "needed" && !key()) return false;
  if (model) return true;
  model = await readModel(key());
  at("model").textContent = `${model.id}, up to ${model.max_model_len.toLocaleString("en")} tokens`;
  return true;
}

async function showCost() {
  costing?.abort();
  tell("picture-error", "");
  const mine = (costing = new AbortController());
  const wanted = request();
  if (!picture.uri && !at("question").value.trim()) {
    at("cost").hidden = true;
    return;
  }
  try {
    if (!(await meet())) {
      tell("picture-error", "This server wants an API key.");
      return;
    }
    const cost = await readCost({ ...wanted, model: model.id }, key(), mine.signal);
    if (mine.signal.aborted) return;
    drawCost(cost);
    if (cost.pictures.length) picture.cut(cost.pictures[0]);
  } catch (error) {
    if (error.name === "AbortError" || mine.signal.aborted) return;
    picture.uncut();
    at("cost").hidden = true;
    tell("picture-error", error.message);
  }
}

function drawCost({ prompt_tokens: all, image_tokens: ofPicture, max_model_len: most }) {
  const counts = { "prompt-tokens": all, "picture-tokens": ofPicture, "text-tokens": all - ofPicture, "tokens-left": most - all };
  for (const [id, count] of Object.entries(counts)) at(id).textContent = count.toLocaleString("en");
  document.querySelector("#budget .of-picture").style.setProperty("--share", ofPicture / most);
  document.querySelector("#budget .of-text").style.setProperty("--share", (all - ofPicture) / most);
  at("budget").ariaLabel = `${all} of ${most} tokens`;
  at("cost").hidden = false;
}

async function ask() {
  if (asking) return;
  asking = new AbortController();
  const begun = performance.now();
  const seen = { begun, first: null, last: null, pieces: 0, usage: null, reason: null, id: null };
  at("answer").textContent = "";
  tell("answer-error", "");
  showTimings(seen);
  busy(true);
  try {
    if (!(await meet())) throw new Error("This server wants an API key.");
    seen.begun = performance.now();
    for await (const event of streamAnswer(request(), key(), asking.signal)) take(event, seen);
  } catch (error) {
    if (asking.signal.aborted) seen.reason = "stopped";
    else tell("answer-error", error.message);
  }
  showTimings(seen);
  busy(false);
  asking = null;
}

function take(event, seen) {
  if (event.requestId) seen.id = event.requestId;
  if (event.usage) seen.usage = event.usage;
  const [choice] = event.choices ?? [];
  if (choice?.finish_reason) seen.reason = choice.finish_reason;
  if (!choice?.delta.content) return;
  seen.pieces += 1;
  seen.last = performance.now();
  seen.first ??= seen.last;
  const answer = at("answer");
  const follows = answer.scrollTop + answer.clientHeight > answer.scrollHeight - 40;
  answer.append(choice.delta.content);
  if (follows) answer.scrollTop = answer.scrollHeight;
}

const ENDS = { stop: "It ended by itself.", length: "It was cut off at its longest.", stopped: "You stopped it." };

function showTimings({ begun, first, last, pieces, usage, reason, id }) {
  const made = usage?.completion_tokens;
  // Few pieces that come at once tell of the network, not of the model.
  const rate = pieces >= 4 ? ((made - 1) / (last - first)) * 1000 : NaN;
  at("first-token").textContent = first ? duration(first - begun) : "–";
  at("total").textContent = last ? duration(last - begun) : "–";
  at("rate").textContent = Number.isFinite(rate) ? rate.toFixed(1) : "–";
  at("counts").textContent = usage ? `${usage.prompt_tokens}, ${made}` : "–";
  at("ended").textContent = ENDS[reason] ?? "";
  at("request-id").textContent = id ?? "";
}

function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

function busy(is) {
  at("answer").ariaBusy = String(is);
  at("send").disabled = is;
  at("stop").disabled = !is;
}

async function choose(file) {
  if (!file) return;
  try {
    await picture.open(file);
  } catch (error) {
    picture.close();
    tell("picture-error", error.message);
    return;
  }
  await showCost();
}

at("answer").dataset.empty = "The answer appears here, word by word.";
at("file").addEventListener("change", () => { choose(at("file").files[0]); at("file").value = ""; });
at("remove").addEventListener("click", () => { picture.close(); showCost(); at("file").focus(); });
at("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
at("stop").addEventListener("click", () => asking?.abort());
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask();
});
for (const id of ["question", "key", "max-tokens"]) at(id).addEventListener("change", showCost);
for (const radio of document.querySelectorAll("input[name=detail]")) radio.addEventListener("change", showCost);

document.addEventListener("paste", (event) => choose(event.clipboardData.files[0]));
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") choose(event.dataTransfer.files[0]);
  });
}
meet().catch((error) => tell("answer-error", error.message));
