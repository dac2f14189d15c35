// Formulas: KaTeX sets the TeX that pages hold, and that previews of links hold when they are shown.
"use strict";
(() => {
  const TEX = /^\s*\\([([])(.*)\\[)\]]\s*$/s;
  function set(root) {
    for (const box of root.querySelectorAll(".math")) {
      const source = box.lastChild, found = TEX.exec(source?.data ?? "");
      if (!found) continue;
      const formula = document.createElement("span");
      katex.render(found[2], formula, { displayMode: found[1] === "[", throwOnError: false, strict: false });
      source.replaceWith(...formula.childNodes);
      keep(box);
    }
  }
  // A full stop or comma after inline mathematics stays on its line.
  function keep(formula) {
    const next = formula.nextSibling;
    const mark = formula.matches("span") && /^[.,;:!?)\]\u2019\u201d]+/.exec(next?.data ?? "")?.[0];
    if (!mark) return;
    next.splitText(mark.length);
    const kept = document.createElement("span");
    kept.className = formula.querySelectorAll(".base").length > 3 ? "kept long" : "kept";
    formula.before(kept);
    kept.append(formula, next);
  }
  document.addEventListener("DOMContentLoaded", () => {
    set(document);
    const plain = window.tippy;
    if (plain) window.tippy = (link, choices) => plain(link, { ...choices, onShow: tip => set(tip.popper) });
  });
})();
