// Keys and drops that belong to no component.
(() => {
  const seen = (selector) => [...document.querySelectorAll(selector)].find((one) => one.offsetParent !== null);

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      const go = seen("button.go");
      if (go) { event.preventDefault(); document.activeElement?.blur(); setTimeout(() => go.click(), 120); }
    }
    if (event.key === "Escape") seen("button.halt")?.click();
  });

  // Where results are below the inputs, what comes of a click is brought into view.
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("button.go, .gallery-item:not(.results *), tbody tr"))
      setTimeout(() => seen(".stage")?.scrollIntoView({ behavior: "smooth", block: "nearest" }), 300);
  });

  // A file dropped beside the inputs is one to restore settings from.
  const inputs = "[data-testid='image'], .upload-container, .image-container, .file-preview, #restore, button[aria-label], .painter";
  const beside = (event) => event.dataTransfer?.types?.includes("Files") && !event.target.closest?.(inputs);
  document.addEventListener("dragover", (event) => {
    if (!beside(event)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  }, true);
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    if (!beside(event)) return;
    event.preventDefault();
    event.stopPropagation();
    const receiver = document.querySelector("#restore")?.parentElement?.querySelector("input[type=file]");
    if (!receiver || !event.dataTransfer.files.length) return;
    const files = new DataTransfer();
    files.items.add(event.dataTransfer.files[0]);
    receiver.files = files.files;
    receiver.dispatchEvent(new Event("change", { bubbles: true }));
  }, true);
})();
