"use strict";

// The recording has, for each server, a list of frames: one for each system call, and one at each
// point of rest. A frame says only what is not as in the frame before it; whole() completes them.

const recording = JSON.parse(document.getElementById("recording").textContent);
const { steps, questions, sizes } = recording;
const servers = recording.stages.map(stage => ({ ...stage, frames: whole(stage.frames) }));
const WAITS = new Set(["select", "poll", "epoll_wait"]);
const ERRORS = { 4: "EINTR", 11: "EAGAIN", 32: "EPIPE", 104: "ECONNRESET" };
const WORDS = {
  silent: "silent", answered: "answered", waits: "waits", "reads not": "not reading",
  "cut off": "cut off", left: "has left",
};
const OPERATIONS = { 1: "ADD", 2: "DEL", 3: "MOD" };
const EPOLLIN = 1, EPOLLOUT = 4, EPOLLET = 0x80000000;
const PACE = 700;  // milliseconds for one call while it plays
const CROWDS = [0, 10, 50, 100, 500, 1000, 1017, 1018, 2000, 5000, 10000, 20000, 50000, 100000];

const state = {
  shown: new Set([1, 4, 5, 7]),  // which servers
  at: 0,  // the place in `places`
  places: [],  // [step, call]: as many calls as the busiest of the servers shown makes in a step
  said: new Map(),  // step before which was asked: {stage: will it still answer?}
  timer: 0,
};

function whole(frames) {
  let kept = {}, clients = {};
  return frames.map(frame => {
    for (const [who, news] of Object.entries(frame.clients ?? {}))
      clients = { ...clients, [who]: { ...clients[who], ...news } };
    for (const key of ["queue", "list", "epoll", "handed"])
      if (key in frame) kept = { ...kept, [key]: frame[key] };
    return { ...frame, ...kept, clients };
  });
}

// ---- Small things -------------------------------------------------------------------------------

const find = id => document.getElementById(id);

// An element: h("p", { className: "quiet" }, "text", h("b", {}, "more")). "" and 0 add nothing.
function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties))
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  element.append(...children.filter(Boolean));
  return element;
}

const number = n => n.toLocaleString("en-US");

function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 1024 * 1024) return `${Math.round(bytes / 1024)} KiB`;
  return `${Math.round(bytes / 1024 / 102.4) / 10} MiB`;
}

// How long a bar is, in percent: logarithmic, full at 4 MiB.
const share = bytes => bytes && Math.min(100, 8 + 92 * Math.log2(1 + bytes) / 22);

// ---- Where we are -------------------------------------------------------------------------------

const shownServers = () => servers.filter(server => state.shown.has(server.stage));
const framesOf = (server, step) => server.frames.filter(frame => frame.step === step);

function layOut() {
  state.places = steps.flatMap((_, step) => {
    const calls = Math.max(...shownServers().map(server => framesOf(server, step).length));
    return Array.from({ length: calls }, (_, call) => [step, call]);
  });
  find("scrubber").max = state.places.length - 1;
}

// The place of a call in a step, of its last one if there are not so many.
function placeOf(step, call = Infinity) {
  const first = state.places.findIndex(place => place[0] === step);
  const last = state.places.findLastIndex(place => place[0] === step);
  return Math.min(first + call, last);
}

// A server that has nothing more to do in this step rests at its last frame.
function frameAt(server, [step, call]) {
  const frames = framesOf(server, step);
  return frames[Math.min(call, frames.length - 1)];
}

// #stages=4,5&step=6 is the end of step 6; &call=2 a call within it.
function readLink() {
  const link = new URLSearchParams(location.hash.slice(1));
  const stages = (link.get("stages") ?? "").split(",").map(Number)
    .filter(stage => servers.some(server => server.stage === stage));
  if (stages.length) state.shown = new Set(stages);
  layOut();
  const step = Number(link.get("step")), call = link.get("call");
  if (!link.has("step") || !(step in steps)) state.at = 0;
  else state.at = placeOf(step, call === null ? Infinity : Math.max(0, Number(call) || 0));
}

function linkTo(step, call) {
  const stages = [...state.shown].sort().join(",");
  return `#stages=${stages}&step=${step}` + (call === undefined ? "" : `&call=${call}`);
}

function go(at) {
  at = Math.max(0, Math.min(state.places.length - 1, at));
  const question = at > state.at && unasked(state.places[state.at][0], state.places[at][0]);
  if (question) return ask(question, at);
  state.at = at;
  draw();
}

function goStep(by) {
  const [step, call] = state.places[state.at];
  const target = by < 0 && call > 0 ? step : step + by;
  if (target < 0) return go(0);
  if (target >= steps.length) return go(state.places.length - 1);
  go(placeOf(target, 0));
}

// ---- Drawing ------------------------------------------------------------------------------------

