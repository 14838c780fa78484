// The live dashboard in a browser: what the kernel says of a moment, shown place by place. It reckons nothing of its own but
// how long ago it last heard something. No library, no address: what it needs stands here.

const SIGNS = { ok: "✓", warning: "▲", notify: "▲", critical: "◆", escalate: "◆", unknown: "?" };
const HEAD = { iso: 0, moment: 1, verdict: 2, age: 3, seen: 4, alerts: 5 };
const HEADS = 6, SENTENCES = 4, POINTS = 1000, BETWEEN = "|", BLANK = "~";

const made = (name, attributes = {}, ...children) => {
  const found = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in found && key !== "list") found[key] = value;
    else found.setAttribute(key, value);
  }
  found.append(...children);
  return found;
};
const word = (told) => (told || "unknown").split(" ")[0];
const base = () => {
  const place = document.getElementById("jupyter-config-data");
  try { return JSON.parse(place.textContent).baseUrl || "/"; } catch { return "/"; }
};
const duration = (s) => s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;

/** What is known of one moment: every place's text, and each line's points. */
class Known {
  constructor(whole) {
    this.shape = whole.shape;
    this.places = [...whole.places];
    this.lines = whole.lines.map((line) => new Map(line));
    this.starts = [];
    let at = HEADS;
    for (const panel of this.shape.panels) {
      this.starts.push(at);
      at += 1 + SENTENCES + panel.figures.length + 1;
    }
  }
  /** Take in a change; gives the places that are others now. */
  change(told) {
    const changed = [];
    told.split(BETWEEN).forEach((value, i) => {
      if (value === "") return;
      this.places[i] = value === BLANK ? "" : value;
      changed.push(i);
    });
    this.starts.forEach((start, n) => {
      const at = start + 1 + SENTENCES + this.shape.panels[n].figures.length;
      if (!changed.includes(at)) return;
      for (const point of this.places[at].split(";")) {
        const [step, value] = point.split(":");
        this.lines[n].set(Number(step), value === "" ? null : Number(value));
      }
      while (this.lines[n].size > POINTS) this.lines[n].delete(this.lines[n].keys().next().value);
    });
    return changed;
  }
}

/** One view of it: its own moment, its own pause. */
class View {
  constructor(model, el) {
    this.model = model;
    this.id = Math.random().toString(36).slice(2);
    this.paused = false;
    this.past = false;
    this.behind = 0;
    this.undrawn = false;
    this.heard = performance.now();
    this.known = null;
    this.live = null;
    this.root = made("section", { className: "ops-live" });
    this.root.setAttribute("aria-label", "Live dashboard");
    el.append(this.root);
    this.build();
    this.listen = (message) => this.hear(message);
    model.on("msg:custom", this.listen);
    this.timer = setInterval(() => this.tick(), 1000);
    this.show(new Known(model.get("whole")), true);
    this.ask({ do: "all", first: true });
  }

  end() {
    clearInterval(this.timer);
    this.sized?.disconnect();
    this.themed?.disconnect();
    this.model.off("msg:custom", this.listen);
  }

  ask(what) {
    try { this.model.send({ ...what, view: this.id }); } catch { this.say("The kernel is gone: run this cell again."); }
  }

