// Shows a run as the server tells it: a snapshot now and then, each whole in itself.

import { about, amount, bytes, bytesOf, clock, count, money, percent, plural, short, span } from "./text.js";
import { area, bars, list, make, makeBar, setBar, write } from "./parts.js";

const $ = (id) => document.getElementById(id);
const STATES = { starting: "waiting for the plan", running: "running", publishing: "publishing", ended: "ended" };
// Snapshots come at least every two seconds.
const SILENT_AFTER_MS = 10000;

let shown = null;
let shownAt = null;
let isLost = false;

const nowBar = makeBar();
$("now-bar").append(nowBar);

// Bytes measure best; where nothing is known of them, tasks do.
const measure = (it) => (it.bytes.total ? it.bytes : it.tasks);
const settled = (part) => part.done + part.given_up;

function amounts(it) {
  const { done, total, reused } = it.tasks;
  const texts = [`${count(done)} of ${plural(total ?? 0, "task")}${reused ? ` (${count(reused)} from before)` : ""}`];
  if (it.rows.total) texts.push(`${count(it.rows.done)} of ${plural(it.rows.total, "row")}`);
  else if (it.rows.done) texts.push(plural(it.rows.done, "row"));
  if (it.bytes.total) texts.push(bytesOf(it.bytes.done, it.bytes.total));
  return texts;
}

function phaseOf(run) {
  const stage = run.stages[run.current_stage - run.first_stage];
  const phase = stage?.phases.at(-1);
  return { stage, phase: phase && !phase.is_done ? phase : null };
}

function isGood(run) {
  return run.ended && run.ended.exit_code === 0;
}

function stateText(run) {
  if (!run.ended) return STATES[run.state] ?? run.state;
  return isGood(run) ? "done" : run.ended.exit_code === 130 ? "interrupted" : "failed";
}

function head(run) {
  write($("job"), run.job || "Gleaner");
  const state = $("state");
  state.dataset.state = run.ended ? (isGood(run) ? "done" : "failed") : run.state;
  write($("state-text"), stateText(run));
  const started = new Date(run.started_at);
  const meta = [`started ${started.toLocaleDateString("en-CA")} ${clock(started)}`];
  if (run.run) meta.push(`run ${run.run}`);
  if (run.output) meta.push(run.output);
  if (run.corpus) meta.push(`corpus ${plural(run.corpus.n_files, "file")}, ${bytes(run.corpus.bytes)}`);
  list($("meta"), meta, (_, i) => i, () => make("span"), write);
  write($("footer"), `Gleaner ${run.gleaner}`);
}

function title(run) {
  const { stage, phase } = phaseOf(run);
  if (run.ended) return stateText(run)[0].toUpperCase() + stateText(run).slice(1);
  if (run.state === "starting") return run.doing[0].toUpperCase() + run.doing.slice(1);
  if (run.state === "publishing") return "Publishing the version";
  if (!stage) return "Between two stages";
  if (phase) return `${stage.name} / ${phase.name}`;
  return stage.step ? `${stage.name}: ${stage.step}` : stage.name;
}

function now(run) {
  const { stage, phase } = phaseOf(run);
  write($("now-title"), title(run));
  let facts = [];
  let eta = "";
  nowBar.hidden = false;
  if (run.ended) {
    const { version, is_new: isNew, message } = run.ended;
    facts = isGood(run) ? [isNew ? `Version ${version} is published.` : `Nothing is new since version ${version}.`] : [message];
    nowBar.hidden = true;
  } else if (phase) {
    const part = measure(phase);
    setBar(nowBar, part, `${stage.name}, ${phase.name}`, `${percent(settled(part), part.total)}, ${amounts(phase).join(", ")}`);
    facts = [percent(settled(part), part.total), ...amounts(phase)];
    eta = phase.eta_seconds == null ? "" : `${about(phase.eta_seconds)} left in this phase`;
  } else {
    nowBar.hidden = true;
    facts = run.state === "starting" ? ["What there is to do is known once the inputs are listed."] : [];
  }
  const place = !run.ended && stage ? `stage ${run.current_stage + 1} of ${run.n_stages}` : "";
  write($("eta"), [place, eta].filter(Boolean).join(" · "));
  list($("now-facts"), facts, (_, i) => i, () => make("span"), write);
  const part = phase && measure(phase);
  const done = part ? `${percent(settled(part), part.total)} ` : "";
  document.title = `${run.ended ? stateText(run) + " " : done}· ${run.job || "Gleaner"}`;
}