function draw() {
  const [step, call] = state.places[state.at];
  const last = state.at === placeOf(step);
  history.replaceState(null, "", linkTo(step, last ? undefined : call));
  document.body.dataset.step = step;
  find("step-title").textContent = `${step}. ${steps[step].title}`;
  find("step-what").textContent = steps[step].what;
  find("scrubber").value = state.at;
  find("scrubber").setAttribute("aria-valuetext", `step ${step}, call ${call}`);
  find("position").textContent = `${state.at + 1} of ${state.places.length}`;
  for (const link of find("story").querySelectorAll("a")) {
    const current = Number(link.dataset.step) === step;
    link.href = linkTo(link.dataset.step, 0);
    if (current) link.setAttribute("aria-current", "step");
    else link.removeAttribute("aria-current");
  }
  for (const box of find("stages").querySelectorAll("input"))
    box.checked = state.shown.has(Number(box.value));
  const cards = shownServers().map(server => card(server, frameAt(server, [step, call])));
  find("cards").replaceChildren(...cards);
  if (!state.timer) find("status").textContent = `Step ${step}, ${steps[step].title}. ` +
    cards.map(one => one.getAttribute("aria-label")).join(". ");
}

function card(server, frame) {
  const names = namesOf(server, frame);
  const { text, below, kind } = now(server, frame, names);
  const said = text.map(part => part.textContent ?? part).join("");
  return h("article", {
    "aria-label": `${server.name}: ${said}`, "data-stage": server.stage, "data-rest": restOf(frame),
  },
    h("header", {}, h("h3", {}, server.name), h("span", {}, recording.new[server.stage])),
    h("p", { className: `now ${kind}` }, ...text, below && h("small", {}, below)),
    h("div", { className: "kernel" },
      queue(frame), clients(server, frame, names), interest(frame, names)),
    verdict(server, frame));
}

// For the tests: the call that a server rests in, "-" when it has ended, "" when it does not rest.
function restOf({ asleep, ended }) {
  return ended ? "-" : asleep ? asleep.name : "";
}

const frameBefore = (server, frame) => server.frames[server.frames.indexOf(frame) - 1];

// {descriptor: whose it is} at this moment.
function namesOf(server, frame) {
  const names = { ...server.named, [server.listener]: "listener" };
  for (const [who, client] of Object.entries(frame.clients))
    if (client.fd !== null) names[client.fd] = who;
  return names;
}

const label = (fd, names) => names[fd] ? `${names[fd]} (${fd})` : `${fd}`;

// What the server does: the parts of a text, a line below it, and how it is marked.
function now(server, frame, names) {
  if (frame.ended)
    return { text: ["■ it has ended: ", h("b", {}, frame.ended)], kind: "ended" };
  if (frame.asleep)
    return { text: ["☾ sleeps in ", ...sleep(frame.asleep, names)], kind: "asleep" };
  if (frame.act) {
    const below = frame.step ? "meanwhile, this is what the clients have done" : "";
    const before = frameBefore(server, frame);
    if (before?.ended) return { text: ["■ it has ended"], below, kind: "ended" };
    const text = before ? ["☾ slept in ", ...sleep(before.asleep, names)] : ["☾ it listens"];
    return { text, below, kind: "asleep" };
  }
  const who = whose(server, frame, names);
  const text = ["▶ ", h("code", {}, callText(frame.call)), who && `, for ${who}`];
  return { text, below: more(frame, names), kind: "awake" };
}

function sleep({ name, fd }, names) {
  const call = h("code", {}, `${name}(${fd ?? ""})`);
  if (WAITS.has(name)) return [call, ", for all of them"];
  if (names[fd] === "listener") return [call, ", for the next to connect"];
  return names[fd] ? [call, h("b", {}, `, for ${names[fd]} alone`)] : [call];
}

// Whose sake a call is for: "A" to "D", or "". Who is closed by it has a descriptor no more.
function whose(server, frame, names) {
  const { name, fd, result } = frame.call;
  if (name === "accept4") return names[result] ?? "";
  const who = names[fd] ?? namesOf(server, frameBefore(server, frame))[fd];
  return who in frame.clients ? who : "";
}

function callText({ name, fd, size, result }) {
  const inside = name === "epoll_ctl" ? `${OPERATIONS[size]}, ${fd}` :
    name === "send" ? `${fd}, ${number(size)}` : fd ?? "";
  const outcome = result < 0 ? `−1 ${ERRORS[-result] ?? -result}` : number(result);
  return `${name}(${inside}) = ${outcome}`;
}

function more({ call, times, moved }, names) {
  const parts = [];
  if (times > 1) parts.push(`the last of ${number(times)} like it`);
  if (moved) parts.push(`${size(moved)} in all`);
  if (call.ready?.length) parts.push(`ready: ${call.ready.map(fd => label(fd, names)).join(", ")}`);
  return parts.join(", ");
}

