// A click on a tile, or on play, selects it; what plays elsewhere stops.
const select = (tile) => {
  const all = [...element.querySelectorAll("figure")];
  const index = all.indexOf(tile);
  if (index < 0 || tile.classList.contains("chosen")) return;
  for (const one of all) {
    one.classList.toggle("chosen", one === tile);
    if (one === tile) one.setAttribute("aria-current", "true");
    else one.removeAttribute("aria-current");
  }
  trigger("select", { index, value: index });
};
element.addEventListener("click", (event) => select(event.target.closest("figure")));
element.addEventListener("play", (event) => {
  for (const one of document.querySelectorAll("audio")) if (one !== event.target) one.pause();
  select(event.target.closest("figure"));
}, true);
