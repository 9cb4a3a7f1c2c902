"use strict";
// Charts as SVG, drawn from what charts.py says. Colours are the style sheet's, so that schemes need no redrawing.

const SVG = "http://www.w3.org/2000/svg";
const REACH_PX = 32; // a point is touched from this far

function node(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

const short = (value) => String(Number(value.toPrecision(3)));
const exact = (value) => String(Number(value.toPrecision(4)));
const ink = (role) => `color: var(--${role})`;

/** Round numbers within a range, at most `num` of them. */
function ticks([low, high], num, isLog = false) {
  if (isLog && high / low > 3) {
    const first = Math.floor(Math.log10(low)), last = Math.floor(Math.log10(high));
    const powers = (every) => Array.from({ length: last - first + 1 }, (_, k) => first + k).filter((power) => power % every === 0);
    const sets = [[1, 1.5, 2, 3, 4, 5, 7], [1, 2, 3, 5], [1, 2, 5], [1, 3], [1]].map((digits) => [digits, 1]);
    for (const [digits, every] of [...sets, [[1], 2], [[1], 3], [[1], 6]]) {
      const found = powers(every).flatMap((power) => digits.map((digit) => Number(`${digit}e${power}`)));
      const inside = found.filter((tick) => tick >= low && tick <= high);
      if (inside.length <= num) return inside;
    }
  }
  const size = 10 ** Math.floor(Math.log10((high - low) / num));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * size).find((step) => (high - low) / step <= num);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high * (1 + 1e-9); k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}

/** Maps values to pixels. */
function scale(isLog, [low, high], [start, end]) {
  const share = isLog
    ? (value) => Math.log(value / low) / Math.log(high / low)
    : (value) => (value - low) / (high - low);
  return (value) => start + share(value) * (end - start);
}

/** From the least to the greatest value and a little beyond. */
function domain(values, isLog) {
  const low = Math.min(...values), high = Math.max(...values);
  if (isLog) {
    const more = Math.max((high / low) ** 0.05, 1.02);
    return [low / more, high * more];
  }
  const more = (high - low) * 0.06 || Math.abs(high) * 0.02 || 1;
  return [low - more, high + more];
}

/** A mark around (0, 0). */
function symbol(kind, size) {
  const r = size / 2;
  const paths = {
    diamond: `M0${-r * 1.2} ${r * 1.2} 0 0 ${r * 1.2} ${-r * 1.2} 0Z`,
    square: `M${-r * 0.9} ${-r * 0.9}H${r * 0.9}V${r * 0.9}H${-r * 0.9}Z`,
    triangle: `M0${-r * 1.2} ${r * 1.15} ${r * 0.9} ${-r * 1.15} ${r * 0.9}Z`,
    cross: `M${-r} ${-r * 0.35}H${-r * 0.35}V${-r}H${r * 0.35}V${-r * 0.35}H${r}V${r * 0.35}H${r * 0.35}V${r}H${-r * 0.35}V${r * 0.35}H${-r}Z`,
  };
  return paths[kind] ? node("path", { d: paths[kind] }) : node("circle", { r });
}

class Chart {
  constructor(holder, spec) {
    this.holder = holder;
    this.spec = spec;
    this.hidden = new Set();
    this.current = null; // the point that the keyboard is at: series and index
    this.svg = node("svg", { role: "img", "aria-label": spec.label });
    this.plot = element("div", "plot", this.svg);
    this.plot.tabIndex = 0;
    this.plot.setAttribute("role", "group");
    this.plot.setAttribute("aria-label", `${spec.label} Arrow keys go through the points.`);
    this.tip = element("div", "tip");
    this.tip.setAttribute("role", "status");
    this.plot.append(this.tip);
    holder.replaceChildren(...this.legend(), this.plot);
    this.plot.addEventListener("pointermove", (event) => this.touch(event));
    this.plot.addEventListener("pointerdown", (event) => this.touch(event));
    this.plot.addEventListener("pointerleave", () => this.tell(null));
    this.plot.addEventListener("blur", () => this.tell(null));
    this.plot.addEventListener("keydown", (event) => this.step(event));
    this.draw();
    new ResizeObserver(() => this.plot.clientWidth !== this.width && this.draw()).observe(this.plot);
  }

