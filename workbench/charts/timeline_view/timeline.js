// The timeline of a step on a canvas, as a component of Streamlit (1.67, components v2) and as an anywidget.

const HEAD = 24, AXIS = 24, GAP = 5, CAPTION = 16, SHARES = 62, LANE = [20, 60]; // pixels
const NARROW = 640; // pixels: on a narrower page, names and shares are above the lanes and not beside them
const LEAST_MS = 1e-3; // shortest time that is shown
const MOST_LISTED = 200; // events in the table
const LONG_PRESS_MS = 500, SLACK = { touch: 8, other: 2 }; // a finger held so long selects; pixels before a press is a drag
const PAGE = `
  <div class="tools">
    <label>Color by <select class="by"></select></label>
    <input type="search" class="search" placeholder="Search" aria-label="Search operations, stages and layers">
    <span class="found" role="status"></span>
    <span class="range"></span>
    <button type="button" class="in" title="Zoom in" aria-label="Zoom in">+</button>
    <button type="button" class="out" title="Zoom out" aria-label="Zoom out">−</button>
    <button type="button" class="reset" title="Show the whole step">Reset</button>
    <button type="button" class="selects" title="Sum up the region of the next drag" aria-pressed="false">Select</button>
    <button type="button" class="lists" title="List the events of the visible part" aria-pressed="false">Table</button>
  </div>
  <ul class="legend" aria-label="Legend"></ul>
  <div class="stage">
    <canvas class="canvas" tabindex="0" role="application" aria-roledescription="timeline"></canvas>
    <div class="tip" aria-hidden="true" hidden></div>
  </div>
  <div class="spoken" aria-live="polite"></div>
  <p class="hint"></p>
  <div class="summary" role="region" aria-label="Selected region"></div>
  <div class="events wide" role="region" aria-label="Events of the visible part" tabindex="0" hidden></div>`;
const KEYS =
  "Keys: arrows, +, −, 0, Home, End; Tab goes from event to event, Enter zooms to it, Escape leaves; s sums up the visible part.";
const MOUSE = "Scroll to zoom, drag to pan, Shift and drag to sum up a region.";
const TOUCH = "Pinch to zoom, drag to pan, tap an event; hold and drag to sum up a region.";

const milliseconds = (value) => `${value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toPrecision(2)} ms`;
const percent = (share) => `${Math.round(share * 100)} %`;

export default function (component) {
  return component?.parentElement ? showInStreamlit(component) : { render };
}

function showInStreamlit({ data, parentElement }) {
  const timeline = parentElement.timeline ?? new Timeline(parentElement);
  timeline.show(data);
  return () => timeline.close();
}

function render({ model, el }) {
  const timeline = new Timeline(el, (region) => {
    model.set("region", region);
    model.save_changes();
  });
  const show = () => timeline.show(model.get("packed"));
  model.on("change:packed", show);
  show();
  return () => {
    model.off("change:packed", show);
    timeline.close();
  };
}

function element(parent, tag, attributes = {}, text = "") {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) created.setAttribute(name, value);
  created.textContent = text;
  parent.append(created);
  return created;
}

class Timeline {
  constructor(parent, onRegion = () => {}) {
    parent.timeline = this;
    this.root = element(parent, "div", { class: "timeline" });
    this.root.innerHTML = PAGE;
    for (const part of this.root.querySelectorAll("[class]")) this[part.classList[0]] = part;
    this.onRegion = onRegion;
    this.context = this.canvas.getContext("2d");
    this.pointers = new Map();
    this.by.onchange = () => this.colour();
    this.search.oninput = () => this.find();
    this.search.onkeydown = (event) => {
      if (event.key === "Enter") this.focusMatch(event.shiftKey ? -1 : 1);
    };
    this.in.onclick = () => this.zoom(0.5);
    this.out.onclick = () => this.zoom(2);
    this.reset.onclick = () => this.look(0, this.header.span_ms);
    this.selects.onclick = () => void (this.selects.ariaPressed = this.selects.ariaPressed !== "true");
    this.canvas.onpointerdown = (event) => this.press(event);
    this.canvas.onpointermove = (event) => this.move(event);
    this.canvas.onpointerup = (event) => this.release(event);
    this.canvas.onpointercancel = (event) => this.cancel(event);
    this.canvas.onpointerenter = () => this.invalidate(true); // the ground of the page may have changed
    this.canvas.oncontextmenu = (event) => event.pointerType !== "touch"; // a long press selects
    this.canvas.onpointerleave = (event) => void (event.pointerType === "mouse" && this.point(null));
    this.canvas.onkeydown = (event) => !this.key(event); // false: the page does not see the key
    this.canvas.onblur = () => this.setFocus((this.isLeaving = null));
    this.canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    const holds = (event) => (event.touches.length > 1 || this.anchor !== null) && event.preventDefault(); // else the page scrolls
    this.canvas.addEventListener("touchmove", holds, { passive: false });
    this.anchor = this.held = null;
    this.isHeld = false; // a held finger has turned Select on, for this press alone
    this.lists.onclick = () => this.toggleTable();
    this.observer = new ResizeObserver(() => this.invalidate(true));
    this.observer.observe(this.root);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.scheme.onchange = () => setTimeout(() => this.invalidate(true)); // the page changes its colours first
  }

