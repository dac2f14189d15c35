// The pattern explorer: choose a layer, see its matrix, point at an entry.
"use strict";
(() => {
  const S = window.SparsePatterns;
  const element = window.bookElement;
  const LABELS = {
    size: "input size", kernel: "kernel size", in_channels: "input channels", out_channels: "output channels",
    padding_mode: "padding mode", ceil_mode: "ceil mode", count_include_pad: "count padding",
    input_size: "input features", hidden_size: "hidden units", dim: "features", out_dim: "output features",
    untied: "untied",
  };
  const HINTS = {
    size: "one number, or one an axis: 6x5", kernel: "3 or 3x2", stride: "1 or 2x1", dilation: "1 or 2x1",
    padding: "1, 1x0, same, valid, or before:after such as 0:1", window: "a number, or none",
  };
  const PALETTE = window.bookColours;
  // beyond ten: hues a golden angle apart, in two middle lightnesses that read on white and on dark
  const colour = (k, count) => count <= PALETTE.length ? PALETTE[k]
    : `hsl(${(k * 137.508) % 360} 55% ${k % 2 ? 62 : 50}%)`;
  const label = name => LABELS[name] ?? name;
  const number = value => (Number.isInteger(value) ? String(value) : value.toFixed(3).replace(/0+$/, ""))
    .replace("-", "−");

  class Explorer {
    constructor(host, serial) {
      this.host = host;
      this.id = `explorer-${serial}`;
      this.page = host.hasAttribute("data-page"); // the page keeps its state in the address
      const address = new URLSearchParams(this.page ? location.search : "");
      this.state = Object.fromEntries(address.has("kind") ? address : new URLSearchParams(host.dataset.state));
      if (!(this.state.kind in S.KINDS)) this.state.kind = "conv2d";
      this.lay();
      this.refresh();
      new MutationObserver(() => this.draw())
        .observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
      new ResizeObserver(() => this.draw()).observe(this.host);
    }

    lay() {
      const id = this.id;
      this.form = element("form", { className: "explorer-form" });
      this.form.addEventListener("submit", event => event.preventDefault());
      this.form.addEventListener("input", event => this.choose(event.target));
      this.matrix = element("canvas", { tabIndex: 0, className: "explorer-matrix" });
      this.matrix.setAttribute("role", "application");
      this.matrix.setAttribute("aria-label", "The matrix. Arrow keys go to the next nonzero, T to the next tied one.");
      this.matrix.setAttribute("aria-describedby", `${id}-entry`);
      this.matrix.addEventListener("keydown", event => this.key(event));
      for (const kind of ["pointermove", "pointerdown"])
        this.matrix.addEventListener(kind, event => this.point(event));
      this.facts = element("dl", { className: "explorer-facts" });
      this.entry = element("div", { className: "explorer-entry", id: `${id}-entry` });
      this.entry.setAttribute("aria-live", "polite");
      this.error = element("p", { className: "explorer-error" });
      this.error.setAttribute("role", "alert");
      this.pictures = element("div", { className: "explorer-pictures" });
      this.values = {};
      const texts = ["x", "theta"].map(name => {
        const area = element("textarea", { rows: 3, id: `${id}-${name}`, spellcheck: false });
        area.addEventListener("input", () => { this.state[name] = area.value.trim().split(/[\s,]+/).join(" "); this.refresh(false); });
        this.values[name] = area;
        return element("div", {}, element("label", { htmlFor: area.id },
          name === "x" ? "Input, row by row" : "Parameters, row by row"), area);
      });
      const left = element("div", { className: "explorer-left" },
        element("div", { className: "explorer-scroll" }, this.matrix), this.facts);
      const right = element("div", { className: "explorer-right" }, this.pictures, this.entry,
        element("details", {}, element("summary", {}, "Type an input and parameters"), ...texts));
      const controls = element("details", { className: "explorer-controls", open: !this.host.dataset.closed },
        element("summary", {}, "The layer"), this.form);
      this.body = element("div", { className: "explorer-body" }, left, right);
      this.host.replaceChildren(controls, this.error, this.body);
      this.fields();
    }

    // One labelled field for each choice that the kind has.
    fields() {
      const state = S.defaults(this.state.kind);
      const field = (name, value, options) => {
        const id = `${this.id}-${name}`;
        const input = options
          ? element("select", { id, name }, ...options.map(([key, text]) => element("option", { value: key }, text)))
          : element("input", { id, name, type: "text", autocomplete: "off" });
        input.value = this.state[name] ?? value;
        if (HINTS[name]) input.title = HINTS[name];
        return element("div", {}, element("label", { htmlFor: id }, label(name)), input);
      };
      const choice = list => list?.map(value => [value, value]);
      const kinds = Object.entries(S.KINDS).map(([kind, [text]]) => [kind, text]);
      this.form.replaceChildren(field("kind", state.kind, kinds),
        ...S.KINDS[this.state.kind][1].map(([name, value, list]) => field(name, value, choice(list))),
        field("untied", "no", choice(["no", "yes"])));
    }

    choose(input) {
      if (input.name === "kind") {
        this.state = { kind: input.value };
        this.fields();
        this.form.elements.kind.focus();
      } else {
        this.state[input.name] = input.value.trim();
        delete this.state.x;
        delete this.state.theta;
      }
      this.refresh();
    }

    refresh(rewrite = true) {
      try {
        this.pattern = S.build(this.state);
        const parameters = S.product(this.pattern.parameter);
        this.theta = this.numbers("theta", parameters) ?? this.pattern.theta
          ?? Array.from({ length: parameters }, (_, k) => (k % 9) + 1);
        const cells = S.product(this.pattern.input);
        this.x = this.numbers("x", cells) ?? Array.from({ length: cells }, (_, k) => (k * 7 + 3) % 10);
        this.y = S.multiply(this.pattern, this.theta, this.x);
        this.error.textContent = "";
      } catch (problem) {
        if (!(problem instanceof RangeError)) throw problem;
        this.error.textContent = `Refused: ${problem.message}.`;
        this.body.hidden = true;
        return;
      }
      this.body.hidden = false;
      this.body.classList.toggle("wide", this.pattern.shape[1] > 2 * this.pattern.shape[0]);
      if (rewrite) {
        this.write("x", this.x, this.pattern.input[2]);
        this.write("theta", this.theta, this.pattern.parameter[2]);
      }
      this.at = Math.min(this.at ?? Math.floor(this.pattern.row.length / 2), this.pattern.row.length - 1);
      this.tell();
      this.address();
      this.draw();
      this.describe();
    }

    numbers(name, count) {
      if (!this.state[name]) return null;
      const values = this.state[name].split(/[\s,]+/).map(Number);
      if (values.length !== count || values.some(Number.isNaN))
        throw new RangeError(`${name === "x" ? "the input" : "the parameters"} must be ${count} numbers, got ${this.state[name]}`);
      return values;
    }

    write(name, values, width) {
      const rows = [];
      for (let start = 0; start < values.length; start += width)
        rows.push(values.slice(start, start + width).map(v => +v.toFixed(4)).join(" "));
      this.values[name].value = rows.join("\n");
    }

    address() {
      const base = S.defaults(this.state.kind);
      const query = new URLSearchParams(Object.entries(this.state)
        .filter(([name, value]) => name === "kind" || base[name] !== value));
      this.query = query.toString();
      if (!this.page) return;
      try { history.replaceState(null, "", `?${this.query}`); } catch { /* some browsers refuse it for files */ }
    }

    tell() {
      const f = S.facts(this.pattern), yes = [];
      if (f.upperTriangular) yes.push("upper");
      if (f.lowerTriangular) yes.push("lower");
      const rows = [
        ["size", `${f.rows} × ${f.cols}`], ["nonzeros", f.cells === f.nnz ? f.nnz : `${f.nnz} in ${f.cells} cells`],
        ["parameters", f.parameters], ["density", `${(100 * f.density).toPrecision(3)} %`],
        ["bandwidths", `${f.lower} below, ${f.upper} above`],
        ["triangular", yes.length === 2 ? "diagonal" : yes[0] ?? "no"],
      ];
      this.facts.replaceChildren(...rows.map(([name, value]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, String(value)))));
    }

    // --- moving about

    select(k) { if (k >= 0 && k !== this.at) { this.at = k; this.draw(); this.describe(); } }

    point(event) {
      const box = this.matrix.getBoundingClientRect(), p = this.pattern;
      const r = Math.floor((event.clientY - box.top) / box.height * p.shape[0]);
      const c = Math.floor((event.clientX - box.left) / box.width * p.shape[1]);
      this.select(p.row.findIndex((row, k) => row === r && p.col[k] === c));
    }

    key(event) {
      const p = this.pattern, r = p.row[this.at], c = p.col[this.at];
      const nearest = (allowed, distance) => p.row.reduce((best, _, k) =>
        allowed(p.row[k], p.col[k]) && (best < 0 || distance(k) < distance(best)) ? k : best, -1);
      const sideways = sign => nearest((row, col) => row === r && sign * (col - c) > 0, k => Math.abs(p.col[k] - c));
      const updown = sign => nearest(row => sign * (row - r) > 0,
        k => Math.abs(p.row[k] - r) * p.shape[1] + Math.abs(p.col[k] - c));
      const tied = () => {
        const all = p.index.flatMap((index, k) => (index === p.index[this.at] ? [k] : []));
        return all[(all.indexOf(this.at) + 1) % all.length];
      };
      const moves = {
        ArrowLeft: () => sideways(-1), ArrowRight: () => sideways(1), ArrowUp: () => updown(-1),
        ArrowDown: () => updown(1), t: tied, T: tied, Home: () => 0, End: () => p.row.length - 1,
      };
      if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      this.select(moves[event.key]());
    }

    // --- drawing

    grid(canvas, rows, cols, cell, paint) {
      const scale = window.devicePixelRatio || 1, width = cols * cell, height = rows * cell;
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
      const pen = canvas.getContext("2d");
      pen.scale(scale, scale);
      paint(pen, getComputedStyle(this.host));
    }

    draw() {
      if (this.body.hidden) return;
      const p = this.pattern, [rows, cols] = p.shape, at = this.at;
      const room = Math.max(200, this.matrix.parentElement.clientWidth - 4);
      const cell = Math.max(3, Math.min(28, room / cols, 440 / rows));
      this.grid(this.matrix, rows, cols, cell, (pen, style) => {
        pen.fillStyle = style.getPropertyValue("--book-empty");
        pen.fillRect(0, 0, cols * cell, rows * cell);
        const gap = cell > 8 ? 1 : 0;
        p.row.forEach((r, k) => {
          pen.globalAlpha = at < 0 || p.index[k] === p.index[at] ? 1 : 0.45;
          pen.fillStyle = colour(p.index[k], p.count);
          pen.fillRect(p.col[k] * cell + gap, r * cell + gap, cell - 2 * gap, cell - 2 * gap);
        });
        pen.globalAlpha = 1;
        if (at < 0) return;
        pen.strokeStyle = style.getPropertyValue("--book-ink");
        pen.lineWidth = 1;
        p.row.forEach((r, k) => {
          if (p.index[k] === p.index[at]) pen.strokeRect(p.col[k] * cell + 0.5, r * cell + 0.5, cell - 1, cell - 1);
        });
        pen.lineWidth = 3;
        pen.strokeRect(p.col[at] * cell, p.row[at] * cell, cell, cell);
      });
      this.sketch();
    }

    // Input, parameters and output as little images; what the chosen entry touches stands out.
    sketch() {
      const p = this.pattern, at = this.at, chosen = at >= 0;
      const pixels = chosen ? S.inputs(p, p.col[at]) : [];
      const window_ = new Set(p.row.flatMap((r, k) => (chosen && r === p.row[at] ? S.inputs(p, p.col[k]) : [])));
      const fed = new Set(p.row.flatMap((r, k) => (chosen && p.order === 1 && p.col[k] === p.col[at] ? [r] : [])));
      const parts = [
        [p.inputName, p.input, this.x, new Set(pixels), window_],
        [p.parameterName, p.parameter, this.theta, new Set(chosen ? [p.base[at]] : []), new Set()],
        [p.outputName, p.output, this.y, new Set(chosen ? [p.row[at]] : []), fed],
      ];
      this.pictures.replaceChildren(...parts.map(([name, shape, values, strong, weak]) => {
        const canvas = element("canvas");
        canvas.setAttribute("aria-hidden", "true"); // said in words below
        this.paint(canvas, shape, values, strong, weak, name === p.parameterName);
        return element("figure", {}, canvas, element("figcaption", {}, name));
      }));
    }

    paint(canvas, [planes, height, width], values, strong, weak, coloured) {
      const cols = planes * width + planes - 1, cell = Math.max(9, Math.min(30, 250 / cols, 200 / height));
      const longest = Math.max(...values.map(value => number(value).length));
      this.grid(canvas, height, cols, cell, (pen, style) => {
        pen.font = `${Math.max(8, Math.min(12, 1.5 * cell / longest))}px sans-serif`;
        pen.textAlign = "center";
        pen.textBaseline = "middle";
        const outline = [];
        values.forEach((value, k) => {
          const plane = Math.floor(k / (height * width)), rest = k % (height * width);
          const x = (plane * (width + 1) + (rest % width)) * cell, y = Math.floor(rest / width) * cell;
          const tint = coloured && this.pattern.tied;
          pen.fillStyle = tint ? colour(k, values.length)
            : style.getPropertyValue(weak.has(k) || strong.has(k) ? "--book-marked" : "--book-empty");
          pen.fillRect(x + 0.5, y + 0.5, cell - 1, cell - 1);
          pen.fillStyle = tint ? "#000" : style.getPropertyValue("--book-ink");
          if (cell >= 16 && 4.2 * longest <= cell * 1.2) pen.fillText(number(value), x + cell / 2, y + cell / 2);
          if (strong.has(k)) outline.push([x, y]);
        });
        pen.strokeStyle = style.getPropertyValue("--book-ink");
        pen.lineWidth = 3;
        for (const [x, y] of outline) pen.strokeRect(x + 1.5, y + 1.5, cell - 3, cell - 3);
      });
    }

    place(index, [planes, height, width]) {
      const rest = index % (height * width), spot = [];
      if (planes > 1) spot.push(Math.floor(index / (height * width)));
      if (height > 1) spot.push(Math.floor(rest / width));
      return [...spot, rest % width].join(", ");
    }

    describe() {
      const p = this.pattern, at = this.at;
      if (at < 0) { this.entry.replaceChildren("The matrix has no nonzeros."); return; }
      const r = p.row[at], c = p.col[at], tied = p.index.filter(index => index === p.index[at]).length;
      const same = p.row.flatMap((row, k) => (row === r && p.col[k] === c ? [k] : []));
      const name = k => (p.tied ? `${p.parameterName.split(" ")[0].split("[")[0]}[${this.place(p.base[k], p.parameter)}]` : `θ[${p.index[k]}]`);
      const value = same.map(k => `${name(k)} = ${number(this.theta[p.base[k]])}`).join(" plus ");
      const read = S.inputs(p, c).map(cell => `[${this.place(cell, p.input)}]`).join(", ");
      const terms = p.row.flatMap((row, k) => (row === r ? [k] : [])).map(k =>
        [this.theta[p.base[k]], ...S.inputs(p, p.col[k]).map(cell => this.x[cell])].map(number).join("·"));
      const shown = terms.length > 12 ? [...terms.slice(0, 12), `… (${terms.length} terms)`] : terms;
      const feeds = p.order === 1 ? new Set(p.row.filter((_, k) => p.col[k] === c)).size : 0;
      this.entry.replaceChildren(
        element("p", {}, element("strong", {}, `Row ${r}, column ${c}`), ` holds ${value}`,
          p.tied ? `, as ${tied - 1} other ${tied === 2 ? "entry does" : "entries do"}.` : ", its own parameter."),
        element("p", {}, `It carries input ${read} to output [${this.place(r, p.output)}]`
          + (feeds > 1 ? `; that input feeds ${feeds} outputs.` : ".")),
        element("p", { className: "explorer-sum" }, `output[${this.place(r, p.output)}] = ${shown.join(" + ")} = ${number(this.y[r])}`));
    }
  }

  function start() {
    document.querySelectorAll(".pattern-explorer").forEach((host, serial) => { host.explorer = new Explorer(host, serial); });
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
