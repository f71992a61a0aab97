// The status page: requests status.json every 2 s and history.json every 15 s, and draws. Names of files and words of servers come
// from strangers: everything goes onto the page as text, nothing as markup.
"use strict";

const STATUS_EVERY = 2000;
const HISTORY_EVERY = 15000;
const HOUR = 3600;

const $ = (id) => document.getElementById(id);

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  return fill(element, attributes, children);
}

function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return fill(element, attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

const whole = new Intl.NumberFormat("en");
const number = (n) => whole.format(n);
const plural = (n, one, many) => `${number(n)} ${n === 1 ? one : many || one + "s"}`;

function span(seconds) {
  if (seconds < 1) return `${Math.max(1, Math.round(seconds * 1000))} ms`;
  if (seconds < 10) return `${Number(seconds.toFixed(1))} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  let left = Math.round(seconds);
  const out = [];
  for (const [size, unit] of parts) {
    const n = Math.floor(left / size);
    left -= n * size;
    if (n > 0) out.push(`${n} ${unit}`);
  }
  return out.slice(0, 2).join(" ");
}

function bytes(n) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) { n /= 1024; at += 1; }
  return at === 0 ? plural(n, "byte") : `${n.toFixed(n < 10 ? 1 : 0)} ${units[at]}`;
}

// What a person is to see of a target first: how grave (0 good … 4 bad), in which colour, in which words, and why.
function judge(t) {
  // A follower pulls; any other target is sent to.
  const [sent, refuses, rest] = t.position ? ["pulled", "Cannot be pulled from", "All else is held."] : ["sent", "Refuses what is sent", "All else is on the target."];
  const failed = t.failures.length + t.failures_more;
  const behind = `${span(t.lag_seconds)} behind`;
  const trouble = (words) => ({ rank: 4, look: "bad", mark: "▲", words, why: t.reason });
  switch (t.state) {
    case "down": return trouble("Cannot be reached");
    case "config": return trouble(refuses);
    case "failing": return { ...trouble(`${plural(failed, "path")} cannot be ${sent}`), why: rest };
    case "held": return trouble("Held");
    case "paused": return { rank: 3, look: "behind", mark: "❚❚", words: "Paused", why: t.reason };
    case "fenced": return { rank: 1, look: "rest", mark: "■", words: "Fenced", why: t.reason };
    case "probing": return { rank: 1, look: "rest", mark: "…", words: "Checking", why: t.reason };
  }
  if (failed > 0) return { ...trouble(`${plural(failed, "path")} cannot be ${sent}`), why: t.lag_seconds > 0 ? `The rest is ${behind}.` : t.reason };
  if (t.state === "idle" && t.feed) return judgeFollowers(t.feed);
  if (t.state === "idle") return { rank: 0, look: "good", mark: "●", words: "In sync", why: "" };
  if (t.reconcile) return { rank: 2, look: "behind", mark: "◐", words: "Comparing the whole tree", why: t.reason };
  if (t.leaves_seconds > 0 && t.lag_seconds < 1) return { rank: 0, look: "good", mark: "●", words: `Changes leave in ${span(t.leaves_seconds)}`, why: t.reason };
  if (t.lag_seconds < 1) return { rank: 0, look: "good", mark: "●", words: "Less than 1 s behind", why: t.reason };
  return { rank: 2, look: "behind", mark: "◐", words: behind[0].toUpperCase() + behind.slice(1), why: t.reason };
}

const followed = (t) => (t.feed && t.feed.followers_known > 0 ? `and its ${plural(t.feed.followers_known, "follower")} hold` : "holds");

// A mirror that follows a feed has one place to pull from, whose name says nothing.
const called = (x) => (x.target.position ? x.mirror : x.target.name);

const TROUBLED = ["down", "config", "held", "failing"];
const inState = (f, states) => states.reduce((n, state) => n + (f.states[state] || 0), 0);

// Of a feed that holds every change itself: what keeps its followers from holding it.
function judgeFollowers(f) {
  const [silent, troubled] = [inState(f, ["silent"]), inState(f, TROUBLED)];
  const words = [silent > 0 && `${plural(silent, "follower")} ${silent === 1 ? "does" : "do"} not report`, troubled > 0 && `${plural(troubled, "follower")} ${troubled === 1 ? "has" : "have"} trouble`].filter(Boolean).join(", ");
  if (words) return { rank: 2, look: "behind", mark: "▲", words, why: "Every change is in the feed.", followers: true };
  if (f.lag.max_seconds >= 5) return { rank: 2, look: "behind", mark: "◐", words: `Slowest follower ${span(f.lag.max_seconds)} behind`, why: "Every change is in the feed.", followers: true };
  return { rank: 0, look: "good", mark: "●", words: "In sync", why: f.followers_known === 0 ? "No follower has reported yet." : "" };
}

function headline(all) {
  if (all.length === 0) return ["rest", "No targets", "Changes go to hooks only."];
  const worst = Math.max(...all.map((x) => x.verdict.rank));
  const named = all.filter((x) => x.verdict.rank === worst);
  const first = called(named[0]);
  const others = all.length - named.length;
  const well = all.every((x) => x.verdict.rank === worst || x.verdict.rank === 0);
  const rest = others === 0 ? "" : others === 1 ? `The other target is ${well ? "in sync" : "better off"}.`
    : `The other ${number(others)} targets are ${well ? "in sync" : "better off"}.`;
  const one = named.length === 1;
  const many = `${number(named.length)} of ${plural(all.length, "target")}`;
  switch (worst) {
    case 4: return ["bad", one ? `Trouble with ${first}` : `Trouble with ${many}`, `${one ? `${named[0].verdict.words}. ` : ""}${rest}`];
    case 3: return ["behind", one ? `${first} is paused` : `${many} are paused`, rest];
    case 2: {
      if (one && named[0].verdict.followers) return ["behind", `${first}: ${named[0].verdict.words.replace(/^S/, "s")}`, `${named[0].verdict.why} ${rest}`.trim()];
      const lag = Math.max(...named.map((x) => x.target.lag_seconds));
      return ["behind", `${one ? first : many} ${one ? "is" : "are"} ${span(lag)} behind`, rest];
    }
    case 1: return ["rest", one ? `${first}: ${named[0].verdict.words.toLowerCase()}` : `${many} wait`, rest];
    default: {
      const waiting = all.filter((x) => x.target.leaves_seconds > 0).length;
      if (waiting > 0) return ["good", "Nothing is late", waiting === 1 ? "Changes wait for their delay." : `Changes wait for the delays of ${number(waiting)} targets.`];
      return ["good", "In sync", all.length === 1 ? `${first} ${followed(all[0].target)} every change.` : `${all.length === 2 ? "Both" : `All ${number(all.length)}`} targets hold every change.`];
    }
  }
}

// Whole numbers of seconds, minutes or hours above the largest lag.
function ceiling(largest) {
  const steps = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400];
  return steps.find((step) => step >= largest) || Math.ceil(largest / 86400) * 86400;
}

function graph(line, step, t) {
  const points = (line ? line.lag : []).concat([t.lag_seconds]);
  const known = points.filter((lag) => lag !== null);
  const top = ceiling(Math.max(1, ...known));
  const width = 1000, height = 100;
  const x = (i) => width - ((points.length - 1 - i) * step * width) / HOUR;
  const y = (lag) => height - (lag * height) / top;
  let curve = "", area = "", begin = null, last = null;
  const close = () => { if (begin !== null) area += `L${x(last)} ${height}Z`; begin = null; };
  points.forEach((lag, i) => {
    if (lag === null) return close();
    const to = `${x(i).toFixed(1)} ${y(lag).toFixed(1)}`;
    curve += (begin === null ? "M" : "L") + to;
    if (begin === null) { begin = i; area += `M${x(i)} ${height}L${to}`; } else area += `L${to}`;
    last = i;
  });
  close();
  const cursor = draw("line", { class: "cursor", x1: 0, x2: 0, y1: 0, y2: height, visibility: "hidden" });
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `Lag over the last hour, at most ${span(Math.max(0, ...known))}` },
    draw("line", { class: "grid", x1: 0, x2: width, y1: 0, y2: 0 }),
    draw("line", { class: "grid", x1: 0, x2: width, y1: height, y2: height }),
    draw("path", { class: "area", d: area }), draw("path", { class: "curve", d: curve }), cursor);
  const peak = Math.max(0, ...known);
  const usual = `Lag, at most ${peak > 0 ? span(peak) : "0 s"} · scale ${span(top)}`;
  const words = make("span", {}, usual);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    const i = Math.round(points.length - 1 - ((width - at) * HOUR) / (step * width));
    const lag = points[i];
    cursor.setAttribute("x1", at); cursor.setAttribute("x2", at); cursor.setAttribute("visibility", "visible");
    const ago = ((width - at) * HOUR) / width;
    words.textContent = `${ago < step ? "now" : span(ago) + " ago"}: ${lag === undefined || lag === null ? "not known" : lag > 0 ? span(lag) + " behind" : "in sync"}`;
  });
  svg.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); words.textContent = usual; });
  return make("figure", {}, svg, make("figcaption", {}, make("span", {}, "1 h ago"), words, make("span", {}, "now")));
}

const next = (seconds) => `next try ${seconds < 1 ? "at once" : `in ${span(seconds)}`}`;

function fact(name, value) {
  return make("div", {}, make("dt", {}, name), make("dd", {}, value));
}

function ago(unix) {
  const seconds = Date.now() / 1000 - unix;
  if (unix === 0) return "never";
  return seconds < 3 ? "just now" : `${span(seconds)} ago`;
}

// Lists that the user has opened or closed stay so.
const opened = new Map();

function list(key, summary, look, open, items, more) {
  if (items.length === 0) return null;
  const details = make("details", { "data-key": key }, make("summary", look ? { class: look } : {}, summary), make("ul", {}, ...items));
  if (more > 0) details.append(make("p", { class: "when" }, `and ${number(more)} more`));
  details.open = opened.has(key) ? opened.get(key) : open;
  details.addEventListener("toggle", () => opened.set(key, details.open));
  return details;
}

function failures(key, them, more) {
  const again = (f) => `${plural(f.tries, "try", "tries")}, ${f.retry_seconds > 0 ? next(f.retry_seconds) : "given up"}`;
  const items = them.map((f, i) => make("li", {}, make("span", { class: "path" }, named(f.path)), " ", make("span", { class: "when" }, again(f)),
    // Often one thing is wrong with many paths: shown once.
    i > 0 && them[i - 1].reason === f.reason ? null : make("div", { class: "reason" }, f.reason)));
  return list(key, `${plural(them.length + more, "failed path")}`, "bad", true, items, more);
}

const KINDS = { contents: "with what is directly in it", subtree: "with all below it" };
const named = (path) => (path === "." ? "the source's top directory" : path);

function pending(key, t) {
  const items = t.pending_paths.map((p) => make("li", {}, make("span", { class: "path" }, named(p.path)), " ",
    make("span", { class: "when" }, [KINDS[p.kind], `for ${span(p.seconds)}`].filter(Boolean).join(", "))));
  return list(key, plural(t.pending, "pending path"), "", false, items, t.pending - items.length);
}

// How far long work is: words, and a bar where a total is known. `repeats`: the line above says why the time left is not known.
function far(p, repeats) {
  const rate = [p.files_per_second >= 0.5 && `${number(Math.round(p.files_per_second))} files/s`, p.bytes_per_second >= 1 && `${bytes(p.bytes_per_second)}/s`];
  const left = p.eta_seconds !== null ? `${span(p.eta_seconds)} left` : repeats ? "" : `time left not known: ${p.eta_unknown}`;
  const done = p.files_total > 0 ? `${number(p.files_done)} of ${plural(p.files_total, "file")}` : `${plural(p.files_done, "file")} so far`;
  const figures = [done, p.bytes > 0 && bytes(p.bytes), ...rate, left].filter(Boolean).join(", ");
  return make("p", { class: "why" }, `${p.what[0].toUpperCase()}${p.what.slice(1)} for ${span(p.seconds)}: ${figures}.`,
    p.files_total > 0 && p.files_done > 0 ? make("progress", { max: p.files_total, value: p.files_done, "aria-label": p.what }) : null);
}

function verified(v) {
  if (!v) return null;
  if (v.running) return v.progress && far(v.progress);
  const left = v.differing - v.repaired;
  const found = v.error || (left > 0 ? `${plural(left, "path")} ${left === 1 ? "differs" : "differ"} from the source: ${v.paths.slice(0, 5).join("; ")}` : "equal to the source");
  const bad = v.error || left > 0;
  return v.ended_unix > 0 ? make("p", { class: bad ? "note bad reason" : "why reason" }, `${v.error ? "Could not be verified" : "Verified"} ${ago(v.ended_unix)}: ${found}`) : null;
}

// What a target is measured by: bytes and batches, records, or a position.
function figures(t) {
  const f = t.feed, at = t.position;
  if (f) {
    return [fact("Last record", number(f.sequence)), fact("Records", `${number(f.records)}, ${bytes(f.record_bytes)}`), fact("Kept for", f.kept_seconds > 0 ? span(f.kept_seconds) : "–"),
      fact("Followers", number(f.followers_known)), fact("Slowest follower", f.lag.max_seconds > 0 ? `${span(f.lag.max_seconds)} behind` : f.followers_known > 0 ? "in sync" : "–")];
  }
  if (at) {
    return [fact("Held to record", at.sequence > 0 ? number(at.sequence) : "–"), fact("Read to record", at.read > 0 ? number(at.read) : "–"), fact("Pulled", bytes(t.bytes_sent)), fact("Runs", number(t.runs))];
  }
  return [fact("Sent", bytes(t.bytes_sent)), fact("Batches", number(t.batches))];
}

// The followers of a feed that need attention: the silent ones, those in trouble, and the slowest ten.
function followers(key, f) {
  const [silent, troubled, slow] = [f.followers.filter((x) => x.state === "silent"), f.followers.filter((x) => TROUBLED.includes(x.state)),
    f.followers.filter((x) => x.state !== "silent" && !TROUBLED.includes(x.state) && x.behind > 0)];
  const bare = (url) => url.replace(/^(\w+:\/\/)[^@/]*@/, "$1");
  const relays = f.followers.filter((x) => x.serve);
  const lacks = (x) => (x.behind > 0 ? `lacks ${plural(x.behind, "record")}${x.lag_seconds >= 1 ? ` for ${span(x.lag_seconds)}` : ""}` : "holds every record");
  const item = (x, words) => make("li", {}, make("span", { class: "path" }, x.name), " ", make("span", { class: "when words" }, words),
    x.reason ? make("div", { class: "reason" }, x.reason) : null);
  const states = Object.entries(f.states).map(([state, n]) => `${number(n)} ${state}`).join(", ");
  return [
    states && make("p", { class: "why" }, `Followers: ${states}`),
    list(`${key} silent`, plural(inState(f, ["silent"]), "silent follower"), "bad", true, silent.slice(0, 50).map((x) => item({ ...x, reason: "" }, `no report for ${span(x.reported_seconds)}, ${lacks(x)}`)), inState(f, ["silent"]) - Math.min(silent.length, 50)),
    list(`${key} troubled`, plural(inState(f, TROUBLED), "follower with trouble", "followers with trouble"), "bad", true, troubled.slice(0, 50).map((x) => item(x, `${x.state}, ${lacks(x)}, from ${x.upstream}`)), inState(f, TROUBLED) - Math.min(troubled.length, 50)),
    list(`${key} relays`, plural(relays.length, "relay"), "", false, relays.map((x) => item({ ...x, reason: "" }, `${x.state}, ${lacks(x)}, at ${x.serve}, pulled from by ${plural(f.followers.filter((y) => bare(y.upstream) === bare(x.serve)).length, "follower")}`)), 0),
    list(`${key} slow`, slow.length > 10 ? "The slowest 10 followers" : "Slowest followers", "", false, slow.slice(0, 10).map((x) => item(x, `${x.state}, ${lacks(x)}, from ${x.upstream}`)), 0),
  ];
}

function card(m, t, verdict) {
  const key = `${m.name}/${t.name}`;
  const line = past && past.targets.find((l) => l.mirror === m.name && l.target === t.name);
  const why = [verdict.why, t.retry_seconds > 0 ? next(t.retry_seconds) : ""].filter(Boolean).join(" · ");
  return make("article", { class: `card ${verdict.rank === 4 ? "alarm" : ""}` },
    make("div", { class: "top" }, make("h3", {}, t.name),
      make("span", { class: `badge ${verdict.look}` }, make("span", { "aria-hidden": "true" }, verdict.mark), verdict.words),
      make("span", { class: "path" }, t.url)),
    why && make("p", { class: "why reason" }, why),
    t.advice && make("p", { class: "why reason" }, t.advice),
    t.held_reason && make("p", { class: "note bad reason" }, t.held_reason),
    ...[t.reconcile, ...t.passes].filter(Boolean).map((p, i, all) => far(p, i > 0 && all[i - 1].eta_seconds === null && all[i - 1].eta_unknown === p.eta_unknown)),
    verified(t.verify),
    graph(line, past ? past.step_seconds : 5, t),
    make("dl", {}, fact("Lag", t.lag_seconds > 0 ? span(t.lag_seconds) : "none"), fact("Pending", plural(t.pending, "path")),
      fact("In flight", plural(t.in_flight, "path")), fact("Last confirmed", ago(t.last_success_unix)),
      fact("Half within", t.latency.recent > 0 ? span(t.latency.p50_seconds) : "–"), fact("99 in 100 within", t.latency.recent > 0 ? span(t.latency.p99_seconds) : "–"),
      ...figures(t)),
    ...(t.feed ? followers(key, t.feed) : []),
    failures(`${key} failed`, t.failures, t.failures_more), pending(`${key} pending`, t));
}

function hook(m, h) {
  const good = h.state !== "retrying" && h.failures.length + h.failures_more === 0;
  return make("article", { class: `card ${good ? "" : "alarm"}` },
    make("div", { class: "top" }, make("h3", {}, h.name),
      make("span", { class: `badge ${good ? "rest" : "bad"}` }, h.state === "retrying" ? "▲ Not answering" : good ? `Hook, ${h.state}` : "▲ Changes not delivered"),
      make("span", { class: "path" }, h.kind)),
    h.reason && make("p", { class: "why reason" }, `${h.reason} · ${next(h.retry_seconds)}`),
    make("dl", {}, fact("Delivered", plural(h.delivered, "change")), fact("Pending", plural(h.pending, "change")),
      fact("Given up", plural(h.failed, "change")), fact("Dropped", plural(h.dropped, "change")), fact("Last delivered", ago(h.last_success_unix))),
    failures(`${m.name}/hook ${h.name}`, h.failures, h.failures_more));
}

function mirror(m, judged, rate) {
  const lost = Object.entries(m.lost).filter(([cause]) => cause !== "failing_path").map(([cause, n]) => `${cause.replace("_", " ")} ${number(n)}`).join(", ");
  const watch = [...new Set(m.watch.map((w) => w.backend))].join(" and ");
  const unwatched = m.watch.reduce((n, w) => n + w.unwatched.length, 0);
  const follows = m.targets.find((t) => t.position);
  return make("section", {}, make("h2", {}, m.name, make("span", { class: "path" }, m.source)),
    follows ? make("p", { class: "why" }, "Follows ", make("span", { class: "path" }, follows.position.feed), ` as ${follows.position.follower}`)
      : make("dl", {}, fact("Events", rate === null ? number(m.events) : `${number(Math.round(rate))} / s`),
      fact("Watched by", watch), fact("Directories", number(m.directories)), lost ? fact("Events lost", lost) : null),
    m.held && make("p", { class: "note bad reason" }, `Nothing is sent: ${m.held}`),
    m.start.progress && far(m.start.progress),
    unwatched > 0 ? make("p", { class: "note" }, `${plural(unwatched, "subtree")} cannot be watched and ${unwatched === 1 ? "is" : "are"} compared periodically.`) : null,
    ...judged.map((x) => card(m, x.target, x.verdict)), ...m.hooks.map((h) => hook(m, h)));
}

let past = null;
// The host that the daemon runs on; until it has answered, the one that the page came from.
let host = location.host;
let before = null;
let answered = null;

function rateOf(m, now) {
  const old = before && before.pid === now.pid && before.mirrors.find((b) => b.name === m.name);
  const seconds = old ? now.uptime_seconds - before.uptime_seconds : 0;
  return seconds > 0.2 && m.events >= old.events ? (m.events - old.events) / seconds : null;
}

function show(now) {
  const groups = now.mirrors.map((m) => ({ m, judged: m.targets.map((target) => ({ mirror: m.name, target, verdict: judge(target) })) }));
  const all = groups.flatMap((g) => g.judged);
  const hooks = now.mirrors.flatMap((m) => m.hooks).filter((h) => h.state === "retrying");
  const [look, words, below] = headline(all);
  say(look, words, [below, hooks.length > 0 ? `The hook ${hooks[0].name} does not answer.` : ""].filter(Boolean).join(" "));
  host = now.host;
  document.title = `${{ good: "●", behind: "◐", bad: "▲", rest: "■" }[look]} ${words} – ${host} – fansync`;
  document.body.classList.remove("silent");
  for (const g of groups) g.judged.sort((a, b) => b.verdict.rank - a.verdict.rank);
  // Not while the user reads a graph or marks text: it would go from under the pointer.
  if (!document.querySelector("svg:hover") && document.getSelection().type !== "Range") {
    const focused = document.activeElement && document.activeElement.parentElement.dataset.key;
    $("mirrors").replaceChildren(...groups.map((g) => mirror(g.m, g.judged, rateOf(g.m, now))));
    const again = focused && [...document.querySelectorAll("details")].find((d) => d.dataset.key === focused);
    if (again) again.firstElementChild.focus();
  }
  $("where").textContent = `on ${host}`;
  $("footer").textContent = `fansync ${now.version}, up for ${span(now.uptime_seconds)}. The same as text: fansync status.`;
}

function say(look, words, below) {
  const headline = $("headline");
  if (headline.textContent !== words) headline.textContent = words;
  headline.className = look;
  $("below").textContent = below;
}

async function get(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(8000) });
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}

async function look() {
  try {
    const now = await get("status.json");
    answered = new Date();
    show(now);
    before = now;
  } catch (error) {
    const since = answered ? `The state below is that of ${answered.toLocaleTimeString()}. ` : "";
    const why = error instanceof TypeError || error.name === "TimeoutError" ? "Is it running?" : `${error.message}.`;
    say("bad", "fansync does not answer", `${since}${why}`);
    document.title = `▲ no answer – ${host} – fansync`;
    document.body.classList.add("silent");
  }
}

async function remember() {
  try {
    past = await get("history.json");
  } catch (_) {
    // The other request reports it.
  }
}

async function every(milliseconds, work) {
  for (;;) {
    if (!document.hidden) await work();
    await new Promise((done) => setTimeout(done, milliseconds));
  }
}

remember().then(() => every(STATUS_EVERY, look));
setTimeout(() => every(HISTORY_EVERY, remember), HISTORY_EVERY);
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
