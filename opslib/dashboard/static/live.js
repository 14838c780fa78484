// The live dashboard in a browser. It shows the texts that the kernel sends, slot by slot, and computes nothing itself but the
// time since the last message, the clock time of a point and how many alerts its list has. It uses no library and loads nothing from an address.
//
// Why the charts are our own SVG and not a library's: bokeh (about 800 kB of script), bqplot (about 400 kB and a JupyterLab
// extension of its own) and altair (Vega, about 900 kB, from a CDN unless vl-convert is installed) each send a whole model or
// data source for a change, where an update of all four panels may have 1,024 bytes; none of them has an axis with a break and
// a reading of four charts at one instant by keyboard. What is needed is a line, bars, bands and labels: class Chart below.

const SIGNS = { ok: "✓", warning: "△", notify: "▲", critical: "◆", escalate: "■", unknown: "?" };
const STATES = Object.fromEntries(Object.entries(SIGNS).map(([state, sign]) => [sign, state]));
const HEAD = Object.fromEntries(["iso", "moment", "verdict", "age", "coverage", "alerts", "since", "cause", "first", "works", "owner", "markers", "gaps"].map((name, i) => [name, i]));
const HEADS = Object.keys(HEAD).length, POINTS = 1000, BETWEEN = "|", BLANK = "~", SVG = "http://www.w3.org/2000/svg";

const made = (name, attributes = {}, ...children) => {
  const found = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in found && key !== "list") found[key] = value;
    else found.setAttribute(key, value);
  }
  found.append(...children);
  return found;
};
const drawn = (name, attributes = {}, text = "") => {
  const found = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  if (text) found.textContent = text;
  return found;
};
const word = (text) => (text || "unknown").split(" ")[0];
const rows = (text) => text ? text.split("\n").map((row) => row.split("\t")) : [];
const setState = (place, state) => { for (const name of Object.keys(SIGNS)) place.classList.toggle(`is-${name}`, name === state); };
const base = () => {
  const place = document.getElementById("jupyter-config-data");
  try { return JSON.parse(place.textContent).baseUrl || "/"; } catch { return "/"; }
};
const duration = (s) => s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;

/** The state at one moment: the text of every slot, and the points of each chart. */
class Known {
  constructor(whole) {
    this.shape = whole.shape;
    this.places = [...whole.places];
    this.lines = whole.lines.map((line) => new Map(line));
    this.at = [];  // For each panel, the slot where each part begins.
    let slot = HEADS;
    for (const panel of this.shape.panels) {
      const at = { verdict: slot, reason: slot + 1, figures: slot + 2 };
      at.values = at.figures + panel.figures.length;
      at.limits = at.values + panel.keys.reduce((n, key) => n + key.values.length, 0);
      at.points = at.limits + panel.keys.length;
      at.bands = at.points + 1;
      this.at.push(at);
      slot = at.bands + 1;
    }
  }
  /** Apply a change; return the slots that changed. */
  change(text) {
    const changed = [];
    text.split(BETWEEN).forEach((value, i) => {
      if (value === "") return;
      this.places[i] = value === BLANK ? "" : value;
      changed.push(i);
    });
    this.at.forEach(({ points }, n) => {
      if (!changed.includes(points)) return;
      for (const point of this.places[points].split(";")) {
        const [step, value] = point.split(":");
        this.lines[n].set(Number(step), value === "" ? null : Number(value));
      }
      while (this.lines[n].size > POINTS) this.lines[n].delete(this.lines[n].keys().next().value);
    });
    return changed;
  }
  /** The first and the last step that are shown: the window up to the newest point. */
  span() {
    const last = Math.max(...this.lines.map((line) => Math.max(...line.keys())));
    return [last - this.shape.steps + 1, last];
  }
  time(step, seconds) {
    const all = (((step * this.shape.step_s + this.shape.offset_s) % 86400) + 86400) % 86400;
    const two = (n) => String(Math.floor(n)).padStart(2, "0");
    return `${two(all / 3600)}:${two(all / 60 % 60)}${seconds ? `:${two(all % 60)}` : ""}`;
  }
}

