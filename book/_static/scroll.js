// What is wider than its box scrolls by itself: it says so with a shadow, and the keyboard reaches it.
"use strict";
(() => {
  const WIDE = ".bd-article pre, .bd-article .table-scroll, .bd-article .pst-scrollable-table-container, "
    + ".bd-article .katex-display, .bd-article span.math:not(td *, th *), .bd-article .output.text_html, "
    + ".bd-article figure";
  function tooWide(box) {
    if (!box.matches("span.math")) return box.scrollWidth > box.clientWidth + 1;
    // an inline formula breaks between its parts, not inside one
    const room = box.closest("p, li, td, th, dd, div").clientWidth;
    const whole = box.closest(".kept:not(.long)");
    return [...box.querySelectorAll(".base"), ...(whole ? [box.firstElementChild] : [])]
      .some(part => part.getBoundingClientRect().width > room + 1);
  }
  function look() {
    const measured = [...document.querySelectorAll(WIDE)].map(box => [box, tooWide(box)]);
    for (const [box, wide] of measured) {
      if (wide === box.classList.contains("scrolls")) continue;
      box.classList.toggle("scrolls", wide);
      if (wide) box.tabIndex = 0; else box.removeAttribute("tabindex");
    }
  }
  const soon = () => requestAnimationFrame(look);
  addEventListener("load", () => {
    look();
    new ResizeObserver(soon).observe(document.querySelector(".bd-article") ?? document.body);
  });
  addEventListener("resize", soon);
})();