  build() {
    const button = (words, act, more = {}) => made("button", { type: "button", textContent: words, onclick: act, ...more });
    this.verdict = made("strong", { className: "verdict" });
    this.moment = made("span", { className: "moment" });
    this.age = made("span", { className: "age" });
    this.badge = made("span", { className: "badge" });
    this.badge.setAttribute("role", "status");
    this.pauses = button("Pause", () => this.pause());
    this.every = made("input", { type: "number", min: 1, max: 60, step: 1, value: this.model.get("every_s"), className: "every" });
    this.every.setAttribute("aria-label", "seconds between updates");
    this.every.onchange = () => this.ask({ do: "every", seconds: Number(this.every.value) });
    this.head = made("header", {}, this.verdict, this.moment, this.age, this.badge, made("span", { className: "controls" }, this.pauses, made("label", {}, "every ", this.every, " s")));
    this.strip = made("ul", { className: "alerts" });
    this.strip.setAttribute("aria-label", "Alerts, worst first");
    this.grid = made("div", { className: "grid" });
    this.slider = made("input", { type: "range", min: 0, max: 1, value: 1, step: 5, className: "slider" });
    this.slider.setAttribute("aria-label", "moment that is shown");
    this.slider.oninput = () => this.slide(Number(this.slider.value));
    this.date = made("input", { type: "datetime-local", step: 1, className: "date" });
    this.date.setAttribute("aria-label", "moment that is shown, New York");
    this.date.onchange = () => this.date.value && this.go({ do: "at", local: this.date.value });
    this.back = button("Back to now", () => this.now(), { hidden: true });
    this.told = made("p", { className: "told" });
    this.told.setAttribute("role", "status");
    this.past_row = made("div", { className: "past" }, made("span", { textContent: "earlier" }), this.slider, made("span", { textContent: "now" }), this.date, this.back);
    this.form = this.feedback();
    this.root.append(this.head, this.strip, this.grid, this.past_row, this.form, this.told);
  }

  feedback() {
    this.words = made("input", { type: "text", className: "words", placeholder: "what the monitoring missed" });
    this.words.setAttribute("aria-label", "what the monitoring missed");
    this.by = made("input", { type: "text", className: "by", placeholder: "your name" });
    this.by.setAttribute("aria-label", "your name");
    return made("div", { className: "feedback" }, this.words, this.by, made("button", { type: "button", textContent: "Missed data", onclick: () => this.opine("missed-data", "") }));
  }

  opine(kind, alert) {
    if (!this.by.value.trim() || (kind === "missed-data" && !this.words.value.trim())) return this.say(kind === "noise" ? "Say who you are, below." : "Say what was missed, and who you are.");
    this.ask({ do: "feedback", kind, alert, words: this.words.value, by: this.by.value, at: this.known.places[HEAD.iso] });
    this.words.value = "";
  }

  // What comes from the kernel.

  hear(message) {
    if (message.view && message.view !== this.id) return;
    if (message.said !== undefined) return this.say(message.said, message.link);
    if (message.trouble !== undefined) {
      if (this.past) return;
      this.say(message.trouble);
      this.trouble = true;
      return;
    }
    this.heard = performance.now();
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
    else return message.view ? undefined : this.ask({ do: "all" });  // One was missed.
    this.n = message.n;
    if (message.range) this.range(message.range);
    else if (this.from_s !== undefined) this.range([this.from_s, Date.parse(this.live.places[HEAD.iso]) / 1000]);  // What is now can be gone back to later.
    if (this.trouble) this.say("");
    if (this.past) return;
    if (this.paused) {
      this.behind += 1;
      return this.tick();
    }
    if (message.whole) this.show(this.live, true);
    else this.show(this.live, false, this.changed);
  }

  say(words, link) {
    this.trouble = false;
    this.told.replaceChildren(words || "");
    if (link) this.told.append(" ", made("a", { href: `${base()}lab/tree/${link}`, target: "_blank", rel: "noopener", textContent: link }));
  }