function figures(run) {
  const { phase } = phaseOf(run);
  const seconds = run.ended ? run.ended.seconds : run.seconds + (shownAt && !isLost ? (Date.now() - shownAt) / 1000 : 0);
  const { effort, throttled, workers, quarantine } = run;
  const retries = effort.n_offered_again + effort.n_copies;
  const held = throttled.by_stores + throttled.by_endpoints + throttled.by_rates;
  const work = run.throughput.bytes.reduce((a, b) => a + b, 0);
  const rows = run.throughput.rows.reduce((a, b) => a + b, 0);
  const rate = phase?.bytes_per_second ?? (seconds > 0 ? work / seconds : 0);
  const rowRate = phase?.bytes_per_second != null ? phase.rows_per_second : rows / (seconds || 1);
  const busy = workers.slots.filter((slot) => slot.doing).length;
  const slots = run.queue?.n_slots ?? workers.n_slots_here;
  const all = [
    ["Elapsed", span(seconds), ""],
    [phase ? "Throughput" : "Mean throughput", `${bytes(rate)}/s`, rowRate ? `${short(rowRate)} rows/s` : ""],
    ["Worker slots", count(slots), run.ended ? "" : run.queue?.n_slots == null ? `${busy} busy` : `${count(phase?.n_offered ?? 0)} tasks offered, ${count(run.queue.n_waiting)} untaken`],
    ["Retries", count(retries), retries || effort.n_failures ? `${plural(effort.n_failures, "failure")}, ${plural(effort.n_copies, "copy", "copies")} for slow ones` : "none needed"],
    ["Held back", count(held), held ? heldText(throttled) : "never throttled"],
    ["Set aside", count(quarantine.n), quarantine.allowed ? `allowed: ${quarantine.allowed} per phase` : "", quarantine.n > 0],
  ];
  if (run.money) {
    const spent = run.money.reduce((sum, it) => sum + it.spent.nanos, 0);
    const budgets = run.money.map((it) => it.budget);
    const budget = budgets.every((it) => it != null) ? budgets.reduce((a, b) => a + b, 0) : null;
    all.push(["Spent", money(spent), budget == null ? (budgets.some((it) => it != null) ? "some of it limited" : "no limit on money") : `of ${amount(budget)}`]);
  }
  list($("figures"), all, ([name]) => name, ([name]) => make("div", "", make("dt", "", name), make("dd"), make("dd", "sub")), (element, [, value, sub, isBad]) => {
    write(element.children[1], value);
    write(element.children[2], sub);
    element.classList.toggle("bad", Boolean(isBad));
  });
}

function heldText({ by_stores: stores, by_endpoints: endpoints, by_rates: rates }) {
  const texts = [];
  if (stores) texts.push(`${count(stores)} by stores`);
  if (endpoints) texts.push(`${count(endpoints)} by endpoints`);
  if (rates) texts.push(`${count(rates)} by the job's rates`);
  return texts.join(", ");
}

const STAGE_STATES = { waiting: "not planned yet", running: "running", done: "done", stopped: "stopped", unreached: "not reached" };

// A run that has ended works at no stage any more.
const stateOf = (stage) => (shown.ended ? { running: "stopped", waiting: "unreached" }[stage.state] : null) ?? stage.state;