  get shown() {
    return this.spec.series.filter((series) => !this.hidden.has(series.name));
  }

  legend() {
    const names = [...new Set(this.spec.series.map((series) => series.name))];
    if (names.length < 2) return [];
    const buttons = names.map((name) => {
      const sample = node("svg", { viewBox: "-11 -7 22 14", width: 22, height: 14, "aria-hidden": "true" });
      for (const series of this.spec.series.filter((series) => series.name === name)) {
        const mark = node("g", { style: ink(series.role) });
        if (series.kind === "points") mark.append(node("g", { class: "dots" }, symbol(series.symbol, Math.min(series.size, 10))));
        else mark.append(node("path", { class: "line", d: "M-11 0H11", ...(series.dashed && { "stroke-dasharray": "2 3" }) }));
        sample.append(mark);
      }
      const button = element("button", "", sample, name);
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        const isShown = this.hidden.delete(name);
        if (!isShown && this.shown.some((series) => series.name !== name)) this.hidden.add(name);
        button.setAttribute("aria-pressed", String(!this.hidden.has(name)));
        this.current = null;
        this.draw();
      });
      return button;
    });
    const row = element("div", "chart-legend", ...buttons);
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", "Shown in the chart");
    return [row];
  }

  /** Everything anew, as wide as there is room: `width` where the browser cannot say. */
  draw(width = this.plot.clientWidth) {
    if (!width) return;
    this.width = width;
    const { x, y, square, guides } = this.spec;
    const all = (axis) => this.shown.flatMap((series) => series[axis]);
    const near = guides.filter((guide) => guide > Math.min(...all("x")) / 2 && guide < Math.max(...all("x")) * 2);
    let domains = [domain([...all("x"), ...near], x.log), domain(all("y"), y.log)];
    if (square) domains = Array(2).fill(domain([...all("x"), ...all("y")], x.log));
    const most = this.holder.closest(".low") ? 300 : 460;
    const height = Math.round(square ? Math.min(width, 440) : Math.max(260, Math.min(width * 0.56, most)));
    const labels = ticks(domains[1], height / 52, y.log);
    const left = 12 + 7.4 * Math.max(...labels.map((tick) => short(tick).length));
    const frame = { left, right: width - 14, top: near.length ? 42 : 28, bottom: height - 44 };
    this.frame = frame;
    this.x = scale(x.log, domains[0], [frame.left, frame.right]);
    this.y = scale(y.log, domains[1], [frame.bottom, frame.top]);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);

    const grid = node("g", { class: "grid" });
    for (const tick of labels) {
      grid.append(node("path", { d: `M${frame.left} ${this.y(tick)}H${frame.right}` }));
      grid.append(node("text", { x: frame.left - 8, y: this.y(tick) + 4, class: "end" }, short(tick)));
    }
    grid.append(node("path", { class: "axis", d: `M${frame.left} ${frame.bottom}H${frame.right}` }));
    for (const tick of ticks(domains[0], Math.max(3, width / 90), x.log)) {
      grid.append(node("text", { x: this.x(tick), y: frame.bottom + 18, class: "middle" }, short(tick)));
    }
    grid.append(node("text", { x: frame.right, y: height - 6, class: "end" }, x.title));
    grid.append(node("text", { x: 0, y: 12 }, y.title));
    if (square) grid.append(node("path", { class: "guide", d: `M${frame.left} ${frame.bottom}L${frame.right} ${frame.top}` }));
    let free = -Infinity;
    for (const guide of near) {
      const at = this.x(guide), text = `${short(guide)} ${x.unit}`;
      grid.append(node("path", { class: "guide", d: `M${at} ${frame.top - 4}V${frame.bottom}` }));
      if (at - free < text.length * 7 + 8) continue;
      grid.append(node("text", { x: Math.min(at, width - text.length * 3.5), y: frame.top - 10, class: "middle" }, text));
      free = at;
    }

    const marks = this.shown.map((series) => {
      const group = node("g", { style: ink(series.role), class: series.kind === "points" ? "dots" : "line" });
      if (series.kind === "points") {
        series.x.forEach((value, index) => {
          const mark = symbol(series.symbol, series.size);
          mark.setAttribute("transform", `translate(${this.x(value).toFixed(1)} ${this.y(series.y[index]).toFixed(1)})`);
          group.append(mark);
        });
      } else if (series.x.length) {
        const points = series.x.map((value, index) => [this.x(value).toFixed(1), this.y(series.y[index]).toFixed(1)]);
        const rest = points.slice(1).map(([px, py]) => (series.kind === "steps" ? `H${px}V${py}` : `L${px} ${py}`));
        group.append(node("path", { d: `M${points[0].join(" ")}${rest.join("")}`, ...(series.dashed && { "stroke-dasharray": "2 4" }) }));
      }
      return group;
    });
    this.budgetLine = node("path", { class: "budget", d: `M0 ${frame.top - 4}V${frame.bottom}`, visibility: "hidden" });
    this.ring = node("circle", { class: "ring", r: 9, visibility: "hidden" });
    this.halo = node("circle", { class: "halo", r: 7, visibility: "hidden" });
    this.svg.replaceChildren(grid, this.budgetLine, ...marks, this.ring, this.halo);
    this.mark(this.marked);
    this.tell(null);
  }

  /** Ring the explorer's subnet, and draw a line at its budget. */
  mark(marked) {
    this.marked = marked;
    const place = (mark, px, py) => {
      const isInside = px >= this.frame.left - 1 && px <= this.frame.right + 1;
      mark.setAttribute("visibility", isInside ? "visible" : "hidden");
      if (isInside) mark.style.transform = `translate(${px}px, ${py}px)`;
    };
    if (!this.frame) return;
    place(this.budgetLine, marked ? this.x(marked.budget_ms) : -1, 0);
    const has = marked && marked.x !== null;
    place(this.ring, has ? this.x(marked.x) : -1, has ? this.y(marked.y) : -1);
  }

  touch(event) {
    const box = this.svg.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    let best = null, least = REACH_PX;
    for (const series of this.shown) {
      series.x.forEach((value, index) => {
        const distance = Math.hypot(this.x(value) - px, this.y(series.y[index]) - py) - (series.notes.length ? 2 : 0);
        if (distance < least) [best, least] = [{ series, index }, distance];
      });
    }
    this.tell(best);
  }

  step(event) {
    const across = { ArrowRight: 1, ArrowLeft: -1 }[event.key], along = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") return this.tell(null);
    if (!across && !along) return;
    event.preventDefault();
    // Lines through points that are drawn as such too would only say the same again.
    const all = this.shown.filter((series) => series.x.length && series.kind !== "steps");
    const known = all.length ? all : this.shown.filter((series) => series.x.length);
    if (!known.length) return;
    let { series, index } = this.current ?? { series: known.at(-1), index: across < 0 ? Infinity : -1 };
    if (along) [series, index] = [known.at((known.indexOf(series) + along) % known.length), Math.max(index, 0)];
    else index += across;
    this.current = { series, index: Math.max(0, Math.min(index, series.x.length - 1)) };
    this.tell(this.current);
  }

  /** What a point is, beside it. */
  tell(point) {
    this.halo?.setAttribute("visibility", point ? "visible" : "hidden");
    this.tip.hidden = !point;
    if (!point) return;
    const { series, index } = point, { x, y } = this.spec;
    const [px, py] = [this.x(series.x[index]), this.y(series.y[index])];
    this.halo.style.transform = `translate(${px}px, ${py}px)`;
    const line = (axis, value) => `${axis.label} ${exact(value)}${axis.unit && ` ${axis.unit}`}`;
    const lines = [line(y, series.y[index]), line(x, series.x[index]), ...(series.notes[index] ?? "").split("\n")];
    this.tip.replaceChildren(element("strong", "", series.name), ...lines.filter(Boolean).map((text) => element("div", "", text)));
    const width = this.plot.clientWidth;
    this.tip.style.left = `${Math.max(0, px > width / 2 ? px - this.tip.offsetWidth - 14 : Math.min(px + 14, width - this.tip.offsetWidth))}px`;
    this.tip.style.top = `${Math.max(0, py - this.tip.offsetHeight / 2)}px`;
  }
}