  // What a person does.

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
    const silent = (performance.now() - this.heard) / 1000;
    const late = silent > 3 * Number(this.model.get("every_s")) + 2;
    const said = this.past ? `as of then${this.paused ? ", paused" : ""}` : this.paused ? `paused, ${this.behind} update${this.behind === 1 ? "" : "s"} behind` : late ? `nothing heard for ${duration(silent)}: the kernel is busy, asleep or gone (then run this cell, or load this page, again)` : "live";
    if (this.badge.textContent !== said) this.badge.textContent = said;
    this.badge.className = `badge ${this.past ? "is-past" : this.paused ? "is-paused" : late ? "is-late" : "is-live"}`;
    this.root.classList.toggle("stale", late && !this.past);
    if (this.undrawn) {
      this.undrawn = false;
      this.redraw();
    }
  }

  // Showing.

  show(known, whole, changed = []) {
    const rebuilt = whole || this.known !== known || !this.cells;
    this.known = known;
    if (rebuilt) this.lay(known);
    const places = rebuilt ? known.places.keys() : changed;
    for (const i of places) this.place(i);
    this.tick();
  }

  lay(known) {
    const key = JSON.stringify(known.shape);
    if (this.laid === key) return;
    this.laid = key;
    this.cells = [];
    this.grid.replaceChildren(...known.shape.panels.map((panel, n) => this.panel(known, panel, n)));
  }

  panel(known, panel, n) {
    const start = known.starts[n];
    const title = made("h3", {}, made("a", { href: `${base()}lab/tree/notebooks/${panel.deeper}.ipynb`, target: "_blank", rel: "noopener", textContent: panel.title, title: "open the notebook that looks deeper, at this moment" }));
    title.firstChild.onclick = (event) => { event.preventDefault(); this.ask({ do: "deeper", panel: panel.name, at: this.known.places[HEAD.iso] }); };
    const verdict = made("span", { className: "verdict" });
    this.cells[start] = (text) => this.judge(verdict, text, box);
    const sentences = made("ul", { className: "sentences" });
    for (let i = 0; i < SENTENCES; i += 1) {
      const item = made("li");
      sentences.append(item);
      this.cells[start + 1 + i] = (text) => { item.textContent = text; item.hidden = !text; item.className = word(text).replace(":", ""); };
    }
    const rows = made("tbody");
    panel.figures.forEach((figure, i) => {
      const value = made("td", { tabIndex: 0 });
      value.dataset.figure = figure.label;
      const at = start + 1 + SENTENCES + i;
      value.onmouseenter = value.onfocus = () => { value.title = this.hover(figure, start, at); };
      this.cells[at] = (text) => { value.textContent = text; };
      rows.append(made("tr", {}, made("th", { scope: "row", textContent: figure.label }), value));
    });
    const canvas = made("canvas", { width: 600, height: 90 });
    canvas.setAttribute("role", "img");
    this.cells[start + 1 + SENTENCES + panel.figures.length] = () => this.draw(canvas, n);
    const box = made("article", { className: "panel" }, made("div", { className: "top" }, title, verdict), sentences, made("table", {}, rows), canvas);
    box.dataset.panel = panel.name;
    return box;
  }

  hover(figure, start, at) {
    const of = figure.of === null ? "" : `, of ${this.known.places[start + 1 + SENTENCES + figure.of]}`;
    return `${figure.label}: ${this.known.places[at]} in ${this.known.shape.window}${of}; ${figure.limits}`;
  }

  judge(place, text, box) {
    const verdict = word(text);
    place.textContent = `${SIGNS[verdict] || "?"} ${text}`;
    for (const name of Object.keys(SIGNS)) box.classList.toggle(`is-${name}`, name === verdict);
  }

  place(i) {
    const text = this.known.places[i];
    if (i === HEAD.moment || i === HEAD.iso) this.moment.textContent = `${this.known.places[HEAD.moment]}, ${this.known.places[HEAD.iso].slice(11, 19)} UTC on ${this.known.places[HEAD.iso].slice(0, 10)}`;
    else if (i === HEAD.verdict) this.judge(this.verdict, text, this.head);
    else if (i === HEAD.age || i === HEAD.seen) this.age.textContent = `last look ${this.known.places[HEAD.age]} ago; ${this.known.places[HEAD.seen]}`;
    else if (i === HEAD.alerts) this.alerts(text);
    else if (this.cells[i]) this.cells[i](text);
  }

  alerts(text) {
    const rows = text ? text.split("\n").map((row) => row.split("\t")) : [];
    this.strip.replaceChildren(...rows.map(([id, severity, state, since, sentence, runbook, by]) => {
      const open = made("button", { type: "button", title: `open the runbook ${runbook} for it`, disabled: !runbook, textContent: `${SIGNS[severity] || "?"} ${severity}${state === "unknown" ? " (unknown now)" : ""} since ${since}: ${sentence}` });
      open.onclick = () => this.ask({ do: "open", alert: id, at: this.past ? this.known.places[HEAD.iso] : "" });
      const noise = made("button", { type: "button", textContent: "Noise", title: "nobody had to be told of this" });
      noise.onclick = () => this.opine("noise", id);
      return made("li", { className: `is-${severity}` }, open, " ", noise, " ", by ? made("span", { className: "holder", textContent: `taken by ${by}` }) : "");
    }));
    if (!rows.length) this.strip.append(made("li", { className: "none", textContent: "nothing fires" }));
  }

  redraw() {
    if (this.cells) this.known.starts.forEach((start, n) => this.cells[start + 1 + SENTENCES + this.known.shape.panels[n].figures.length](""));
  }

  draw(canvas, n) {
    const panel = this.known.shape.panels[n];
    const wide = canvas.clientWidth, high = canvas.clientHeight, scale = window.devicePixelRatio || 1;
    if (!wide) {  // It is not on the page now, in a tab behind others or scrolled away: it is drawn once it is.
      this.undrawn = true;
      return;
    }
    if (canvas.width !== Math.round(wide * scale) || canvas.height !== Math.round(high * scale)) { canvas.width = Math.round(wide * scale); canvas.height = Math.round(high * scale); }
    const steps = [...this.known.lines[n].keys()];
    const last = Math.max(...steps), first = Math.max(Math.min(...steps), last - this.known.shape.steps + 1);
    const points = [...this.known.lines[n]].filter(([step]) => step >= first).sort((a, b) => a[0] - b[0]);
    const values = points.map(([, value]) => value).filter((value) => value !== null);
    const context = canvas.getContext("2d"), style = getComputedStyle(this.root);
    const ink = style.getPropertyValue("--ops-ink"), line = style.getPropertyValue("--ops-line"), faint = style.getPropertyValue("--ops-faint");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, wide, high);
    const size = Math.round(0.8 * parseFloat(getComputedStyle(canvas).fontSize)), left = 4 * size, above = 1.8 * size, below = 1.25 * size;  // Margins go with the letters.
    context.font = `${size}px system-ui, sans-serif`;
    context.fillStyle = ink;
    const name = `${panel.line}, ${panel.unit}`;
    if (!values.length) { context.fillText(`${name}: not known`, 4, 1.25 * size); canvas.setAttribute("aria-label", `${name}: not known`); return; }
    const [floor, ceiling] = panel.span;  // What is shown at least, so that a small change does not look like a large one.
    const low = Math.min(...values, floor), top = Math.max(...values, ceiling);
    const x = (step) => left + (wide - left - 6) * (last === first ? 1 : (step - first) / (last - first)), y = (value) => high - below - (high - above - below) * (top === low ? 0.5 : (value - low) / (top - low));
    context.strokeStyle = faint;
    context.beginPath();
    for (const value of [low, top]) { context.moveTo(left, y(value)); context.lineTo(wide - 6, y(value)); }
    context.stroke();
    context.fillText(name, left, size);
    for (const value of [low, top]) context.fillText(String(Math.round(value * 10) / 10), 4, y(value) + 0.35 * size);
    context.strokeStyle = line;
    context.lineWidth = 1.5;
    context.beginPath();
    let drawing = false;  // A gap is never bridged.
    for (const [step, value] of points) {
      if (value === null) { drawing = false; continue; }
      if (drawing) context.lineTo(x(step), y(value));
      else context.moveTo(x(step), y(value));
      context.lineTo(x(step) + 0.5, y(value));
      drawing = true;
    }
    context.stroke();
    context.fillStyle = line;
    points.forEach(([step, value], i) => {  // A point between gaps is no line: a square, so that it is seen.
      if (value !== null && (points[i - 1]?.[1] ?? null) === null && (points[i + 1]?.[1] ?? null) === null) context.fillRect(x(step) - 2, y(value) - 2, 4, 4);
    });
    canvas.setAttribute("aria-label", `${name}, over ${this.known.shape.window}: from ${Math.min(...values)} to ${Math.max(...values)}, at the end ${values[values.length - 1]}`);
  }
}

export default {
  render({ model, el }) {
    const view = new View(model, el);
    view.sized = new ResizeObserver(() => view.redraw());
    view.sized.observe(el);
    view.themed = new MutationObserver(() => view.redraw());
    view.themed.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name"] });
    return () => view.end();
  },
};
