// Comforts only: the page can be read without.
(() => {
  const all = (selector) => document.querySelectorAll(selector);

  // A link to a folded comparison unfolds it, and so does printing.
  const unfold = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
  };
  addEventListener("hashchange", unfold);
  unfold();
  addEventListener("beforeprint", () => all("details").forEach((item) => { item.open = true; }));

  // Pointing at a name in the legend leaves its line alone in the charts.
  all(".legend li").forEach((item) => {
    const others = () => [...all(".depth .series")].filter((line) => line.dataset.series !== item.dataset.series);
    item.addEventListener("mouseenter", () => others().forEach((line) => line.classList.add("faded")));
    item.addEventListener("mouseleave", () => others().forEach((line) => line.classList.remove("faded")));
  });
})();