function stageFacts(stage) {
  if (stage.state === "waiting") return [];
  if (!stage.result) return stage.phases.length ? amounts(stage) : stage.step ? [stage.step] : [];
  const { rows, lanes, n_quarantined: lost, reuse } = stage.result;
  const facts = [`${plural(rows, "row")} written`];
  if (lanes.rejected) facts.push(`${count(lanes.rejected)} rejected`);
  if (lanes.failed) facts.push(`${count(lanes.failed)} failed`);
  if (lost) facts.push(`${plural(lost, "task")} set aside`);
  if (reuse.n_tasks) facts.push(reuse.n_reused ? `${count(reuse.n_reused)} of ${plural(reuse.n_tasks, "task")} reused` : plural(reuse.n_tasks, "task"));
  return facts;
}

function makeStage() {
  const details = make("details", "", make("summary", "", make("span", "name"), make("span", "kind"), make("span", "word")), make("ul", "phases"));
  return make("li", "stage", details, makeBar(), make("p", "facts"));
}

function setStage(element, stage) {
  const state = stateOf(stage);
  element.dataset.state = state === "unreached" ? "waiting" : state;
  const [details, bar, facts] = element.children;
  const [summary, phases] = details.children;
  const [name, kind, word] = summary.children;
  write(name, stage.name);
  write(kind, stage.kind.replaceAll("_", " "));
  write(word, state === "running" && stage.step && stage.phases.length ? stage.step : STAGE_STATES[state]);
  const part = measure(stage);
  // A stage without tasks is done when it is done.
  const whole = stage.state === "done" && !part.total ? { done: 1, reused: 0, given_up: 0, total: 1 } : part;
  setBar(bar, whole, stage.name, `${STAGE_STATES[state]}, ${stageFacts(stage).join(", ")}`);
  list(facts, stageFacts(stage), (_, i) => i, () => make("span"), write);
  const items = stage.phases.map((phase) => [phase.name, phaseText(phase)]);
  if (stage.n_earlier_phases) items.unshift(["…", plural(stage.n_earlier_phases, "earlier phase")]);
  if (!items.length) items.push(["", stage.state === "waiting" ? "Its phases are planned when its turn comes." : "It has no tasks: the coordinator does it by itself."]);
  list(phases, items, ([name]) => name, () => make("li", "", make("span", "name"), make("span", "text")), (li, [name, text]) => {
    write(li.children[0], name);
    write(li.children[1], text);
  });
}

function phaseText(phase) {
  const isReused = phase.tasks.total > 0 && phase.tasks.reused === phase.tasks.total;
  const texts = isReused ? [`${plural(phase.tasks.total, "task")}, all reused`] : amounts(phase);
  if (phase.tasks.given_up) texts.push(`${count(phase.tasks.given_up)} set aside`);
  if (!isReused) texts.push(span(phase.seconds));
  return texts.join(" · ");
}

function stages(run) {
  const hidden = run.n_stages - run.stages.length;
  write($("stages-hint"), run.n_stages === 0 ? "None is known yet." : hidden ? `${count(hidden)} of ${count(run.n_stages)} are not shown.` : "");
  list($("stage-list"), run.stages, (stage) => stage.name, makeStage, setStage);
}

function quarantine(run) {
  const { n, causes, n_others: others, allowed } = run.quarantine;
  $("quarantine").hidden = n === 0;
  write($("quarantine-hint"), `${plural(n, "task")} could not be done and ${n === 1 ? "was" : "were"} set aside, so that the others go on. The job allows ${allowed} per phase.`);
  const items = others ? [...causes, { kind: "", message: "other causes", n_tasks: others, examples: [], stage: "", phase: "" }] : causes;
  list($("cause-list"), items, (cause) => `${cause.stage} ${cause.phase} ${cause.kind} ${cause.message}`, () => make("li", "", make("p", "cause-head"), make("p", "message"), make("ul", "examples")), (li, cause) => {
    const texts = [plural(cause.n_tasks, "task"), cause.kind, [cause.stage, cause.phase].filter(Boolean).join(" / ")];
    list(li.children[0], texts.filter(Boolean), (_, i) => i, () => make("span"), write);
    write(li.children[1], cause.message);
    list(li.children[2], cause.examples, (_, i) => i, () => make("li"), write);
  });
}

