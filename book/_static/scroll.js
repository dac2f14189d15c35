// What is wider than its box scrolls by itself: it says so with a shadow, and the keyboard reaches it.
"use strict";
(() => {
  const WIDE = ".bd-article pre, .bd-article .table-scroll, .bd-article .pst-scrollable-table-container, "
    + ".bd-article mjx-container:not(td *, th *), .bd-article .output.text_html, .bd-article div.math";
  function look() {
    for (const box of document.querySelectorAll(WIDE)) {
      const inline = box.matches("mjx-container:not([display])");
      const room = inline ? box.closest("p, li, td, th, dd, div").clientWidth : box.clientWidth;
      const wide = Math.max(box.scrollWidth, inline ? box.offsetWidth : 0) > room + 1;
      if (wide === box.classList.contains("scrolls")) continue;
      box.classList.toggle("scrolls", wide);
      if (wide) box.tabIndex = 0; else box.removeAttribute("tabindex");
    }
  }
  // A full stop or comma after inline mathematics stays on its line.
  function join() {
    for (const formula of document.querySelectorAll(".bd-article span.math")) {
      const next = formula.nextSibling;
      if (next?.nodeType !== Node.TEXT_NODE) continue;
      const mark = /^[.,;:!?)\]\u2019\u201d]+/.exec(next.data)?.[0];
      if (!mark) continue;
      next.splitText(mark.length);
      const kept = document.createElement("span");
      kept.className = "kept";
      formula.before(kept);
      kept.append(formula, next);
    }
  }
  const soon = () => requestAnimationFrame(look);
  addEventListener("load", async () => {
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    join();
    look();
    new ResizeObserver(soon).observe(document.querySelector(".bd-article") ?? document.body);
  });
  addEventListener("resize", soon);
})();
