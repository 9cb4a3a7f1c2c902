// The explorer: a device and a budget choose among the subnets that were measured there.

const STEPS = 200;

class Explorer {
  /** `charts` are told which subnet is chosen, by the name of their device. */
  constructor(section, { explorer, drawings }, charts) {
    this.section = section;
    this.devices = explorer;
    this.drawings = drawings;
    this.charts = charts;
    this.form = section.querySelector("form");
    this.slider = this.at("slider");
    this.number = this.at("number");
    section.hidden = false;

    this.form.addEventListener("submit", (event) => event.preventDefault());
    for (const control of section.querySelectorAll("[name=device]")) {
      control.addEventListener("change", () => this.show(this.form.elements.device.value, this.budget));
    }
    this.slider.addEventListener("input", () => this.show(this.device.name, this.ofSlider(Number(this.slider.value)), this.slider));
    this.number.addEventListener("input", () => {
      const budget = Number(this.number.value);
      if (budget > 0 && Number.isFinite(budget)) this.show(this.device.name, budget, this.number);
    });
    this.number.addEventListener("change", () => this.write(this.number, short4(this.budget)));
    addEventListener("hashchange", () => this.follow());
    this.at("copy").addEventListener("click", () => this.copy());
    this.at("nearest").addEventListener("click", () => {
      this.show(this.device.name, this.nearest);
      this.slider.focus();
    });
    new ResizeObserver(() => this.strip()).observe(this.at("strip"));
    if (!this.follow()) this.show(this.devices[0].name, middle(this.devices[0]));
  }

  at(name) {
    return this.section.querySelector(`[data-part="${name}"]`);
  }

  write(control, value) {
    if (control.value !== value) control.value = value;
  }

  /** Take device and budget from the address; false if it names none. */
  follow() {
    const said = new URLSearchParams(location.hash.slice(1));
    const device = this.devices.find((device) => device.name === said.get("device"));
    if (!device) return false;
    const budget = Number(said.get("budget"));
    const isSame = device === this.device && short4(budget) === short4(this.budget);
    if (!isSame) this.show(device.name, budget > 0 && Number.isFinite(budget) ? budget : middle(device));
    return true;
  }

  remember() {
    clearTimeout(this.timer);
    // Not on every move of the slider: browsers allow only so many changes of the address a second.
    this.timer = setTimeout(() => {
      const state = new URLSearchParams({ device: this.device.name, budget: short4(this.budget) });
      history.replaceState(null, "", `#${state}`);
    }, 150);
  }

  ofSlider(position) {
    const { low_ms: low, high_ms: high } = this.device;
    return Number((low * (high / low) ** (position / STEPS)).toPrecision(3));
  }

  /** Show the pick of a budget. `source` is the control that asked, which is left as it is. */
  show(name, budget, source = null) {
    const device = this.devices.find((device) => device.name === name);
    const isOther = device !== this.device;
    if (isOther && this.device && (budget < device.low_ms || budget > device.high_ms)) budget = middle(device);
    Object.assign(this, { device, budget });
    if (isOther) this.change();
    const { low_ms: low, high_ms: high } = device;
    if (source !== this.slider) {
      const position = (Math.log(budget / low) / Math.log(high / low)) * STEPS;
      this.write(this.slider, String(Math.round(Math.min(Math.max(position, 0), STEPS))));
    }
    if (source !== this.number) this.write(this.number, short4(budget));
    this.slider.setAttribute("aria-valuetext", `${short4(budget)} milliseconds`);
    for (const button of this.at("budgets").children) button.setAttribute("aria-pressed", String(Number(button.value) === budget));
    this.pick();
    this.remember();
  }

  /** Another device: its chart, its budgets, where its picks change. */
  change() {
    const device = this.device;
    this.form.elements.device.value = device.name;
    this.chart = new Chart(this.at("chart"), device.chart);
    this.at("budgets").replaceChildren(
      ...device.budgets_ms.map((budget) => {
        const button = element("button", "", `${short4(budget)} ms`);
        Object.assign(button, { type: "button", value: budget });
        button.addEventListener("click", () => this.show(device.name, budget));
        return button;
      }),
    );
    this.at("searched").hidden = !device.budgets_ms.length;
    const share = (ms) => Math.log(ms / device.low_ms) / Math.log(device.high_ms / device.low_ms);
    const notch = (ms, kind) => {
      const mark = element("i", kind);
      mark.style.setProperty("--share", share(ms));
      return mark;
    };
    this.at("notches").replaceChildren(
      ...device.choices.map((choice) => notch(choice.from_ms * (1 + device.headroom), "step")),
      ...device.budgets_ms.filter((budget) => share(budget) >= 0 && share(budget) <= 1).map((budget) => notch(budget, "searched")),
    );
  }

  /** The best subnet whose measured median keeps the budget, with headroom. */
  pick() {
    const { choices, headroom, name, where } = this.device;
    const budget = this.budget, limit = budget / (1 + headroom);
    const index = choices.findLastIndex((choice) => choice.from_ms <= limit);
    this.choice = choices[index];
    const verdict = this.at("verdict");
    this.at("result").hidden = this.at("making").hidden = !this.choice;
    this.at("nearest").hidden = !!this.choice;
    verdict.classList.toggle("missed", !this.choice);
    if (!this.choice) {
      const fastest = choices[0].from_ms;
      this.nearest = Math.ceil(fastest * (1 + headroom) * 1000) / 1000;
      verdict.textContent = `Nothing that was measured on ${where} keeps ${short4(budget)} ms: the fastest subnet takes ${exact(fastest)} ms. The nearest feasible budget is ${short4(this.nearest)} ms.`;
      this.at("nearest").textContent = `Use ${short4(this.nearest)} ms`;
    } else {
      const spare = (1 - this.choice.median_ms / budget) * 100;
      verdict.textContent = `The best subnet measured on ${where} within ${short4(budget)} ms. Its median stays ${spare.toFixed(0)} % below the budget.`;
      this.describe();
    }
    const marked = { budget_ms: budget, x: this.choice?.median_ms ?? null, y: this.choice?.score ?? null };
    for (const chart of [this.chart, ...this.charts]) chart.mark(chart.spec.device === name ? marked : null);
  }