function plots(run) {
  const { span_seconds: width, bytes: values } = run.throughput;
  // The last span is not over yet; drawn as it is, each would begin with a fall.
  const whole = values.length > 2 && !run.ended ? values.slice(0, -1) : values;
  const speeds = whole.map((value) => value / width);
  const largest = Math.max(...speeds, 0);
  const caption = largest ? `up to ${bytes(largest)}/s; ${bytes(values.reduce((a, b) => a + b, 0))} read by this run in ${span(run.ended ? run.ended.seconds : run.seconds)}` : "Nothing was read yet.";
  figure($("throughput-plot"), JSON.stringify(speeds), () => area(speeds, `Bytes per second over the run: ${caption}`), caption);
  const { times } = run;
  $("times").hidden = !times;
  if (!times) return;
  const n = times.bars.map((bar) => bar[2]);
  const text = `${times.stage} / ${times.phase}: median ${span(times.median)}, 19 of 20 within ${span(times.p95)}, longest ${span(times.longest)}` + (times.n > 1 ? ` (${times.skew.toFixed(1)} times the median)` : "");
  figure($("times-plot"), JSON.stringify(times.bars), () => bars(n, `Number of tasks by time. ${text}`), text, [span(times.bars[0][0]), span(times.bars.at(-1)[1])], times.bars.length / Math.max(times.bars.length, 8));
}

function figure(element, key, draw, caption, ends = null, share = 1) {
  if (element.dataset.key !== key) {
    element.dataset.key = key;
    const axis = ends ? [make("p", "ends", make("span", "", ends[0]), make("span", "", ends[1]))] : [];
    if (ends) axis[0].style.width = `${100 * share}%`;
    element.replaceChildren(draw(), ...axis, make("figcaption"));
  }
  write(element.lastElementChild, caption);
}

function spending(run) {
  $("money").hidden = !run.money;
  if (!run.money) return;
  list($("money-list"), run.money, (it) => it.name, () => make("li", "", make("p", "money-head"), makeBar(), make("p", "facts")), (li, it) => {
    const limit = it.budget == null ? "" : ` of ${amount(it.budget)}`;
    list(li.children[0], [it.name, `${money(it.spent.nanos)}${limit}`], (_, i) => i, () => make("span"), write);
    li.children[1].hidden = it.budget == null;
    setBar(li.children[1], { done: it.spent.nanos, reused: 0, given_up: 0, total: it.budget == null ? 0 : it.budget * 1e9 }, `${it.name}, spent`, `${money(it.spent.nanos)}${limit}`);
    const facts = [plural(it.spent.requests, "request"), plural(it.spent.tokens, "token")];
    if (it.reserved.nanos) facts.push(`${money(it.reserved.nanos)} held by workers to spend`);
    if (it.possibly.requests) facts.push(`${money(it.possibly.nanos)} of it may have been spent by workers that are gone`);
    list(li.children[2], facts, (_, i) => i, () => make("span"), write);
  });
}