function queue(frame) {
  const waiting = Object.keys(frame.clients).filter(who => frame.clients[who].queued);
  return h("p", { "data-queue": frame.queue }, "accept queue: ", frame.queue ? "" : "empty",
    ...waiting.map(who => h("span", { className: "slot" }, who)));
}

function clients(server, frame, names) {
  const everyone = Object.entries(frame.clients);
  if (!everyone.length) return h("p", { className: "quiet" }, "no clients yet");
  const active = frame.call && whose(server, frame, names);
  const heads = ["client", "fd", "receive buffer", "held", "send buffer"];
  return h("table", {}, h("col", { className: "client" }), h("col", { className: "fd" }),
    h("thead", {}, h("tr", {}, ...heads.map(text => h("th", { scope: "col" }, text)))),
    h("tbody", {}, ...everyone.map(([who, client]) => clientRow(who, client, who === active))));
}

function clientRow(who, client, active) {
  const kind = client.state.split(" ")[0];
  return h("tr", {
    className: active ? `${kind} active` : kind, "data-client": who, "data-state": client.state,
  },
    h("th", { scope: "row" },
      h("span", { className: "who" }, who), h("span", { className: "state" }, WORDS[client.state]),
      client.queued ? h("small", {}, "in the accept queue") :
        client.all > 0 && h("small", {}, `got ${size(client.got)} of ${size(client.all)}`)),
    h("td", {}, `${client.fd ?? "–"}`),
    bytes("in", client.in), bytes("held", client.held), bytes("out", client.out));
}

function bytes(kind, count) {
  const title = `${number(count)} bytes`;
  return h("td", { className: `bytes ${kind}`, "data-bytes": count, title },
    h("span", { style: `--share: ${share(count)}%` }, count && size(count)));
}

// The interest list, or what was handed to select() or poll() the last time.
function interest(frame, names) {
  if (frame.ended) return "";
  if (!frame.list) return h("p", { className: "quiet" }, "no list: it asks one socket at a time");
  const edge = frame.list.some(([, events]) => events & EPOLLET) ? ", edge-triggered" : "";
  const title = frame.epoll !== null ? `interest list, in the kernel${edge}: ` :
    `handed in anew for each wait, ${number(frame.handed)} bytes: `;
  return h("p", {}, title, ...frame.list.map(([fd, events]) => chip(fd, events, frame, names)));
}

function chip(fd, events, frame, names) {
  const readable = events & EPOLLIN && isReadable(frame, names[fd]);
  const out = frame.epoll !== null && events & EPOLLOUT ? " +OUT" : "";
  const paused = events & EPOLLIN ? "" : " −IN";
  return h("span", { className: readable ? "chip readable" : "chip" },
    readable && "● ", label(fd, names), out, paused,
    readable && h("span", { className: "spoken" }, " readable"));
}

// Derived: the kernel does not show its ready list.
function isReadable(frame, name) {
  if (name === "listener") return frame.queue > 0;
  const client = frame.clients[name];
  return Boolean(client && (client.in > 0 || client.end));
}

// ---- Ask me first -------------------------------------------------------------------------------

function unasked(from, to) {
  if (!find("ask").checked) return undefined;
  return questions.find(({ before }) => from < before && before <= to && !state.said.has(before));
}

function ask(question, then) {
  stop();
  find("question-text").textContent = question.text;
  find("answers").replaceChildren(...shownServers().map(({ stage, name }) =>
    h("label", { className: "option" }, h("input", { type: "checkbox", value: stage }), name)));
  const dialog = find("question");
  dialog.returnValue = "";
  dialog.addEventListener("close", () => {
    const boxes = [...find("answers").querySelectorAll("input")];
    state.said.set(question.before, dialog.returnValue !== "answer" ? new Map() :
      new Map(boxes.map(box => [Number(box.value), box.checked])));
    go(then);
  }, { once: true });
  dialog.showModal();
}

// At rest in the step that answers a question: was the reader right?
function verdict(server, frame) {
  const question = questions.find(({ reveal }) => reveal === frame.step);
  const said = state.said.get(question?.before)?.get(server.stage);
  if (said === undefined || !restOf(frame)) return "";
  const answered = frame.clients[question.client].state === "answered";
  const right = said === answered;
  return h("p", { className: `verdict ${right ? "right" : "wrong"}` },
    right ? "✓ You said so: " : "✕ You said otherwise: ",
    `${question.client} is ${answered ? "" : "not "}answered.`);
}

// ---- Silent clients ------------------------------------------------------------------------------

