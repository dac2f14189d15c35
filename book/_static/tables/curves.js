// The curves of chosen rows of the table of records.
"use strict";
(() => {
  const element = window.bookElement;
  const NAMESPACE = "http://www.w3.org/2000/svg";
  const PALETTE = window.bookColours;
  const DASHES = ["", "7 4", "2 3"];
  const WORDS = {
    train_loss: "training loss", test_loss: "test loss", valid_loss: "validation loss",
    accuracy: "accuracy in %", mse: "mean squared error", perplexity: "perplexity",
  };
  const SIZE = { width: 640, height: 300, left: 64, right: 12, top: 12, bottom: 40 };

  function svg(tag, attributes = {}, ...children) {
    const made = document.createElementNS(NAMESPACE, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }
  const short = value => {
    const shown = Math.abs(value) < 0.001 && value !== 0 ? value.toExponential(0) : String(Number(value.toPrecision(3)));
    return shown.replaceAll("-", "−");
  };

  function ticks(low, high) {
    const step = 10 ** Math.floor(Math.log10((high - low) || 1));
    const wide = [step / 5, step / 2, step, step * 2].find(size => (high - low) / size <= 6) ?? step * 2;
    const found = [];
    for (let k = Math.ceil(low / wide); k * wide <= high * (1 + 1e-9); k++) found.push(k * wide);
    return found;
  }

  class Curves {
    constructor(source) {
      this.data = JSON.parse(source.textContent);
      const table = source.closest("section").querySelector("table.results");
      this.rows = [...table.tBodies[0].rows].map((row, k) => ({ row, ...this.data[k] }));
      table.tHead.rows[0].append(element("th", { scope: "col" }, "curve"));
      for (const entry of this.rows) entry.box = this.mark(entry);
      this.choice = element("select");
      this.picture = element("div");
      this.panel = element("div", { className: "record-panel filter-form", hidden: true },
        element("label", {}, element("span", {}, "what is drawn"), this.choice), this.picture);
      source.closest("section").querySelector(".table-filter").after(this.panel);
      this.choice.addEventListener("input", () => this.draw());
    }

    mark(entry) {
      const cell = entry.row.insertCell();
      cell.dataset.label = "curve";
      const names = [...entry.row.cells].slice(0, 4).map(c => c.textContent);
      entry.name = `${names[0]}, ${names[1]}, ${names[2]}, seed ${names[3]}`;
      const box = element("input", { type: "checkbox", "aria-label": `Draw ${entry.name}` });
      box.addEventListener("input", () => this.refresh());
      cell.append(box);
      return box;
    }

    refresh() {
      this.chosen = this.rows.filter(entry => entry.box.checked);
      this.panel.hidden = !this.chosen.length;
      const names = [...new Set(this.chosen.flatMap(entry => Object.keys(entry.series)))];
      const before = this.choice.value;
      this.choice.replaceChildren(...names.map(name => new Option(WORDS[name] ?? name, name)));
      if (names.includes(before)) this.choice.value = before;
      this.draw();
    }

    draw() {
      const name = this.choice.value;
      const lines = this.chosen.filter(entry => entry.series[name]);
      if (!lines.length) return this.picture.replaceChildren();
      const { width, height, left, right, top, bottom } = SIZE;
      const values = lines.flatMap(entry => entry.series[name]).filter(Number.isFinite);
      const last = Math.max(...lines.flatMap(entry => entry.epochs), 2);
      let low = Math.min(...values), high = Math.max(...values);
      if (low === high) { low -= Math.abs(low) * 0.05 || 1; high += Math.abs(high) * 0.05 || 1; }
      const x = epoch => left + (width - left - right) * (epoch - 1) / (last - 1);
      const y = value => top + (height - top - bottom) * (high - value) / (high - low);
      const parts = [svg("path", { d: `M${left} ${top}V${height - bottom}H${width - right}`, class: "curve-axis" })];
      for (const value of ticks(low, high))
        parts.push(svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
      for (const epoch of ticks(1, last).filter(Number.isInteger))
        parts.push(svg("text", { x: x(epoch), y: height - bottom + 18, "text-anchor": "middle" }, short(epoch)));
      parts.push(svg("text", { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, "epoch"));
      lines.forEach((entry, k) => {
        const points = entry.series[name].map((value, at) => [x(entry.epochs[at]), y(value)]);
        const style = { stroke: PALETTE[k % PALETTE.length], "stroke-dasharray": DASHES[Math.floor(k / PALETTE.length) % DASHES.length] };
        parts.push(svg("polyline", { points: points.map(point => point.join(",")).join(" "), class: "curve-line", ...style },
          svg("title", {}, entry.name)));
        if (points.length < 8) for (const [px, py] of points)
          parts.push(svg("circle", { cx: px, cy: py, r: 3, fill: style.stroke }));
      });
      const legend = element("ul", { className: "curve-legend" });
      lines.forEach((entry, k) => {
        const key = svg("svg", { width: 28, height: 10, "aria-hidden": "true" }, svg("path", {
          d: "M0 5H28", class: "curve-line", stroke: PALETTE[k % PALETTE.length],
          "stroke-dasharray": DASHES[Math.floor(k / PALETTE.length) % DASHES.length],
        }));
        legend.append(element("li", {}, key, ` ${entry.name}: ${short(entry.series[name].at(-1))}`));
      });
      const label = `${WORDS[name] ?? name} by epoch of ${lines.map(entry => entry.name).join("; ")}`;
      this.picture.replaceChildren(
        svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "curve-picture" }, ...parts), legend);
    }
  }
  addEventListener("DOMContentLoaded", () =>
    document.querySelectorAll("script.record-curves").forEach(source => new Curves(source)));
})();
