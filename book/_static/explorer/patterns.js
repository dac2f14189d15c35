// The builders of sparsemat's patterns once more, for the explorer; a test compares them with Python.
"use strict";
window.SparsePatterns = (() => {
  const MODES = ["zeros", "circular", "reflect", "replicate"];
  const MOST = 20000; // nonzeros; more cannot be told apart on a screen

  // What a reader chooses for each kind: name, default, and what is offered where it is a choice.
  const CONV = [
    ["in_channels", "1"], ["out_channels", "1"], ["groups", "1"], ["stride", "1"],
    ["padding", "0"], ["padding_mode", "zeros", MODES], ["dilation", "1"],
  ];
  const RECURRENCE = [["steps", "5"], ["input_size", "2"], ["hidden_size", "3"]];
  const YES = ["no", "yes"];
  const KINDS = {
    conv2d: ["convolution, 2-D", [["size", "5x5"], ["kernel", "3x3"], ...CONV]],
    conv1d: ["convolution, 1-D", [["size", "10"], ["kernel", "3"], ...CONV]],
    avgpool: ["average pooling, 2-D", [
      ["channels", "1"], ["size", "6x6"], ["kernel", "2x2"], ["stride", "2"], ["padding", "0"],
      ["ceil_mode", "no", YES], ["count_include_pad", "yes", YES],
    ]],
    recurrence_n: ["recurrence, matrix N of states", RECURRENCE],
    recurrence_b: ["recurrence, matrix B of inputs", RECURRENCE],
    attention: ["linear attention, unfolded", [
      ["tokens", "3"], ["dim", "2"], ["out_dim", "2"], ["causal", "yes", YES], ["window", "none"],
    ]],
  };

  function refuse(message) { throw new RangeError(message); }
  const product = numbers => numbers.reduce((a, b) => a * b, 1);

  function integer(name, text, least) {
    const value = /^-?\d+$/.test(text) ? Number(text) : NaN;
    if (!(value >= least)) refuse(`${name} must be an integer of at least ${least}, got ${text}`);
    return value;
  }

  // "3" for every axis, or one number an axis, "3x2"
  function perAxis(name, text, dims, least) {
    const parts = text.split("x");
    if (parts.length !== 1 && parts.length !== dims)
      refuse(`${name} must have ${dims} entries, one a dimension, got ${text}`);
    return Array.from({ length: dims }, (_, axis) =>
      integer(name, parts.length === 1 ? parts[0] : parts[axis], least));
  }

  // "1", "1x0", "same", "valid", or before:after pairs, "0:1" or "0:1x2:0"
  function paddingPairs(text, kernel, stride, dilation) {
    const dims = kernel.length;
    if (text === "valid") return kernel.map(() => [0, 0]);
    if (text === "same") {
      if (stride.some(step => step !== 1))
        refuse(`padding='same' needs stride 1, got stride=${stride}`);
      return kernel.map((k, axis) => {
        const total = dilation[axis] * (k - 1);
        return [Math.floor(total / 2), total - Math.floor(total / 2)];
      });
    }
    const side = half => perAxis("padding", half, dims, 0);
    const parts = text.split("x").map(part => part.split(":"));
    const before = side(parts.map(part => part[0]).join("x"));
    const after = side(parts.map(part => part[part.length - 1]).join("x"));
    return before.map((b, axis) => [b, after[axis]]);
  }

  function axisReads(size, kernel, stride, [before, after], dilation, mode) {
    const extent = dilation * (kernel - 1) + 1, padded = size + before + after;
    if (extent > padded)
      refuse(`the dilated kernel must fit the padded input, got extent ${extent} and size ${padded}`);
    const most = Math.max(before, after);
    const widest = { circular: size, reflect: size - 1 }[mode] ?? most;
    if (most > widest)
      refuse(`${mode} padding must be at most ${widest} for size ${size}, got ${most}`);
    const inside = {
      zeros: at => (at >= 0 && at < size ? at : -1),
      circular: at => ((at % size) + size) % size,
      reflect: at => (Math.abs(at) >= size ? 2 * (size - 1) - Math.abs(at) : Math.abs(at)),
      replicate: at => Math.min(Math.max(at, 0), size - 1),
    }[mode];
    const outputs = Math.floor((padded - extent) / stride) + 1;
    return Array.from({ length: outputs }, (_, a) =>
      Array.from({ length: kernel }, (_, i) => inside(stride * a + dilation * i - before)));
  }

  // pixels read by every window, [outputs][taps], -1 for none
  function combineAxes(reads, size) {
    return reads.reduce((pixels, read, axis) => pixels.flatMap(taps => read.map(more =>
      taps.flatMap(p => more.map(q => (p < 0 || q < 0 ? -1 : p * size[axis] + q))))), [[0]]);
  }

  const plane = (planes, size) => [planes, size.length > 1 ? size[0] : 1, size[size.length - 1]];

  function conv(state, dims) {
    const size = perAxis("size", state.size, dims, 1), kernel = perAxis("kernel", state.kernel, dims, 1);
    const stride = perAxis("stride", state.stride, dims, 1);
    const dilation = perAxis("dilation", state.dilation, dims, 1);
    const [cin, cout, groups] = ["in_channels", "out_channels", "groups"]
      .map(name => integer(name, state[name], 1));
    for (const [name, value] of [["in_channels", cin], ["out_channels", cout]])
      if (value % groups) refuse(`groups must divide ${name}, got groups=${groups} and ${name}=${value}`);
    if (!MODES.includes(state.padding_mode)) refuse(`padding_mode must be one of ${MODES}, got ${state.padding_mode}`);
    const pads = paddingPairs(state.padding, kernel, stride, dilation);
    const reads = size.map((n, axis) =>
      axisReads(n, kernel[axis], stride[axis], pads[axis], dilation[axis], state.padding_mode));
    const outputs = reads.map(read => read.length);
    const groupIn = cin / groups, groupOut = cout / groups, taps = product(kernel), pixels = product(size);
    enough(product(outputs) * cout * groupIn * taps);
    const triples = [];
    combineAxes(reads, size).forEach((window, position, all) => {
      for (let co = 0; co < cout; co++) for (let c = 0; c < groupIn; c++)
        window.forEach((pixel, tap) => {
          const ci = Math.floor(co / groupOut) * groupIn + c;
          if (pixel >= 0)
            triples.push([co * all.length + position, ci * pixels + pixel, (co * groupIn + c) * taps + tap]);
        });
    });
    const name = dims === 1 ? ["output", "position"] : ["output channel", "y", "x"];
    return pack(triples, {
      input: plane(cin, size), output: plane(cout, outputs), parameter: plane(cout * groupIn, kernel),
      inputName: "image", outputName: "output", parameterName: "kernel", name,
    });
  }

  function avgpool(state) {
    const channels = integer("channels", state.channels, 1);
    const size = perAxis("size", state.size, 2, 1), kernel = perAxis("kernel", state.kernel, 2, 1);
    const stride = perAxis("stride", state.stride, 2, 1), padding = perAxis("padding", state.padding, 2, 0);
    const ceil = state.ceil_mode === "yes";
    const axes = size.map((n, axis) => {
      const k = kernel[axis], s = stride[axis], p = padding[axis], room = n + 2 * p;
      if (2 * p > k) refuse(`padding must be at most half the window, got ${p} and window ${k}`);
      if (k > room && !(ceil && k <= room + s - 1))
        refuse(`the window must fit the padded input, got extent ${k} and size ${room}`);
      let count = (ceil ? Math.ceil((room - k) / s) : Math.floor((room - k) / s)) + 1;
      if (ceil && (count - 1) * s >= n + p) count -= 1; // the last window must start inside
      const read = Array.from({ length: count }, (_, a) => Array.from({ length: k }, (_, i) => s * a + i - p));
      return {
        read: read.map(window => window.map(at => (at >= 0 && at < n ? at : -1))),
        padded: read.map(window => window.filter(at => at < n + p).length),
      };
    });
    const outputs = axes.map(axis => axis.read.length);
    enough(channels * product(outputs) * product(kernel));
    const windows = combineAxes(axes.map(axis => axis.read), size);
    const divisor = windows.map((window, position) => state.count_include_pad === "yes"
      ? axes[0].padded[Math.floor(position / outputs[1])] * axes[1].padded[position % outputs[1]]
      : window.filter(pixel => pixel >= 0).length);
    const divisors = [...new Set(divisor)].sort((a, b) => a - b);
    const triples = [];
    for (let c = 0; c < channels; c++) windows.forEach((window, position) => {
      for (const pixel of window) if (pixel >= 0)
        triples.push([c * windows.length + position, c * product(size) + pixel, divisors.indexOf(divisor[position])]);
    });
    return pack(triples, {
      input: plane(channels, size), output: plane(channels, outputs), parameter: [1, 1, divisors.length],
      inputName: "image", outputName: "output", parameterName: "weights",
      theta: divisors.map(d => 1 / d), name: ["channel", "y", "x"],
    });
  }

  function recurrence(state, which) {
    const [steps, inputs, hidden] = ["steps", "input_size", "hidden_size"].map(name => integer(name, state[name], 1));
    const blocks = which === "n" ? steps - 1 : steps, width = which === "n" ? hidden : inputs;
    enough(blocks * hidden * width);
    const triples = [];
    for (let t = 0; t < blocks; t++) for (let i = 0; i < hidden; i++) for (let j = 0; j < width; j++)
      triples.push([(which === "n" ? t + 1 : t) * hidden + i, t * width + j, i * width + j]);
    return pack(triples, {
      input: [1, steps, width], output: [1, steps, hidden], parameter: [1, hidden, width],
      inputName: which === "n" ? "states h (a row a step)" : "inputs x (a row a step)",
      outputName: "states h (a row a step)", parameterName: which === "n" ? "weight_hh" : "weight_ih",
    });
  }

  function attention(state) {
    const [tokens, dim, out] = ["tokens", "dim", "out_dim"].map(name => integer(name, state[name], 1));
    const window = state.window === "none" ? Infinity : integer("window", state.window, 0);
    const causal = state.causal === "yes", width = tokens * dim, triples = [];
    enough(tokens * tokens * dim ** 3 * out);
    for (let i = 0; i < tokens; i++) for (let j = 0; j < tokens; j++) {
      if ((causal && j > i) || Math.abs(i - j) > window) continue;
      for (let a = 0; a < dim; a++) for (let b = 0; b < dim; b++) for (let c = 0; c < dim; c++)
        for (let o = 0; o < out; o++)
          triples.push([i * out + o, ((i * dim + a) * width + (j * dim + b)) * width + (j * dim + c),
            ((a * dim + b) * dim + c) * out + o]);
    }
    return pack(triples, {
      input: [1, tokens, dim], output: [1, tokens, out], parameter: [dim, dim, dim * out], order: 3,
      inputName: "tokens (a row a token)", outputName: "output (a row a token)",
      parameterName: "θ[a, b, c, o] (a plane a query feature)",
    });
  }

  function enough(count) {
    if (count > MOST) refuse(`the explorer draws at most ${MOST} nonzeros, got ${count}`);
  }

  function pack(triples, about) {
    const order = about.order ?? 1, width = product(about.input);
    const side = k => triples.map(triple => triple[k]);
    return {
      order, ...about, shape: [product(about.output), width ** order],
      row: side(0), col: side(1), index: side(2), count: product(about.parameter),
    };
  }

  function build(state) {
    const full = { ...defaults(state.kind), ...state };
    const pattern = {
      conv1d: () => conv(full, 1), conv2d: () => conv(full, 2), avgpool: () => avgpool(full),
      recurrence_n: () => recurrence(full, "n"), recurrence_b: () => recurrence(full, "b"),
      attention: () => attention(full),
    }[full.kind]();
    pattern.tied = full.untied !== "yes";
    pattern.base = pattern.index; // the parameter of the tied layer, from which an untied one starts
    if (!pattern.tied) {
      pattern.index = pattern.row.map((_, k) => k);
      pattern.count = pattern.row.length;
    }
    return pattern;
  }

  function defaults(kind) {
    if (!(kind in KINDS)) refuse(`kind must be one of ${Object.keys(KINDS)}, got ${kind}`);
    return { kind, ...Object.fromEntries(KINDS[kind][1].map(([name, value]) => [name, value])), untied: "no" };
  }

  // The input cells that a column multiplies: one, or three for attention.
  function inputs(pattern, col) {
    const width = product(pattern.input), cells = [];
    for (let k = 0; k < pattern.order; k++) { cells.unshift(col % width); col = Math.floor(col / width); }
    return cells;
  }

  function multiply(pattern, theta, x) {
    const y = new Array(pattern.shape[0]).fill(0);
    pattern.row.forEach((r, k) => {
      y[r] += theta[pattern.base[k]] * product(inputs(pattern, pattern.col[k]).map(cell => x[cell]));
    });
    return y;
  }

  function facts(pattern) {
    const [rows, cols] = pattern.shape, nnz = pattern.row.length;
    const reach = sign => pattern.row.reduce((most, r, k) => Math.max(most, sign * (r - pattern.col[k])), 0);
    const lower = reach(1), upper = reach(-1);
    const cells = new Set(pattern.row.map((r, k) => r * cols + pattern.col[k])).size;
    return { rows, cols, nnz, cells, parameters: pattern.count, density: cells / (rows * cols), lower, upper,
      upperTriangular: lower === 0, lowerTriangular: upper === 0 };
  }

  return { KINDS, build, defaults, facts, inputs, multiply, product };
})();