// What the kernel is handed for one wait beside N silent clients, from the sizes of the structures.
function prices(silent) {
  const watched = silent + 4;  // the listener, A, B and C
  const room = sizes.FD_SETSIZE - 3;  // 0, 1 and 2 are taken
  const set = Math.min(sizes.fd_set, Math.ceil((watched + 3) / 64) * 8);  // in words of 64 bits
  const refused = watched - room;
  return [
    { call: "select", handed: set, through: Math.min(watched, room),
      why: refused > 0 ? `a set has room for ${number(sizes.FD_SETSIZE)} descriptors: `
        + `${number(refused)} refused` : "a bit for each descriptor, in whole words" },
    { call: "poll", handed: watched * sizes.pollfd, through: watched,
      why: `${sizes.pollfd} bytes for each descriptor` },
    { call: "epoll_wait", handed: 0, through: 0, why: "the list is in the kernel; "
      + `${sizes.epoll_event} bytes come back for each descriptor that is ready` },
  ];
}

function drawPrices() {
  const silent = `${number(CROWDS[find("crowd").value])} silent clients`;
  find("crowd-count").textContent = silent;
  find("crowd").setAttribute("aria-valuetext", silent);
  find("prices").replaceChildren(...prices(CROWDS[find("crowd").value]).map(price =>
    h("tr", { "data-call": price.call, "data-handed": price.handed },
      h("th", { scope: "row" }, h("code", {}, `${price.call}()`)),
      h("td", { className: "bytes in" }, h("span", { style: `--share: ${share(price.handed)}%` },
        price.handed ? `${number(price.handed)} bytes` : "nothing")),
      h("td", {}, price.through ? `${number(price.through)} descriptors` : "none",
        h("small", {}, price.why)))));
}

// ---- Playing ------------------------------------------------------------------------------------

function stop() {
  clearInterval(state.timer);
  state.timer = 0;
  find("play").textContent = "play";
  find("play").setAttribute("aria-pressed", "false");
}

function play() {
  if (state.timer) {
    stop();
    return draw();  // and say where we are
  }
  const end = state.places.length - 1;
  if (state.at === end) go(0);
  state.timer = setInterval(() => state.at < end ? go(state.at + 1) : stop(), PACE);
  find("play").textContent = "pause";
  find("play").setAttribute("aria-pressed", "true");
}

function toggle(stage) {
  const place = state.places[state.at];
  const last = state.at === placeOf(place[0]);
  if (!state.shown.delete(stage)) state.shown.add(stage);
  if (!state.shown.size) state.shown.add(stage);  // one is always shown
  layOut();
  state.at = placeOf(place[0], last ? Infinity : place[1]);
  draw();
}

const KEYS = {
  ArrowRight: event => event.shiftKey ? goStep(1) : go(state.at + 1),
  ArrowLeft: event => event.shiftKey ? goStep(-1) : go(state.at - 1),
  Home: () => go(0),
  End: () => go(state.places.length - 1),
  p: play,
};

function onKey(event) {
  const { target, key } = event;
  if (event.ctrlKey || event.altKey || event.metaKey || find("question").open) return;
  if (target.matches("input[type=range]")) return;  // it has its own arrows
  const act = KEYS[key] ?? KEYS[key.toLowerCase()]
    ?? (servers.some(server => `${server.stage}` === key) ? () => toggle(Number(key)) : null);
  if (!act) return;
  event.preventDefault();
  act(event);
}

// ---- Setting it up ------------------------------------------------------------------------------

find("story").append(...steps.map((step, index) =>
  h("li", {}, h("a", { href: "#", "data-step": index }, `${index}. ${step.title}`))));
find("story").addEventListener("click", event => {
  const link = event.target.closest("a");
  if (!link) return;
  event.preventDefault();
  stop();
  go(placeOf(Number(link.dataset.step), 0));
});
find("stages").append(...servers.map(({ stage, name }) =>
  h("label", { className: "option", title: name },
    h("input", { type: "checkbox", value: stage, "aria-label": name }), `${stage}`)));
find("stages").addEventListener("change", event => toggle(Number(event.target.value)));
find("scrubber").addEventListener("input", event => go(Number(event.target.value)));
find("back").addEventListener("click", () => go(state.at - 1));
find("on").addEventListener("click", () => go(state.at + 1));
find("step-back").addEventListener("click", () => goStep(-1));
find("step-on").addEventListener("click", () => goStep(1));
find("play").addEventListener("click", play);
find("crowd").max = CROWDS.length - 1;
find("crowd").value = CROWDS.indexOf(10000);
find("crowd").addEventListener("input", drawPrices);
find("source").textContent =
  `Recorded by make story on ${recording.date}: ${recording.kernel}, ${recording.machine}.`;
addEventListener("keydown", onKey);
addEventListener("hashchange", () => { readLink(); draw(); });

readLink();
draw();
drawPrices();