  describe() {
    const { text, arch, drawing } = this.choice;
    for (const part of this.section.querySelectorAll("[data-text]")) part.textContent = text[part.dataset.text];
    for (const part of this.section.querySelectorAll("[data-if]")) part.hidden = !text[part.dataset.if];
    this.at("arch").textContent = JSON.stringify(arch);
    redraw(this.at("drawing"), this.drawings[drawing]);
    this.strip();
    const commands = this.device.commands.map((parts) => parts[0] + short4(this.budget) + parts[1] + short4(this.budget) + parts[2]);
    this.at("command").textContent = commands.join("\n");
  }

  /** The measured latencies on a line, and the budget; `width` where the browser cannot say. */
  strip(width = this.at("strip").clientWidth) {
    const holder = this.at("strip");
    if (!this.choice || !width) return;
    const { percentiles_ms: p, quantiles_ms: q, predicted_ms, text } = this.choice;
    const spans = q.length ? [[q[1], q[19]], [q[2], q[18]], [q[5], q[15]]] : p.p10 ? [[p.p10, p.p90]] : [];
    // A few slow runs, as of a busy machine, must not squeeze the rest: what is far out is cut off.
    const most = 1.3 * Math.max(p.p50, predicted_ms, this.budget);
    const [low, high] = domain([...spans.flat(), p.p50, predicted_ms, this.budget].map((value) => Math.min(value, most)), false);
    const at = scale(false, [low, high], [6, width - 6]);
    const svg = node("svg", { viewBox: `0 0 ${width} 78`, role: "img" });
    const known = Object.entries(p).map(([name, value]) => `${name} ${exact(value)} ms`).join(", ");
    svg.setAttribute("aria-label", `Measured latency: ${known}; predicted ${exact(predicted_ms)} ms; budget ${short4(this.budget)} ms.`);
    svg.append(node("path", { class: "axis", d: `M6 52H${width - 6}` }));
    for (const tick of ticks([low, high], Math.max(2, width / 90))) {
      svg.append(node("path", { class: "axis", d: `M${at(tick)} 52v4` }));
      svg.append(node("text", { x: at(tick), y: 70, class: "middle" }, short(tick)));
    }
    for (const [from, to] of spans) {
      const end = to > most ? width : at(to);
      svg.append(node("rect", { class: "band", x: at(from), y: 26, width: Math.max(end - at(from), 1.5), height: 20 }));
      if (to > most) svg.append(node("path", { class: "more", d: `M${width - 10} 31l5 5-5 5` }));
    }
    svg.append(node("path", { class: "median", d: `M${at(p.p50)} 22V50` }));
    svg.append(node("path", { class: "predicted", d: `M${at(predicted_ms)} 52l-4.5 7h9Z` }));
    svg.append(node("path", { class: "budget", d: `M${at(this.budget)} 18V52` }));
    const isRight = at(this.budget) > width - 40;
    svg.append(node("text", { class: isRight ? "budget end" : "budget middle", x: isRight ? width : at(this.budget), y: 12 }, "budget"));
    holder.replaceChildren(svg);

    const numbers = ["p10", "p50", "p90"].filter((name) => name in p).map((name) => `${name} ${exact(p[name])}`).join(", ");
    const what = text.bundle ? `The exported file${text.num_runs && `, ${text.num_runs} runs`}` : "As the search measured it";
    const bands = q.length ? " Bands hold the middle 50, 80 and 90 % of the runs." : spans.length ? " The bar holds the middle 80 % of the runs." : "";
    const kept = q.length ? ` ${share(q, this.budget).toFixed(0)} % kept the budget.` : "";
    this.at("strip-note").textContent = `${what}: ${numbers} ms.${kept}${bands} The triangle is the prediction.`;
  }

  async copy() {
    const code = this.at("command"), button = this.at("copy");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code); // the clipboard is not allowed here: leave it to the keyboard
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  }
}

const short4 = (value) => String(Number(value.toPrecision(4)));

/** The budget to begin with. */
function middle({ budgets_ms: budgets, low_ms: low, high_ms: high }) {
  return budgets.length ? budgets[budgets.length >> 1] : Number(Math.sqrt(low * high).toPrecision(3));
}

/** Percent of the runs within a limit, from their quantiles at 0, 5 ... 100 %. */
function share(quantiles, limit) {
  const above = quantiles.findIndex((value) => value > limit);
  if (above === -1) return 100;
  if (above === 0) return 0;
  const [low, high] = [quantiles[above - 1], quantiles[above]];
  return 5 * (above - 1 + (limit - low) / (high - low));
}

/** Put a drawing in the place of another of the same space: what is there moves, so that the eye can follow. */
function redraw(holder, source) {
  const next = new DOMParser().parseFromString(source, "text/html").querySelector("svg");
  const [old, made] = [holder.querySelectorAll("rect, text"), next.querySelectorAll("rect, text")];
  if (old.length !== made.length || !old.length) return holder.replaceChildren(next);
  holder.querySelector("svg").setAttribute("aria-label", next.getAttribute("aria-label"));
  made.forEach((mark, index) => {
    for (const { name, value } of mark.attributes) old[index].setAttribute(name, value);
    if (mark.tagName === "rect") old[index].replaceChildren(...mark.children);
    else old[index].textContent = mark.textContent;
  });
}
