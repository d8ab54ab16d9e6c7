"use strict";
// Paper folds nothing away.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
for (const plot of document.querySelectorAll(".plot")) {
  const svg = plot.querySelector("svg.chart"), told = plot.querySelector(".told");
  const cursor = plot.querySelector(".cursor"), axes = plot.querySelector(".axes");
  const lines = [...plot.querySelectorAll("polyline")];
  const [left, right] = [52, 12], width = svg.viewBox.baseVal.width;
  const low = +axes.dataset.low, high = +axes.dataset.high, hint = told.textContent;
  for (const button of plot.querySelectorAll("button"))
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", shown);
      for (const line of lines)
        if (line.dataset.policy === button.dataset.policy) line.style.display = shown ? "" : "none";
    });
  for (const line of lines) {
    line.ms = line.dataset.ms.split(" ").map(Number);
    line.share = line.dataset.share.split(" ").map(Number);
  }
  const within = (line, ms) => {
    let n = line.ms.findIndex((value) => value > ms);
    return n < 0 ? 1 : n === 0 ? 0 : line.share[n - 1];
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * width;
    if (x < left || x > width - right) return;
    const ms = 10 ** (low + ((x - left) / (width - left - right)) * (high - low));
    cursor.setAttribute("x1", x); cursor.setAttribute("x2", x);
    cursor.setAttribute("visibility", "visible");
    const shares = lines.filter((line) => line.style.display !== "none")
      .map((line) => `${line.dataset.label} ${Math.round(100 * within(line, ms))} %`);
    told.textContent = `within ${ms.toPrecision(3)} ms: ${shares.join(", ")}`;
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden"); told.textContent = hint;
  });
}
