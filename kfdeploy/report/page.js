"use strict";
// Tooltips, the choice of what a plot shows, and the copy button. Without it the page is whole but still.
document.documentElement.classList.add("js");
const tip = document.getElementById("tip");

// A <title> is the tooltip where there is no script; here its text becomes the name and our own tooltip.
for (const title of document.querySelectorAll(".point > title")) {
  const point = title.parentNode;
  point.dataset.tip = title.textContent;
  point.setAttribute("aria-label", title.textContent.replaceAll("\n", "; "));
  title.remove();
}

function show(point) {
  tip.textContent = point.dataset.tip;
  tip.hidden = false;
  const mark = (point.querySelector("path.mark, .p50") || point).getBoundingClientRect();
  const { width, height } = tip.getBoundingClientRect();
  const middle = mark.left + mark.width / 2 - width / 2;
  const above = mark.top - height - 10;
  tip.style.left = `${Math.max(8, Math.min(middle, document.documentElement.clientWidth - width - 8))}px`;
  tip.style.top = `${above > 8 ? above : mark.bottom + 10}px`;
}

function hide() {
  tip.hidden = true;
}

for (const [on, off] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
  document.addEventListener(on, (event) => {
    const point = event.target.closest?.("[data-tip]");
    if (point) show(point);
  });
  document.addEventListener(off, hide);
}
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
document.addEventListener("scroll", hide, { passive: true });

for (const choice of document.querySelectorAll(".show")) {
  const plot = choice.closest("figure");
  choice.addEventListener("change", (event) => {
    const { value } = event.target;
    for (const point of plot.querySelectorAll("[data-series]")) {
      point.classList.toggle("off", value !== "all" && value !== point.dataset.series);
    }
    for (const front of plot.querySelectorAll("[data-front]")) {
      front.toggleAttribute("hidden", value !== front.dataset.front);
    }
  });
}

const button = document.getElementById("copy");
button?.addEventListener("click", async () => {
  const text = document.getElementById("csv");
  const said = document.getElementById("copied");
  try {
    await navigator.clipboard.writeText(text.value);
    said.textContent = "copied";
  } catch {  // not allowed here: select it, so that one key does it
    text.closest("details").open = true;
    text.select();
    said.textContent = document.execCommand("copy") ? "copied" : "selected: press Ctrl+C";
  }
});
