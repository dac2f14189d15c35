// Figures that move: a matrix times a vector, row by row.
"use strict";
(() => {
  const element = window.bookElement;
  const PALETTE = window.bookColours;
  const PLUS = "#4e79a7", MINUS = "#f28e2b";
  const SECONDS = 20; // of a whole run
  const number = value => String(Number(value.toPrecision(3))).replace("-", "−");

  class Motion {
    constructor(host, serial) {
      this.data = JSON.parse(host.querySelector("script").textContent);
      this.rows = this.data.results.length;
      this.width = this.data.values.length;
      // in a substitution the vector that is read is the one that is made
      this.solves = this.data.panels.every(panel => panel.read && panel.written);
      this.scales = this.data.panels.map(panel => Math.max(...this.cells(panel).map(Math.abs)) || 1);
      this.play = element("button", { type: "button", className: "motion-play" }, "Play");
      this.slider = element("input", { type: "range", min: 0, max: this.rows - 1, value: 0, id: `motion-${serial}` });
      this.entry = element("p", { className: "motion-entry" });
      this.matrix = element("canvas", { role: "img", className: "motion-matrix" });
      this.pictures = this.data.panels.map(panel => element("canvas", { role: "img", ariaLabel: panel.name }));
      const controls = element("div", { className: "motion-controls" }, this.play,
        element("label", { htmlFor: this.slider.id }, "row"), this.slider);
      const panels = element("div", { className: "motion-panels" }, ...this.data.panels.map((panel, k) =>
        element("figure", {}, this.pictures[k], element("figcaption", {}, panel.name))));
      host.replaceChildren(controls, element("div", { className: "motion-body" }, panels,
        element("div", { className: "motion-scroll" }, this.matrix)), this.entry);
      this.host = host;
      this.slider.addEventListener("input", () => { this.stop(); this.draw(); });
      this.play.addEventListener("click", () => this.timer ? this.stop() : this.start());
      new MutationObserver(() => this.draw())
        .observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
      new ResizeObserver(() => this.draw()).observe(host);
      this.slider.value = this.data.panels[0].written ? this.data.panels[1].start + 9 : 40;
      this.draw();
    }

    cells(panel) {
      const [channels, height, width] = panel.shape;
      const vector = panel.read ? this.data.values : this.data.results;
      return vector.slice(panel.start, panel.start + channels * height * width);
    }

    start() {
      if (Number(this.slider.value) >= this.rows - 1) this.slider.value = 0;
      this.play.textContent = "Pause";
      const from = Number(this.slider.value), began = performance.now(), each = SECONDS * 1000 / this.rows;
      // by the clock: a slow device leaves rows out and keeps its buttons alive
      this.timer = setInterval(() => {
        const row = Math.min(this.rows - 1, from + Math.floor((performance.now() - began) / each));
        if (row === Number(this.slider.value)) return;
        this.slider.value = row;
        this.draw();
        if (row === this.rows - 1) this.stop();
      }, each);
    }

    stop() {
      clearInterval(this.timer);
      this.timer = undefined;
      this.play.textContent = "Play";
    }

    terms(row) {
      const { starts, columns, weights, ties } = this.data;
      const found = [];
      for (let k = starts[row]; k < starts[row + 1]; k++)
        found.push({ column: columns[k], weight: weights[k], colour: ties ? PALETTE[ties[k] % PALETTE.length] : weights[k] < 0 ? MINUS : PLUS });
      return found;
    }

    draw() {
      const style = getComputedStyle(this.host);
      this.ink = style.getPropertyValue("--book-ink").trim();
      this.empty = style.getPropertyValue("--book-empty").trim();
      this.row = Number(this.slider.value);
      this.drawMatrix();
      this.data.panels.forEach((panel, k) => this.drawPanel(panel, this.pictures[k], this.scales[k]));
      this.slider.setAttribute("aria-valuetext", this.sentence());
      this.entry.textContent = this.sentence();
    }

    place(index, want) {
      const panel = this.data.panels.find(p => p[want] && index >= p.start && index < p.start + p.shape.reduce((a, b) => a * b));
      const [channels, height, width] = panel.shape, at = index - panel.start;
      const where = height === 1 && channels === 1 ? [at] : [Math.floor(at / width) % height, at % width];
      if (channels > 1) where.unshift(Math.floor(at / (width * height)));
      return `${panel.name} (${where.join(", ")})`;
    }

    sentence() {
      const terms = this.terms(this.row), given = this.data.given[this.row];
      const made = `Row ${this.row}, ${this.place(this.row, "written")}: `;
      const value = number(this.data.results[this.row]);
      if (!terms.length) return `${made}${this.solves && this.row < this.data.panels[1].start ? "given" : "nothing is read, a gate is shut"}, ${value}`;
      const shown = terms.slice(0, 3).map(({ column, weight }) => `${number(weight)} · ${number(this.data.values[column])}`);
      if (terms.length > 3) shown.push("…");
      if (given) shown.push(number(given));
      const sum = shown.join(" + ").replaceAll("+ −", "− ");
      return `${made}${terms.length === 1 ? "one product" : `sum of ${terms.length} products`}, ${sum} = ${value}`;
    }

    sized(canvas, width, height) {
      const ratio = window.devicePixelRatio || 1;
      canvas.width = Math.ceil(width * ratio);
      canvas.height = Math.ceil(height * ratio);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
      const context = canvas.getContext("2d");
      context.scale(ratio, ratio);
      return context;
    }

    // The matrix without its marked row: drawn once a size and theme, as a frame costs a whole picture.
    pictured(cell, ratio) {
      const look = [cell, ratio, this.ink, this.empty].join();
      if (this.look === look) return this.picture;
      this.look = look;
      this.picture = element("canvas", { width: this.matrix.width, height: this.matrix.height });
      const context = this.picture.getContext("2d");
      context.scale(ratio, ratio);
      context.fillStyle = this.empty;
      context.fillRect(0, 0, this.width * cell, this.rows * cell);
      const box = Math.max(cell, 1.6);
      for (let row = 0; row < this.rows; row++) {
        for (const { column, colour } of this.terms(row)) {
          context.fillStyle = colour;
          context.fillRect(column * cell, row * cell, box, box);
        }
        if (this.solves) {
          context.fillStyle = this.ink;
          context.fillRect(row * cell, row * cell, box, box);
        }
      }
      return this.picture;
    }

    drawMatrix() {
      const room = this.matrix.parentElement.clientWidth - 4;
      const cell = Math.max(0.9, Math.min(room / this.width, 420 / this.rows));
      const context = this.sized(this.matrix, this.width * cell, this.rows * cell);
      const picture = this.pictured(cell, context.getTransform().a);
      const known = Math.min(picture.height, Math.ceil((this.row + 1) * cell * context.getTransform().a));
      context.save();
      context.resetTransform();
      context.fillStyle = this.empty;
      context.fillRect(0, 0, picture.width, picture.height);
      context.drawImage(picture, 0, 0, picture.width, known, 0, 0, picture.width, known);
      context.globalAlpha = 0.45; // of what is not computed yet
      if (known < picture.height) context.drawImage(picture, 0, known, picture.width, picture.height - known, 0, known, picture.width, picture.height - known);
      context.restore();
      context.strokeStyle = this.ink;
      context.strokeRect(0.5, this.row * cell - 1.5, this.width * cell - 1, cell + 3);
      this.matrix.setAttribute("aria-label", `The matrix, ${this.rows} by ${this.width}; row ${this.row} is marked.`);
    }

    drawPanel(panel, canvas, scale) {
      const [channels, height, width] = panel.shape;
      const size = this.solves ? Math.min(11, 88 / width) : 10, gap = 6;
      const context = this.sized(canvas, channels * width * size + (channels - 1) * gap + 2, height * size + 2);
      context.translate(1, 1);
      const values = this.cells(panel), known = panel.written ? this.row - panel.start : Infinity;
      const corner = at => {
        const channel = Math.floor(at / (width * height));
        return [channel * (width * size + gap) + (at % width) * size, Math.floor(at / width) % height * size];
      };
      values.forEach((value, at) => {
        const [x, y] = corner(at);
        context.fillStyle = this.empty;
        context.fillRect(x, y, size - 0.5, size - 0.5);
        if (at > known) return;
        context.globalAlpha = Math.min(1, Math.abs(value) / scale);
        context.fillStyle = value < 0 ? MINUS : this.ink;
        context.fillRect(x, y, size - 0.5, size - 0.5);
        context.globalAlpha = 1;
      });
      context.lineWidth = 2;
      if (panel.read) for (const { column, colour } of this.terms(this.row)) {
        const at = column - panel.start;
        if (at < 0 || at >= values.length) continue;
        const [x, y] = corner(at);
        context.strokeStyle = colour;
        context.strokeRect(x + 0.5, y + 0.5, size - 1.5, size - 1.5);
      }
      if (panel.written && known >= 0 && known < values.length) {
        const [x, y] = corner(known);
        context.strokeStyle = "#e15759";
        context.strokeRect(x + 0.5, y + 0.5, size - 1.5, size - 1.5);
      }
    }
  }
  addEventListener("DOMContentLoaded", () =>
    document.querySelectorAll(".motion").forEach((host, k) => { host.motion = new Motion(host, k); }));
})();
