// A click on a run in the legend hides what bears its number, or shows it again.
(() => {
  const off = new Set();
  const update = (element) => {
    const runs = element.dataset.run.split(" ");
    element.classList.toggle("off", runs.some((run) => off.has(run)));
  };
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const hide = !off.delete(button.value);
      if (hide) off.add(button.value);
      button.setAttribute("aria-pressed", String(!hide));
      document.querySelectorAll("[data-run]").forEach(update);
    });
  }
})();