  close() {
    this.observer.disconnect();
    this.scheme.onchange = null;
    clearTimeout(this.held);
    clearTimeout(this.listing);
    delete this.root.parentNode?.timeline;
    this.root.remove();
  }

  /** Shows packed lanes. The same ones again, as after a rerun of a page, leave view, search and selection as they are. */
  show(bytes) {
    const header = unpack(bytes), isSame = this.header?.key === header.key, by = isSame ? this.by.value : "kind";
    this.header = header;
    this.lanes = header.groups.flatMap((group) => group.lanes);
    this.canvas.setAttribute("aria-label", `${header.title} ${header.description}`);
    this.by.replaceChildren(...Object.keys(header.shades).map((name) => new Option(name, name, false, name === by)));
    this.by.parentElement.hidden = this.by.length < 2;
    const isTouch = matchMedia("(pointer: coarse)").matches;
    this.hint.textContent = [isTouch ? TOUCH : MOUSE, ...header.hints, isTouch ? "" : KEYS].join(" ");
    this.hover = this.focus = null;
    this.widths = new Map();
    this.invalidate(true);
    if (!isSame) {
      this.look(0, header.span_ms);
      this.select(null);
    }
    this.colour();
    this.find();
  }

  /** Takes the shades of kinds, microbatches or stages, and names them in the legend. */
  colour() {
    const { shades, of, note } = this.header.shades[this.by.value];
    this.shades = shades;
    for (const lane of this.lanes) storeSums(lane, of, shades.length);
    this.legend.replaceChildren();
    for (const { colour, label } of shades.filter((shade) => shade.label)) {
      element(element(this.legend, "li"), "span", { style: `background: ${colour}` }).after(label);
    }
    const isLate = this.lanes.some((lane) => lane.begins_ms > 0);
    if (isLate) element(element(this.legend, "li"), "span", { class: "hatched" }).after("not begun");
    if (note) element(this.legend, "li", {}, note);
    this.invalidate();
  }