function crew(run) {
  const { slots, n_slots_here: here, n, workers } = run.workers;
  const texts = [];
  if (here) texts.push(`${plural(here, "slot")} in this process${slots.length < here ? `, of which ${slots.length} are shown` : ""}.`);
  if (run.queue?.n_slots != null) texts.push(`${plural(run.queue.n_slots, "slot")} connected for tasks that need ${run.queue.resource}. Workers elsewhere report what they did within seconds at first, and within a minute later in a run.`);
  if (n > workers.length) texts.push(`${count(workers.length)} of ${count(n)} workers are shown, those with failures first.`);
  if (!texts.length) texts.push("None has reported yet.");
  write($("workers-hint"), texts.join(" "));
  list($("slot-list"), slots, (slot) => slot.slot, () => make("li", "", make("span", "name"), make("span", "text"), make("span", "since")), (li, slot) => {
    const { doing } = slot;
    li.dataset.state = doing ? "busy" : "idle";
    write(li.children[0], `slot ${slot.slot}`);
    write(li.children[1], doing ? `${doing.stage} / ${doing.phase} · ${doing.task}` : "waits");
    write(li.children[2], doing ? span(doing.seconds) : "");
  });
  $("worker-table").hidden = workers.length === 0;
  list($("worker-rows"), workers, (worker) => worker.name, () => {
    const row = make("tr", "", make("th"));
    row.children[0].scope = "row";
    for (const kind of ["n", "n", "n", "", "n", "n"]) row.append(make("td", kind));
    return row;
  }, (row, worker) => {
    const cells = [
      worker.is_here ? `${worker.name} (here)` : worker.name, count(worker.n_done), count(worker.n_failed), span(worker.mean_seconds), worker.last,
      worker.seconds_ago < 2 ? "now" : `${span(worker.seconds_ago)} ago`, worker.peak_memory_bytes == null ? "" : bytes(worker.peak_memory_bytes),
    ];
    for (const [i, text] of cells.entries()) write(row.children[i], text);
  });
}

function notes(run) {
  $("notes").hidden = run.notes.length === 0;
  list($("note-list"), run.notes, (note, i) => run.n_notes - i, () => make("li", "", make("span", "since"), make("span", "text")), (li, note) => {
    write(li.children[0], span(note.seconds));
    write(li.children[1], note.text);
  });
}

// Said aloud: what changes rarely.
function say(run) {
  const { stage, phase } = phaseOf(run);
  const part = phase && measure(phase);
  const tenth = part?.total ? Math.floor((10 * settled(part)) / part.total) * 10 : null;
  const text = run.ended ? `The run has ended: ${stateText(run)}.` : phase ? `${stage.name}, ${phase.name}: ${tenth}%` : title(run);
  write($("said"), text);
}

function banner(text, isCalm = false) {
  $("banner").hidden = !text;
  $("banner").classList.toggle("calm", isCalm);
  if (text) write($("banner"), text);
  document.body.classList.toggle("lost", Boolean(text) && !isCalm);
}

function show(run) {
  document.querySelector("main").classList.remove("empty");
  for (const part of [head, now, figures, stages, quarantine, plots, spending, crew, notes, say]) part(run);
}

function lost() {
  isLost = true;
  if (shown?.ended) {
    banner("The run has ended and its process with it. These are its last figures.", true);
  } else if (shown) {
    banner(`The connection was lost; these are the figures of ${clock(new Date(shownAt))}. Trying again. If the process is gone, “gleaner status ${shown.output || "OUTPUT"}” tells what became of the run.`);
    $("state").dataset.state = "lost";
    write($("state-text"), "connection lost");
  } else {
    banner("There is no connection to the run yet. Trying again.");
  }
}

function connect() {
  const events = new EventSource("/events");
  events.addEventListener("snapshot", (event) => {
    shown = JSON.parse(event.data);
    shownAt = Date.now();
    isLost = false;
    banner("");
    show(shown);
  });
  events.addEventListener("error", () => {
    lost();
    if (shown?.ended) {
      events.close();
    } else if (events.readyState === EventSource.CLOSED) {
      // Refused for good by the browser's rules, as with too many readers.
      setTimeout(connect, 5000);
    }
  });
}

// Time goes on between two snapshots.
setInterval(() => {
  if (!shown || shown.ended || isLost) return;
  if (Date.now() - shownAt > SILENT_AFTER_MS) lost();
  else figures(shown);
}, 1000);

connect();