/** One panel's chart. The four charts of a view have one time axis and one reading line. */
class Chart {
  constructor(view, panel, n) {
    Object.assign(this, { view, panel, n });
    const { label, unit } = panel.chart;
    this.reading = made("span", { className: "reading" });
    this.plot = made("div", { className: "plot", tabIndex: 0, role: "slider", "aria-label": `${label}, ${unit}: value at a moment`, title: "arrow keys or pointer: read all charts at one moment" });
    this.box = made("div", { className: "chart" }, made("div", { className: "caption" }, made("span", { textContent: `${label}, ${unit}; New York time` }), this.reading), this.plot);
    this.plot.onpointermove = (event) => view.read(this.stepAt(event.offsetX));
    this.plot.onpointerleave = this.plot.onblur = () => view.read(null);
    this.plot.onkeydown = (event) => this.key(event);
  }

  stepAt(x) {
    const [first, last] = this.view.known.span();
    return Math.max(first, Math.min(last, first + Math.floor((x - this.left) / (this.right - this.left) * (last - first + 1))));
  }

  key(event) {
    const [first, last] = this.view.known.span(), at = this.view.cursor ?? last + 1;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowDown: at - 1, ArrowUp: at + 1, PageDown: at - 10, PageUp: at + 10, Home: first, End: last, Escape: null }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.view.read(to === null ? null : Math.max(first, Math.min(last, to)));
  }

  /** Show the value at the view's moment, or the newest one. */
  read() {
    const known = this.view.known, line = known.lines[this.n], { unit } = this.panel.chart, [first, last] = known.span();
    const at = this.view.cursor ?? last, value = line.get(at) ?? null;
    const words = `${known.time(at, true)}  ${value === null ? "no data" : `${value} ${unit}`}`;
    this.reading.textContent = this.view.cursor === null ? "" : words;
    for (const [name, set] of [["min", first], ["max", last], ["now", at], ["text", words]]) this.plot.setAttribute(`aria-value${name}`, set);
    if (!this.line) return;
    this.line.setAttribute("visibility", this.view.cursor === null ? "hidden" : "visible");
    for (const end of ["x1", "x2"]) this.line.setAttribute(end, this.x(at + 0.5));
  }

  draw() {
    const known = this.view.known, { chart } = this.panel, wide = this.plot.clientWidth, high = this.plot.clientHeight;
    if (!wide) {  // Not visible, in another tab: it is drawn once it is visible.
      this.view.undrawn = true;
      return;
    }
    const em = parseFloat(getComputedStyle(this.plot).fontSize), [first, last] = known.span();
    const left = 3.6 * em, right = wide - 9.2 * em, top = 0.6 * em, bottom = high - 1.5 * em;
    Object.assign(this, { left, right });
    this.x = (step) => left + (right - left) * Math.max(0, Math.min(1, (step - first) / (last - first + 1)));
    const x = this.x, points = [...known.lines[this.n]].filter(([step]) => step >= first && step <= last).sort((a, b) => a[0] - b[0]);
    const values = points.map(([, value]) => value).filter((value) => value !== null);
    const scale = chart.scales.find(({ knots }) => values.every((value) => value >= knots[0][0] && value <= knots.at(-1)[0])) || chart.scales.at(-1);
    const y = (value) => {
      const held = Math.max(scale.knots[0][0], Math.min(scale.knots.at(-1)[0], value)), i = Math.max(1, scale.knots.findIndex(([upto]) => held <= upto));
      const [[a, from], [b, to]] = [scale.knots[i - 1], scale.knots[i]];
      return bottom - (bottom - top) * (from + (to - from) * (held - a) / (b - a));
    };
    const svg = drawn("svg", { width: wide, height: high, "aria-hidden": "true" }), add = (...given) => svg.appendChild(drawn(...given));
    const hatch = `ops-hatch-${this.view.id}-${this.n}`, pattern = drawn("pattern", { id: hatch, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
    pattern.append(drawn("line", { x1: 0, x2: 0, y1: 0, y2: 6, class: "hatch" }));
    svg.append(pattern);
    // Behind everything: when an alert fired, and when nothing was received.
    const spans = (text) => rows(text).map(([from, to, ...more]) => [Number(from), to === "" ? last + 1 : Number(to), ...more]).filter(([from, to]) => to >= first && from <= last);
    for (const [from, to, severity] of spans(known.places[known.at[this.n].bands])) {
      const a = x(from), width = Math.max(2, x(to) - a);
      add("rect", { x: a, y: top, width, height: bottom - top, class: `band is-${severity}` });
      add("rect", { x: a, y: top - 0.35 * em, width, height: 0.35 * em, class: `strip is-${severity}` });
    }
    const gaps = spans(known.places[HEAD.gaps]);
    for (const [from, to] of gaps) add("rect", { x: x(from), y: top, width: Math.max(2, x(to) - x(from)), height: bottom - top, fill: `url(#${hatch})` });
    // The axes.
    for (const [value, label] of scale.ticks) {
      add("line", { x1: left, x2: right, y1: y(value), y2: y(value), class: value === 0 ? "zero" : "grid" });
      add("text", { x: left - 0.4 * em, y: y(value) + 0.35 * em, class: "label end" }, label);
    }
    for (const [value] of scale.knots.slice(1, -1)) add("path", { d: `M${left - 4} ${y(value) + 6}l8 -4m-8 7l8 -4`, class: "break" });
    const minutes = [1, 2, 5, 10, 20, 30, 60, 120, 240, 720].find((n) => (last - first + 1) * known.shape.step_s / 60 / n <= (right - left) / (4.2 * em)) || 1440;
    for (let step = first; step <= last + 1; step += 1) {
      if ((step * known.shape.step_s + known.shape.offset_s) % (60 * minutes) !== 0 || x(step) < left + em || x(step) > right - 1.2 * em) continue;
      add("line", { x1: x(step), x2: x(step), y1: bottom, y2: bottom + 0.3 * em, class: "zero" });
      add("text", { x: x(step), y: high - 0.2 * em, class: "label middle" }, known.time(step));
    }
    add("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "zero" });
    // The values. A gap is never bridged; a single point between gaps is drawn as a square.
    if (chart.kind === "bars") {
      const width = Math.max(chart.wide, x(first + 1) - left - 1), zero = y(0);
      add("path", { class: "bars", d: points.filter(([, value]) => value).map(([step, value]) => `M${x(step).toFixed(1)} ${zero.toFixed(1)}V${y(value).toFixed(1)}h${width.toFixed(1)}V${zero.toFixed(1)}Z`).join("") });
    } else {
      let path = "", before = null;
      points.forEach(([step, value], i) => {
        if (value !== null) {
          const alone = before === null && (points[i + 1]?.[1] ?? null) === null;
          path += `${before === null ? "M" : "L"}${x(step + 0.5).toFixed(1)} ${y(value).toFixed(1)}${alone ? "m-2 -2h4v4h-4z" : ""}`;
        }
        before = value;
      });
      add("path", { class: "line", d: path });
    }
    // Thresholds: their labels are beside the plot, moved apart where they would cover each other.
    const limits = chart.limits.filter(({ at }) => at <= scale.knots.at(-1)[0]).map((limit) => ({ ...limit, y: y(limit.at) })).sort((a, b) => a.y - b.y);
    const room = 1.15 * em, labels = limits.map((limit) => limit.y);
    for (let i = 1; i < labels.length; i += 1) labels[i] = Math.max(labels[i], labels[i - 1] + room);
    for (let i = labels.length - 1; i >= 0; i -= 1) labels[i] = Math.min(labels[i], i === labels.length - 1 ? bottom : labels[i + 1] - room);
    limits.forEach((limit, i) => {
      add("line", { x1: left, x2: right, y1: limit.y, y2: limit.y, class: `limit is-${limit.severity}` });
      add("text", { x: right + 0.4 * em, y: labels[i] + 0.35 * em, class: `label is-${limit.severity}` }, limit.words);
    });
    const taken = [];  // Where band labels end, line by line: one that would cover another is a line lower.
    for (const [from, to, severity, words] of spans(known.places[known.at[this.n].bands])) {
      const a = x(from), b = x(to), need = 0.6 * em * words.length;
      const [at, side] = b - a > need ? [(a + b) / 2, "middle"] : a > left + need ? [a - 0.4 * em, "end"] : [a + 0.2 * em, ""];
      if (b - a <= em || (!side && a + need >= right)) continue;
      const start = side === "middle" ? at - need / 2 : side ? at - need : at, free = taken.findIndex((end) => end <= start), row = side ? (free < 0 ? taken.length : free) : 0;
      if (side) taken[row] = start + need;
      add("text", { x: at, y: side ? top + (1.1 + 1.3 * row) * em : bottom - 0.6 * em, class: `label halo strong ${side} is-${severity}` }, words);
    }
    for (const [from, to] of gaps) if (x(to) - x(from) > 7 * em) add("text", { x: (x(from) + x(to)) / 2, y: (top + bottom) / 2, class: "label halo middle" }, "no snapshots");
    for (const [step, words] of rows(known.places[HEAD.markers])) {
      if (Number(step) < first || Number(step) > last) continue;
      const at = x(Number(step)), late = at > (left + right) / 2;
      add("line", { x1: at, x2: at, y1: top, y2: bottom, class: "marker" });
      add("text", { x: at + (late ? -4 : 4), y: top + 2.4 * em, class: `label halo ${late ? "end" : ""}` }, words);
    }
    if (!values.length && !gaps.length) add("text", { x: (left + right) / 2, y: (top + bottom) / 2, class: "label halo middle" }, "no values in this window");
    this.line = add("line", { x1: left, x2: left, y1: top, y2: bottom, class: "cursor", visibility: "hidden" });
    this.plot.replaceChildren(svg);
    this.read();
  }
}

/** One view of the dashboard, with its own moment and its own pause. */
class View {
  constructor(model, el) {
    this.model = model;
    this.fixed = !!model.get("read_only");  // The kernel refuses every change: nothing is shown that asks for one.
    this.id = Math.random().toString(36).slice(2);
    this.paused = false;
    this.past = false;
    this.behind = 0;
    this.undrawn = false;
    this.cursor = null;  // The step at which all charts are read.
    this.open = new Set();  // The panels whose details are open.
    this.received = performance.now();
    this.known = null;
    this.live = null;
    this.root = made("section", { className: "ops-live", "data-lm-suppress-shortcuts": "true" });
    this.root.setAttribute("aria-label", "Live dashboard");
    el.append(this.root);
    this.build();
    this.listen = (message) => this.receive(message);
    model.on("msg:custom", this.listen);
    this.timer = setInterval(() => this.tick(), 1000);
    this.show(new Known(model.get("whole")), true);
    this.ask({ do: "all", first: true });
  }

  end() {
    clearInterval(this.timer);
    this.sized?.disconnect();
    this.model.off("msg:custom", this.listen);
  }

  ask(what) {
    try { this.model.send({ ...what, view: this.id }); } catch { this.notify("The kernel has stopped: run this cell again."); }
  }

  build() {
    const button = (words, act, more = {}) => made("button", { type: "button", textContent: words, onclick: act, ...more });
    this.verdict = made("strong", { className: "verdict ops-verdict" });
    this.moment = made("span", { className: "moment" });
    this.age = made("span", { className: "age" });
    this.badge = made("span", { className: "badge" });
    this.badge.setAttribute("role", "status");
    this.pauses = button("Pause", () => this.pause());
    this.every = made("input", { type: "number", min: 1, max: 60, step: 1, value: this.model.get("every_s"), className: "every" });
    this.every.setAttribute("aria-label", "seconds between updates");
    this.every.onchange = () => this.ask({ do: "every", seconds: Number(this.every.value) });
    this.since = made("span", { className: "since" });
    this.cause = made("p", { className: "cause" });
    this.first = made("p", { className: "first" });
    this.works = made("p", { className: "works" });
    this.owner = made("p", { className: "owner" });
    this.runbook = button("Open runbook", () => this.openRunbook(this.worst), { className: "ops-button main" });
    this.acks = made("input", { type: "text", className: "ack-by", placeholder: "your name" });
    this.acks.setAttribute("aria-label", "your name, to acknowledge");
    this.ack = made("span", { className: "acts" }, this.acks, button("Acknowledge", () => this.acknowledge(), { className: "ops-button" }));
    this.acts = made("div", { className: "acts" }, this.runbook, this.ack);
    this.strip = made("ul", { className: "alerts" });
    this.strip.setAttribute("aria-label", "Alerts, worst first");
    this.count = made("summary");
    this.list = made("details", { className: "ops-fold list" }, this.count, this.strip);
    this.head = made("header", { className: "ops-answer" },
      made("div", { className: "said" }, made("p", {}, this.verdict, " ", this.since), this.cause, this.first, this.works, made("div", { className: "last" }, this.owner, this.list)),
      made("div", { className: "state" }, this.moment, this.age, made("span", { className: "controls" }, this.badge, this.pauses, made("label", {}, "every ", this.every, " s")), this.acts));
    this.grid = made("div", { className: "grid" });
    this.slider = made("input", { type: "range", min: 0, max: 1, value: 1, step: 5, className: "slider" });
    this.slider.setAttribute("aria-label", "moment that is shown");
    this.slider.oninput = () => this.slide(Number(this.slider.value));
    this.date = made("input", { type: "datetime-local", step: 1, className: "date" });
    this.date.setAttribute("aria-label", "moment that is shown, New York");
    this.date.onchange = () => this.date.value && this.go({ do: "at", local: this.date.value });
    this.back = button("Back to now", () => this.now(), { hidden: true });
    this.message = made("p", { className: "message" });
    this.message.setAttribute("role", "status");
    this.past_row = made("div", { className: "past" }, made("span", { textContent: "earlier" }), this.slider, made("span", { textContent: "now" }), this.date, this.back);
    this.form = this.feedback();
    this.form.hidden = this.fixed;
    this.root.append(this.head, this.message, this.grid, this.past_row, this.form);
  }

  feedback() {
    this.words = made("input", { type: "text", className: "words", placeholder: "what the monitoring missed" });
    this.words.setAttribute("aria-label", "what the monitoring missed");
    this.by = made("input", { type: "text", className: "by", placeholder: "your name" });
    this.by.setAttribute("aria-label", "your name");
    return made("div", { className: "feedback" }, this.words, this.by, made("button", { type: "button", textContent: "Missed data", onclick: () => this.report("missed-data", "") }));
  }

  report(kind, alert) {
    if (!this.by.value.trim() || (kind === "missed-data" && !this.words.value.trim())) return this.notify(kind === "noise" ? "Enter your name below first." : "Enter what the monitoring missed, and your name.");
    this.ask({ do: "feedback", kind, alert, words: this.words.value, by: this.by.value, at: this.known.places[HEAD.iso] });
    this.words.value = "";
  }

  // Messages from the kernel.

  receive(message) {
    if (message.view && message.view !== this.id) return;
    if (message.text !== undefined) return this.notify(message.text, message.link);
    if (message.sentences !== undefined) return this.sentences.get(message.panel)?.replaceChildren(...message.sentences.map((text) => made("li", { className: word(text).replace(":", ""), textContent: text })));
    if (message.error !== undefined) {
      if (this.past) return;
      this.notify(message.error);
      this.failed = true;
      return;
    }
    this.received = performance.now();
    if (message.whole && message.past) {
      this.past = true;
      this.back.hidden = false;
      this.show(new Known(message.whole), true);
      if (document.activeElement !== this.slider) this.slider.value = Date.parse(this.known.places[HEAD.iso]) / 1000;
      return;
    }
    const before = this.live;
    if (message.whole) this.live = new Known(message.whole);
    else if (message.change !== undefined && before && message.n === this.n + 1) this.changed = before.change(message.change);
    else return message.view ? undefined : this.ask({ do: "all" });  // A change was missed.
    this.n = message.n;
    if (message.range) this.range(message.range);
    else if (this.from_s !== undefined) this.range([this.from_s, Date.parse(this.live.places[HEAD.iso]) / 1000]);  // The current moment can be selected later.
    if (this.failed) this.notify("");
    if (this.past) return;
    if (this.paused) {
      this.behind += 1;
      return this.tick();
    }
    if (message.whole) this.show(this.live, true);
    else this.show(this.live, false, this.changed);
  }

  notify(words, link) {
    this.failed = false;
    this.message.replaceChildren(words || "");
    if (link) this.message.append(" ", made("a", { href: `${base()}lab/tree/${link}`, target: "_blank", rel: "noopener", textContent: link }));
  }

  // Actions of a person.

  openRunbook(alert) {
    this.ask({ do: "open", alert, at: this.past ? this.known.places[HEAD.iso] : "" });
  }

  acknowledge() {
    if (!this.acks.value.trim()) {
      this.acks.focus();
      return this.notify("Enter your name beside Acknowledge first.");
    }
    this.ask({ do: "ack", alert: this.worst, by: this.acks.value, at: this.past ? this.known.places[HEAD.iso] : "" });
  }

  pause() {
    this.paused = !this.paused;
    this.pauses.textContent = this.paused ? "Resume" : "Pause";
    this.pauses.setAttribute("aria-pressed", String(this.paused));
    if (!this.paused && this.live && !this.past) {
      this.behind = 0;
      this.show(this.live, true);
    }
    this.tick();
  }

  range([from_s, until_s]) {
    Object.assign(this, { from_s, until_s });
    this.slider.min = Math.floor(from_s);
    this.slider.max = Math.ceil(until_s);
    if (!this.past) this.slider.value = this.slider.max;
  }

  slide(at_s) {
    clearTimeout(this.sliding);
    if (at_s >= Number(this.slider.max)) return this.now();
    this.sliding = setTimeout(() => this.go({ do: "at", at_s }), 80);
  }

  go(what) {
    this.past = true;
    this.back.hidden = false;
    this.ask(what);
    this.tick();
  }

  now() {
    clearTimeout(this.sliding);
    this.past = false;
    this.behind = 0;
    this.back.hidden = true;
    this.slider.value = this.slider.max;
    if (this.live) this.show(this.live, true);
    else this.ask({ do: "all" });
  }

  tick() {
    const silent = (performance.now() - this.received) / 1000;
    const late = silent > 3 * Number(this.model.get("every_s")) + 2;
    const badge = this.past ? `past moment${this.paused ? ", paused" : ""}` : this.paused ? `paused, ${this.behind} update${this.behind === 1 ? "" : "s"} behind` : late ? `no update for ${duration(silent)}: the kernel is busy, suspended or stopped (if it has stopped, run this cell or load this page again)` : "live";
    if (this.badge.textContent !== badge) this.badge.textContent = badge;
    this.badge.className = `badge ${this.past ? "is-past" : this.paused ? "is-paused" : late ? "is-late" : "is-live"}`;
    this.root.classList.toggle("stale", late && !this.past);
    if (this.undrawn) this.redraw();
  }

  /** Read all charts at one step; null: at none. */
  read(step) {
    this.cursor = step;
    for (const chart of this.charts) chart.read();
  }

  // Display.

  show(known, whole, changed = []) {
    const rebuilt = whole || this.known !== known || !this.cells;
    this.known = known;
    if (rebuilt) this.lay(known);
    const places = rebuilt ? known.places.keys() : changed;
    for (const i of places) this.place(i);
    this.redraw();
    for (const panel of this.open) this.askSentences(panel);
    this.tick();
  }

  lay(known) {
    const key = JSON.stringify(known.shape);
    if (this.laid === key) return;
    this.laid = key;
    this.cells = [];
    this.charts = [];
    this.sentences = new Map();
    this.grid.replaceChildren(...known.shape.panels.map((panel, n) => this.panel(known, panel, n)));
  }

  panel(known, panel, n) {
    const at = known.at[n];
    const title = this.fixed ? made("h3", { textContent: panel.title }) : made("h3", {}, made("a", { href: `${base()}lab/tree/notebooks/${panel.details}.ipynb`, target: "_blank", rel: "noopener", textContent: panel.title, title: "open the notebook with details, as of this moment" }));
    if (!this.fixed) title.firstChild.onclick = (event) => { event.preventDefault(); this.ask({ do: "details", panel: panel.name, at: this.known.places[HEAD.iso] }); };
    const verdict = made("span", { className: "verdict" }), reason = made("p", { className: "reason" });
    this.cells[at.verdict] = (text) => this.showVerdict(verdict, text, box);
    this.cells[at.reason] = (text) => { reason.textContent = text; reason.hidden = !text; };
    const chart = new Chart(this, panel, n);
    this.charts.push(chart);
    const box = made("article", { className: "panel" }, made("div", { className: "top" }, title, reason, verdict), this.keys(panel, at), chart.box, this.details(panel, at));
    box.dataset.panel = panel.name;
    return box;
  }

  keys(panel, at) {
    let slot = at.values;
    return made("ul", { className: "keys" }, ...panel.keys.map((key, k) => {
      const limit = made("span", { className: "ops-note" }), tile = made("li", { className: "ops-figure" });
      this.cells[at.limits + k] = (text) => { limit.textContent = text; };
      const values = key.values.map((name) => {
        const sign = made("span", { className: "sign" }), value = made("b"), unit = made("small"), mine = slot;
        this.cells[mine] = (text) => {
          const state = STATES[text.slice(0, 2).trim()], words = state && text[1] === " " ? text.slice(2) : text, cut = words.includes(" ") ? words.indexOf(" ") : words.length;
          sign.textContent = state ? `${SIGNS[state]} ` : "";
          value.textContent = words.slice(0, cut);
          unit.textContent = words.slice(cut);
          setState(box, state);
          setState(tile, ["escalate", "critical", "notify", "warning", "unknown", "ok"].find((worse) => tile.querySelector(`.value.is-${worse}`)));
        };
        slot += 1;
        const box = made("span", { className: "value" }, made("span", { className: "ops-value" }, value, unit), made("span", { className: "ops-note" }, sign, name));
        return box;
      });
      tile.append(made("span", { className: "ops-label", textContent: key.label }), made("span", { className: "values" }, ...values), limit);
      return tile;
    }));
  }

  details(panel, at) {
    const list = made("ul", { className: "sentences" }), body = made("tbody");
    this.sentences.set(panel.name, list);
    panel.figures.forEach((figure, i) => {
      const value = made("td", { tabIndex: 0 });
      value.dataset.figure = figure.label;
      value.onmouseenter = value.onfocus = () => { value.title = this.hover(figure, at, i); };
      this.cells[at.figures + i] = (text) => { value.textContent = text; };
      body.append(made("tr", {}, made("th", { scope: "row", textContent: figure.label }), value));
    });
    const fold = made("details", { className: "ops-fold", open: this.open.has(panel.name) }, made("summary", { textContent: `All ${panel.figures.length} figures, and what was evaluated` }), made("table", {}, body), list);
    fold.ontoggle = () => {
      if (!fold.open) return this.open.delete(panel.name);
      this.open.add(panel.name);
      this.askSentences(panel.name);
    };
    return fold;
  }

  askSentences(panel) {
    this.ask({ do: "sentences", panel, at: this.known.places[HEAD.iso] });
  }

  hover(figure, at, i) {
    const of = figure.of === null ? "" : `, of ${this.known.places[at.figures + figure.of]}`;
    return `${figure.label}: ${this.known.places[at.figures + i]} in ${this.known.shape.window}${of}; ${figure.limits}`;
  }

  showVerdict(place, text, box) {
    const verdict = word(text);
    place.textContent = `${SIGNS[verdict] || "?"} ${text}`;
    setState(box, SIGNS[verdict] ? verdict : "unknown");
  }

  place(i) {
    const { places, shape } = this.known, text = places[i];
    const said = (place) => { place.textContent = text; place.hidden = !text; };
    if (i === HEAD.moment || i === HEAD.iso) this.moment.textContent = `${places[HEAD.moment]}, ${places[HEAD.iso].slice(11, 19)} UTC on ${places[HEAD.iso].slice(0, 10)}`;
    else if (i === HEAD.verdict) this.showVerdict(this.verdict, text, this.head);
    else if (i === HEAD.age || i === HEAD.coverage) this.age.textContent = `last snapshot ${places[HEAD.age].replace(/(\d.*)/, "$1 ago")}; ${places[HEAD.coverage]}; figures over ${shape.window}`;
    else if (i === HEAD.alerts) this.alerts(text);
    else if (i === HEAD.since) said(this.since);
    else if (i === HEAD.cause) said(this.cause);
    else if (i === HEAD.first) said(this.first);
    else if (i === HEAD.works) said(this.works);
    else if (i === HEAD.owner) said(this.owner);
    else if (this.cells[i]) this.cells[i](text);
  }

  alerts(text) {
    const found = rows(text), [worst] = found;
    this.list.hidden = !worst;
    this.acts.hidden = !worst || this.fixed;
    this.ack.hidden = !!worst?.[5];  // The line with the owner says who acknowledged it.
    this.count.textContent = `${found.length} alert${found.length === 1 ? "" : "s"} to act on`;
    this.worst = worst?.[0];
    this.runbook.disabled = !worst?.[4];
    this.runbook.title = worst ? `${worst[4]}, for the worst alert: ${worst[3]}` : "";
    this.strip.replaceChildren(...found.map(([id, severity, since, sentence, runbook, by]) => {
      const words = `${SIGNS[severity] || "?"} ${since}: ${sentence}`;
      if (this.fixed) return made("li", { className: `is-${severity}` }, words, by ? `; acknowledged by ${by}` : "");
      const open = made("button", { type: "button", title: `open the runbook ${runbook} for this alert`, disabled: !runbook, textContent: words });
      open.onclick = () => this.openRunbook(id);
      const noise = made("button", { type: "button", textContent: "Noise", title: "report that this alert was not worth a notification" });
      noise.onclick = () => this.report("noise", id);
      return made("li", { className: `is-${severity}` }, open, " ", noise, " ", by ? made("span", { textContent: `acknowledged by ${by}` }) : "");
    }));
  }

  redraw() {
    this.undrawn = false;
    for (const chart of this.charts || []) chart.draw();
  }
}

export default {
  render({ model, el }) {
    const view = new View(model, el);
    view.sized = new ResizeObserver(() => view.redraw());
    view.sized.observe(el);
    return () => view.end();
  },
};