  /** Finds and counts the events whose text has all words of the search. */
  find() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const has = ({ text }) => words.every((word) => text.toLowerCase().includes(word));
    this.matching = words.length ? this.header.activities.map(has) : null;
    const count = this.lanes.reduce((sum, lane) => sum + storeMatches(lane, this.matching), 0);
    this.found.textContent = this.matching ? `${count.toLocaleString("en")} ${count === 1 ? "event" : "events"} found` : "";
    this.invalidate();
  }

  describe({ lane, i }) {
    const { text } = this.header.activities[lane.activity[i]], length = lane.eventEnd[i] - lane.eventBegin[i];
    const here = lane.end[i] - lane.begin[i], part = here < 0.999 * length ? `, this part ${milliseconds(here)}` : "";
    return [text, `${milliseconds(length)}${part}, begins at ${milliseconds(lane.eventBegin[i])}`, lane.name];
  }

  // ---- what part of the step is shown ----

  look(begin, end) {
    const length = clamp(end - begin, LEAST_MS, this.header.span_ms), from = clamp(begin, 0, this.header.span_ms - length);
    this.view = [from, from + length];
    this.invalidate();
    this.listSoon();
  }

  zoom(factor, at = (this.view[0] + this.view[1]) / 2) {
    this.look(at - (at - this.view[0]) * factor, at + (this.view[1] - at) * factor);
  }

  pan(part) {
    const length = this.view[1] - this.view[0];
    const from = clamp(this.view[0] + length * part, 0, this.header.span_ms);
    this.look(from, from + length);
  }

  /** Shows an event with half of its length on each side. */
  zoomTo({ lane, i }) {
    const half = (lane.eventEnd[i] - lane.eventBegin[i]) / 2;
    this.look(lane.eventBegin[i] - half, lane.eventEnd[i] + half);
  }

  rangeText() {
    const [begin, end] = this.view, span = this.header.span_ms;
    return end - begin < span
      ? `${milliseconds(begin)} to ${milliseconds(end)} of ${milliseconds(span)}`
      : `whole step, ${milliseconds(span)}`;
  }

  timeAt(x) {
    return this.view[0] + (clamp(x, this.left, this.right) - this.left) / this.scale;
  }

  xOf(time) {
    return clamp(this.left + (time - this.view[0]) * this.scale, this.left, this.right);
  }

  /** The piece at a point, or one up to two pixels beside it. */
  pieceAt([x, y]) {
    const lane = this.lanes.find((one) => y >= one.y && y < one.y + one.height);
    if (!lane || x < this.left || x > this.right) return null;
    const time = this.timeAt(x), next = after(lane.end, time), near = [next, next - 1].filter((i) => i >= 0 && i < lane.count);
    const i = near.find((j) => lane.begin[j] - 2 / this.scale <= time && time <= lane.end[j] + 2 / this.scale);
    return i === undefined ? null : { lane, i };
  }

  // ---- pointers, wheel and keys ----

  wheel(event) {
    const isWhole = this.view[1] - this.view[0] >= this.header.span_ms;
    if (isWhole && event.deltaY > 0 && !event.ctrlKey) return; // the page scrolls
    event.preventDefault();
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.pan(event.deltaX / (this.right - this.left));
    else this.zoom(Math.exp(clamp(event.deltaY, -100, 100) / (event.ctrlKey ? 50 : 300)), this.timeAt(event.offsetX));
  }

  point(at) {
    this.pointer = at;
    this.hover = at && this.pieceAt(at);
    this.invalidate();
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    clearTimeout(this.held);
    this.isDragged = this.pointers.size > 1;
    const selects = (event.shiftKey || this.selects.ariaPressed === "true") && this.pointers.size === 1;
    this.anchor = selects ? this.timeAt(event.offsetX) : null;
    if (event.pointerType !== "touch" || this.pointers.size > 1) return;
    const begin = this.timeAt(event.offsetX);
    this.held = setTimeout(() => {
      this.anchor = begin;
      this.isHeld = this.selects.ariaPressed !== "true";
      this.selects.ariaPressed = true;
    }, LONG_PRESS_MS);
  }

  move(event) {
    const at = [event.offsetX, event.offsetY], before = this.pointers.get(event.pointerId);
    if (!before) return this.point(at);
    this.isDragged ||= Math.abs(at[0] - before[0]) > (SLACK[event.pointerType] ?? SLACK.other);
    if (!this.isDragged) return;
    clearTimeout(this.held);
    this.point(null);
    this.pointers.set(event.pointerId, at);
    const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    const apart = ([x, y]) => Math.max(8, Math.hypot(x - other[0], y - other[1]));
    if (this.anchor !== null) this.region = [this.anchor, this.timeAt(at[0])].sort((a, b) => a - b);
    else if (!other) this.pan((before[0] - at[0]) / (this.right - this.left));
    else this.pinch(apart(before) / apart(at), (before[0] + other[0]) / 2, (at[0] + other[0]) / 2);
  }

  /** Zooms so that the time between two fingers stays between them. */
  pinch(factor, from, to) {
    const time = this.timeAt(from), length = (this.view[1] - this.view[0]) * factor;
    const begin = time - ((to - this.left) / (this.right - this.left)) * length;
    this.look(begin, begin + length);
    this.scale = (this.right - this.left) / (this.view[1] - this.view[0]); // the next finger may move before this is drawn
  }

  release(event) {
    clearTimeout(this.held);
    this.pointers.delete(event.pointerId);
    if (this.isDragged && this.anchor !== null) {
      this.select(this.region);
      this.selects.ariaPressed = false;
    } else if (!this.isDragged) {
      const at = [event.offsetX, event.offsetY];
      if (event.pointerType === "mouse") this.point(at);
      this.setFocus(this.pieceAt(at));
    }
    this.letGo();
  }

  /** The page scrolls instead. */
  cancel(event) {
    clearTimeout(this.held);
    this.pointers.delete(event.pointerId);
    this.letGo();
  }

  letGo() {
    if (this.isHeld) this.selects.ariaPressed = false;
    this.isHeld = false;
    this.anchor = null;
  }

  /** Acts on a key; returns whether it was one of the timeline's. */
  key(event) {
    const moves = {
      ArrowLeft: () => this.pan(-0.1),
      ArrowRight: () => this.pan(0.1),
      Home: () => this.pan(-Infinity),
      End: () => this.pan(Infinity),
      "+": () => this.zoom(0.5),
      "=": () => this.zoom(0.5),
      "-": () => this.zoom(2),
      0: () => this.reset.onclick(),
      Enter: () => this.focus && this.zoomTo(this.focus),
    };
    const acts = {
      ArrowUp: () => this.changeLane(-1),
      ArrowDown: () => this.changeLane(1),
      s: () => this.select(this.view),
      Escape: () => (this.setFocus(null), this.select(null)),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Shift") return false;
    if (event.key === "Tab") return !this.isLeaving && this.step(event.shiftKey ? -1 : 1);
    this.isLeaving = event.key === "Escape";
    acts[event.key]?.();
    if (event.key in moves) {
      moves[event.key]();
      this.spoken.textContent = this.rangeText();
    }
    return event.key in acts || event.key in moves;
  }

  /** Focuses the next visible piece of the lane, from one out of view the first or last; returns false if there is none, so that
   *  Tab leaves. */
  step(by) {
    const lane = this.focus?.lane ?? this.lanes.find(({ count }) => count > 0);
    if (!lane) return false;
    const first = after(lane.end, this.view[0]), last = after(lane.begin, this.view[1]) - 1;
    const isVisible = this.focus && this.focus.i >= first && this.focus.i <= last;
    const i = isVisible ? this.focus.i + by : by > 0 ? first : last;
    this.setFocus(i >= first && i <= last ? { lane, i } : null);
    return this.focus !== null;
  }

  changeLane(by) {
    const lanes = this.lanes.filter(({ count }) => count > 0);
    const lane = lanes[clamp(lanes.indexOf(this.focus?.lane) + by, 0, lanes.length - 1)];
    if (!lane) return;
    const time = this.focus ? (this.focus.lane.begin[this.focus.i] + this.focus.lane.end[this.focus.i]) / 2 : this.view[0];
    this.setFocus({ lane, i: Math.min(after(lane.end, Math.max(time, this.view[0])), lane.count - 1) });
  }

  /** Focuses the next event that matches the search, or the one before, and brings it into view. */
  focusMatch(by) {
    const { lanes, focus } = this;
    let at = Math.max(0, lanes.indexOf(focus?.lane)), i = focus ? focus.i + by : 0;
    for (let tried = 0; this.matching && tried <= lanes.length; tried++) {
      const lane = lanes[at];
      while (i >= 0 && i < lane.count && !this.matching[lane.activity[i]]) i += by;
      if (i >= 0 && i < lane.count) {
        const half = (this.view[1] - this.view[0]) / 2, middle = (lane.begin[i] + lane.end[i]) / 2;
        if (lane.begin[i] < this.view[0] || lane.end[i] > this.view[1]) this.look(middle - half, middle + half);
        return this.setFocus({ lane, i });
      }
      at = (at + by + lanes.length) % lanes.length;
      i = by > 0 ? 0 : lanes[at].count - 1;
    }
  }

  setFocus(focus) {
    this.focus = focus;
    this.spoken.textContent = focus ? this.describe(focus).join(", ") : "";
    this.invalidate();
  }

  // ---- the selected region ----

  /** Selects a part of the step and sums it up per lane and kind; null selects nothing. */
  select(region) {
    this.region = region;
    this.onRegion(region ?? []);
    this.summary.replaceChildren();
    this.invalidate();
    if (!region) return;
    const [begin, end] = region, { kinds, activities, groups } = this.header;
    const sums = new Map(this.lanes.map((lane) => [lane, timeOfKinds(lane, activities, begin, end)]));
    const used = kinds.filter((kind) => [...sums.values()].some((of) => of[kind] > 0));
    const table = element(element(this.summary, "div", { class: "wide" }), "table");
    element(table, "caption", {}, `Selected: ${milliseconds(end - begin)}, from ${milliseconds(begin)} to ${milliseconds(end)}`);
    const head = element(element(table, "thead"), "tr"), body = element(table, "tbody");
    for (const name of ["lane", ...used.map((kind) => `${kind} (ms)`)]) element(head, "th", { scope: "col" }, name);
    for (const [lane, of] of sums) {
      const row = element(body, "tr"), isIdeal = groups.some((group) => group.is_ideal && group.lanes.includes(lane));
      element(row, "th", { scope: "row" }, isIdeal ? `${lane.name}, ideal` : lane.name);
      for (const time of used.map((kind) => of[kind])) {
        element(row, "td", {}, time ? `${time.toFixed(2)} (${percent(time / (end - begin))})` : "–");
      }
    }
    element(this.summary, "button", { type: "button" }, "Zoom to selection").onclick = () => this.look(begin, end);
    element(this.summary, "button", { type: "button" }, "Clear selection").onclick = () => this.select(null);
  }

  // ---- the events of the visible part, as a table ----

  toggleTable() {
    this.events.hidden = !this.events.hidden;
    this.lists.ariaPressed = !this.events.hidden;
    this.list();
  }

  /** Lists the events again once the view has not changed for a moment. */
  listSoon() {
    clearTimeout(this.listing);
    if (!this.events.hidden) this.listing = setTimeout(() => this.list(), 200);
  }

  list() {
    this.events.replaceChildren();
    if (this.events.hidden) return;
    const { events, count } = eventsBetween(this.lanes, ...this.view, MOST_LISTED), { activities, groups } = this.header;
    const ideal = new Set(groups.filter((group) => group.is_ideal).flatMap((group) => group.lanes));
    const table = element(this.events, "table"), first = count > events.length ? `, the first ${events.length} are listed` : "";
    element(table, "caption", {}, `${count.toLocaleString("en")} events: ${this.rangeText()}${first}`);
    const head = element(element(table, "thead"), "tr"), body = element(table, "tbody");
    for (const name of ["event", "lane", "begin (ms)", "duration (ms)"]) element(head, "th", { scope: "col" }, name);
    for (const { lane, i } of events) {
      const row = element(body, "tr"), begin = lane.eventBegin[i];
      element(row, "th", { scope: "row" }, activities[lane.activity[i]].text);
      element(row, "td", {}, ideal.has(lane) ? `${lane.name}, ideal` : lane.name);
      for (const time of [begin, lane.eventEnd[i] - begin]) element(row, "td", {}, time.toFixed(3));
    }
  }

  // ---- drawing ----

  /** Draws soon; `isResized`: the page has another size or other colours. */
  invalidate(isResized = false) {
    this.isResized ||= isResized;
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (this.root.isConnected) this.draw();
    });
  }

  /** Takes the colours for the ground of the page: dark if the first opaque background around the timeline is. */
  dress() {
    let around = this.root.parentNode, ground = [255, 255, 255];
    for (; around; around = around.parentNode ?? around.host) {
      const parts = around instanceof Element && getComputedStyle(around).backgroundColor.match(/[\d.]+/g)?.map(Number);
      if (parts && (parts.length === 3 || parts[3] > 0.5)) {
        ground = parts;
        break;
      }
    }
    const ink = this.header.schemes[ground[0] + ground[1] + ground[2] < 384 ? "dark" : "light"];
    if (ink === this.ink) return;
    this.ink = ink;
    for (const [name, value] of Object.entries(this.ink)) this.root.style.setProperty(`--${name}`, value);
  }

  /** Gives each lane its place, in half of the window's height if that is enough, and the canvas its size. */
  place() {
    const width = this.canvas.parentElement.clientWidth, { groups } = this.header, { lanes, context } = this;
    const isNarrow = width < NARROW, caption = isNarrow ? CAPTION : 0, above = AXIS + groups.length * HEAD;
    const height = clamp(Math.floor((innerHeight * 0.5 - above) / lanes.length) - GAP - caption, ...LANE);
    context.font = this.font ??= `12px ${getComputedStyle(this.root).fontFamily}`;
    const names = Math.max(...lanes.map((lane) => context.measureText(lane.name).width));
    this.left = isNarrow ? 0 : Math.ceil(Math.min(names + 12, width / 4));
    this.right = Math.max(this.left + 40, width - (isNarrow ? 0 : SHARES));
    this.bottom = AXIS;
    for (const group of groups) {
      group.y = this.bottom;
      this.bottom += HEAD;
      for (const lane of group.lanes) {
        Object.assign(lane, { height, y: this.bottom + caption });
        this.bottom += caption + height + GAP;
      }
    }
    const ratio = devicePixelRatio || 1, size = [width, this.bottom].map((length) => Math.round(length * ratio));
    if (this.canvas.width !== size[0] || this.canvas.height !== size[1]) [this.canvas.width, this.canvas.height] = size;
    this.canvas.style.height = `${this.bottom}px`;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    Object.assign(this, { width, isNarrow });
  }

  draw() {
    if (this.isResized) {
      this.isResized = false;
      this.dress();
      this.place();
    }
    const { context, isNarrow } = this;
    this.scale = (this.right - this.left) / (this.view[1] - this.view[0]);
    context.clearRect(0, 0, this.width, this.bottom);
    Object.assign(context, { font: this.font, textBaseline: "middle" });
    this.drawAxis();
    for (const group of this.header.groups) {
      this.write(group.title, 0, group.y + HEAD / 2, "ink");
      for (const lane of group.lanes) {
        this.drawNames(lane, isNarrow);
        context.save();
        context.beginPath();
        context.rect(this.left, lane.y, this.right - this.left, lane.height);
        context.clip();
        this.drawLane(lane);
        context.restore();
      }
    }
    if (this.region) {
      const [from, to] = this.region.map((time) => this.xOf(time));
      context.fillStyle = this.ink.accent;
      for (const [x, y, width, height] of [[from, 0, 2, this.bottom], [to - 2, 0, 2, this.bottom], [from, 0, to - from, 4]]) {
        context.fillRect(x, AXIS - 4 + y, width, height);
      }
    }
    this.drawTip(this.hover ?? this.focus);
    const range = this.rangeText();
    if (range !== this.range.textContent) this.range.textContent = range;
    if (this.canvas.dataset.drawn !== this.header.key) this.canvas.dataset.drawn = this.header.key;
  }

  write(text, x, y, ink, align = "left", widest = undefined) {
    Object.assign(this.context, { fillStyle: this.ink[ink] ?? ink, textAlign: align });
    this.context.fillText(text, x, y, widest);
  }

  drawAxis() {
    const [begin, end] = this.view, rough = (end - begin) / Math.max(2, (this.right - this.left) / 90);
    const power = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].find((times) => times * power >= rough) * power;
    const digits = clamp(-Math.floor(Math.log10(step) + 1e-9), 0, 6);
    for (let k = Math.ceil(begin / step); k * step <= end; k++) {
      const x = this.xOf(k * step), text = (k * step).toFixed(digits) + ((k + 1) * step > end ? " ms" : "");
      const half = this.context.measureText(text).width / 2;
      this.context.fillStyle = this.ink.line;
      this.context.fillRect(Math.round(x), AXIS - 4, 1, this.bottom - AXIS);
      this.write(text, clamp(x, this.left + half, this.right - half), AXIS / 2 - 2, "soft", "center");
    }
  }

  drawNames(lane, isNarrow) {
    const middle = lane.y + lane.height / 2, above = lane.y - CAPTION / 2;
    const shares = [`${percent(lane.busy)} busy`, `${percent(lane.idle)} idle`];
    this.write(lane.name, 0, isNarrow ? above : middle, "ink", "left", isNarrow ? this.right / 2 : this.left - 8);
    if (isNarrow) this.write(shares.join(" · "), this.right, above, "soft", "right");
    else if (lane.height < 30) this.write(shares[0], this.right + 6, middle, "soft", "left", SHARES - 6);
    else shares.forEach((text, line) => this.write(text, this.right + 6, middle + (line - 0.5) * 15, "soft", "left", SHARES - 6));
  }

  /** Draws the visible pieces: those of a pixel and more one by one, of the others the dominant shade of each pixel column. */
  drawLane(lane) {
    const { context, scale } = this, [viewBegin, viewEnd] = this.view, base = this.left - viewBegin * scale;
    context.fillStyle = this.ink.lane;
    context.fillRect(this.left, lane.y, this.right - this.left, lane.height);
    if (lane.begins_ms > viewBegin) this.hatch(lane);
    const matches = (from, to) => !lane.hits || lane.hits[to] > lane.hits[from];
    let begun = 0, until = -1, shade = -1, isMatch = false; // pixel columns of one shade, drawn together
    const flush = () => until > begun && this.bar(lane, begun, until, shade, isMatch);
    for (let i = after(lane.end, viewBegin), next; i < lane.count && lane.begin[i] < viewEnd; i = next) {
      const x = base + lane.begin[i] * scale, end = base + lane.end[i] * scale, column = Math.floor(x);
      const isWide = end - x >= 1;
      next = isWide ? i + 1 : Math.max(i + 1, after(lane.begin, (column + 1 - base) / scale, i));
      if (next > i + 1 && (lane.end[next - 1] - lane.begin[next - 1]) * scale >= 1) next--; // it is drawn by itself
      const now = isWide ? lane.shadeOf[lane.activity[i]] : dominant(lane, i, next), isFound = matches(i, next);
      if (isWide || until < column || now !== shade || isFound !== isMatch) {
        flush();
        [begun, shade, isMatch] = [column, now, isFound];
      }
      until = column + 1;
      if (!isWide) continue;
      this.bar(lane, x, end, now, isFound);
      if (isFound) this.label(lane, i, x, end);
      until = -1;
    }
    flush();
  }

  bar(lane, begin, end, shade, isMatch) {
    const { context } = this, x = Math.max(begin, this.left - 2), width = Math.min(end, this.right + 2) - x;
    if (!isMatch) context.globalAlpha = 0.2;
    context.fillStyle = this.shades[shade].colour;
    context.fillRect(x, lane.y, end - begin > 4 ? width - 0.5 : width, lane.height);
    if (!isMatch) context.globalAlpha = 1;
  }

  /** The width of a label, which is measured once. */
  widthOf(label) {
    let width = this.widths.get(label);
    if (width === undefined) this.widths.set(label, (width = this.context.measureText(label).width));
    return width;
  }

  label(lane, i, begin, end) {
    const from = Math.max(begin, this.left), to = Math.min(end, this.right), { label } = this.header.activities[lane.activity[i]];
    if (!label || to - from < 12 || this.widthOf(label) + 4 > to - from) return;
    this.write(label, (from + to) / 2, lane.y + lane.height / 2, this.shades[lane.shadeOf[lane.activity[i]]].ink, "center");
  }

  /** Hatches the time before the worker begins the step. */
  hatch({ y, height, begins_ms }) {
    const { context } = this, until = this.xOf(begins_ms);
    context.save();
    context.beginPath();
    context.rect(this.left, y, until - this.left, height);
    context.clip();
    context.beginPath();
    for (let x = this.left - height; x < until; x += 6) {
      context.moveTo(x, y + height);
      context.lineTo(x + height, y);
    }
    Object.assign(context, { strokeStyle: this.ink.soft, lineWidth: 1, globalAlpha: 0.5 });
    context.stroke();
    context.restore();
  }

  drawTip(shown) {
    const { tip, context } = this;
    if (tip.hidden === !!shown) tip.hidden = !shown;
    if (!shown) return;
    const { lane, i } = shown, from = this.xOf(lane.begin[i]), width = this.xOf(lane.end[i]) - from;
    Object.assign(context, { strokeStyle: this.ink.ink, lineWidth: 2 });
    context.strokeRect(from - 1, lane.y, width + 2, lane.height);
    if (tip.shown?.lane !== lane || tip.shown.i !== i) {
      tip.replaceChildren();
      for (const line of this.describe(shown)) element(tip, "div", {}, line);
      tip.shown = shown;
    }
    const x = this.hover ? this.pointer[0] + 12 : from;
    tip.style.left = `${clamp(x, 0, Math.max(0, this.canvas.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${lane.y + lane.height + 6}px`;
  }
}
