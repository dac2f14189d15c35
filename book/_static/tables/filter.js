// Rows of the tables of a page, chosen by what their columns say; the choice lives in the address.
"use strict";
(() => {
  const element = window.bookElement;
  const text = node => node.textContent.replace(/\s+/g, " ").trim();
  // The number that a cell begins with, as the book writes numbers.
  function number(shown) {
    const found = /^([−-]?[\d\u202f.]+)(?:·10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?/.exec(shown);
    if (!found) return NaN;
    const power = [...(found[2] ?? "⁰")].map(sign => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹".indexOf(sign) - 1)
      .reduce((sum, digit) => digit < 0 ? "-" : `${sum}${digit}`, "");
    return Number(found[1].replace("−", "-").replaceAll("\u202f", "")) * 10 ** Number(power);
  }

  class Filter {
    constructor(host) {
      this.host = host;
      this.facets = host.dataset.facets.split(",").map(name => name.trim());
      const root = host.closest("section");
      this.groups = []; // a heading with its tables
      for (const found of root.querySelectorAll("h3, table")) {
        if (found.tagName === "H3") this.groups.push({ heading: found, rows: [] });
        else {
          if (!this.groups.length) this.groups.push({ heading: null, rows: [] });
          const group = this.groups.at(-1);
          group.rows.push(...this.read(found, group.heading));
        }
      }
      this.rows = this.groups.flatMap(group => group.rows);
      this.lay();
      if (host.hasAttribute("data-sort")) root.querySelectorAll("table").forEach(table => this.sortable(table));
      const asked = new URLSearchParams(location.search);
      for (const control of this.controls) if (asked.has(control.name)) control.value = asked.get(control.name);
      this.choose();
    }

    read(table, heading) {
      const heads = [...table.tHead.rows[0].cells].map(text);
      return [...table.tBodies[0].rows].map(row => {
        const values = {};
        for (const facet of this.facets) {
          const column = heads.findIndex(head => head === facet || head.startsWith(`${facet},`));
          const cell = row.cells[column];
          values[facet] = cell ? text(cell.querySelector("strong") ?? cell) : heading ? text(heading).replace(/#$/, "") : "";
        }
        return { row, values, words: text(row).toLowerCase() };
      });
    }

    lay() {
      this.controls = this.facets.map(facet => {
        const found = [...new Set(this.rows.map(row => row.values[facet]))];
        return element("select", { name: facet }, element("option", { value: "" }, "all"),
          ...found.map(value => element("option", { value }, value)));
      });
      this.controls.push(element("input", { name: "words", type: "search" }));
      this.count = element("output", { className: "filter-count" });
      const form = element("form", { className: "filter-form", role: "search", ariaLabel: "Filter the rows" },
        ...this.controls.map(control => element("label", {}, element("span", {}, control.name), control)), this.count);
      form.addEventListener("submit", event => event.preventDefault());
      form.addEventListener("input", () => { this.choose(); this.remember(); });
      this.host.replaceChildren(form);
    }

    choose() {
      const wanted = this.controls.filter(control => control.value.trim());
      let shown = 0;
      for (const group of this.groups) {
        let left = 0;
        for (const { row, values, words } of group.rows) {
          const fits = wanted.every(({ name, value }) =>
            name === "words" ? words.includes(value.trim().toLowerCase()) : values[name] === value);
          row.hidden = !fits;
          if (fits) left += 1;
        }
        const tables = new Set(group.rows.map(({ row }) => row.closest("table")));
        for (const table of tables) table.hidden = ![...table.tBodies[0].rows].some(row => !row.hidden);
        if (group.heading && group.rows.length) group.heading.hidden = !left;
        shown += left;
      }
      this.count.value = `${shown} of ${this.rows.length} rows`;
    }

    remember() {
      const state = new URLSearchParams(this.controls.filter(c => c.value.trim()).map(c => [c.name, c.value]));
      history.replaceState(null, "", `${state.size ? `?${state}` : location.pathname}${location.hash}`);
    }

    sortable(table) {
      [...table.tHead.rows[0].cells].forEach((head, column) => {
        if (!text(head)) return;
        const button = element("button", { type: "button", className: "filter-sort" }, ...head.childNodes);
        head.append(button);
        button.addEventListener("click", () => {
          const down = head.getAttribute("aria-sort") === "ascending";
          for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
          head.setAttribute("aria-sort", down ? "descending" : "ascending");
          const rows = [...table.tBodies[0].rows].map(row => [text(row.cells[column]), row]);
          rows.sort(([a], [b]) => {
            const x = number(a), y = number(b);
            const order = Number.isNaN(x) || Number.isNaN(y)
              ? Number.isNaN(x) - Number.isNaN(y) || a.localeCompare(b) : x - y;
            return down ? -order : order;
          });
          table.tBodies[0].append(...rows.map(([, row]) => row));
        });
      });
    }
  }
  addEventListener("DOMContentLoaded", () =>
    document.querySelectorAll(".table-filter").forEach(host => { host.filter = new Filter(host); }));
})();
