// A click on a result or a word: what it fills in. The time makes a second click on the same one count.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-prompt]");
  if (!button) return;
  const { prompt, seed } = button.dataset;
  props.value = { prompt, seed: seed === undefined ? null : Number(seed), at: Date.now() };
});
