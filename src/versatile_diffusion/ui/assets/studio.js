// What the browser remembers: its name, to which its results belong, and light or dark.
window.versatileStudio = (() => {
  const stored = (key, value) => {
    try {
      if (value !== undefined) localStorage.setItem(key, value);
      return localStorage.getItem(key);
    } catch { return null; }  // storage is switched off: remembered until the page is closed
  };
  const random = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const dark = (on) => document.body.classList.toggle("dark", on);
  return {
    opened: () => {
      const shade = stored("versatile-shade");
      if (shade) dark(shade === "dark");
      return stored("versatile-browser") || stored("versatile-browser", random()) || random();
    },
    // Another model is being loaded: the server goes away and comes back with another page.
    again: async () => {
      const id = () => fetch("gradio_api/app_id", { cache: "no-store" }).then((answer) => answer.json()).then((one) => one.app_id);
      const before = await id().catch(() => null);
      const look = async () => {
        if (document.querySelector("#models .trouble")) return;  // it could not be loaded
        const now = await id().catch(() => null);
        if (before !== null && now !== null && now !== before) location.reload();
        else setTimeout(look, 700);
      };
      setTimeout(look, 1500);
    },
    shade: () => { stored("versatile-shade", dark() ? "dark" : "light"); },
  };
})();

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

  // A file dropped anywhere is one to restore settings from. Inputs of pictures keep what is dropped on them; where that
  // holds settings, they are offered. What is dragged about within the page is no file.
  const receiver = () => document.querySelector("#restore")?.parentElement?.querySelector("input[type=file]");
  const hand = (file) => {
    const files = new DataTransfer();
    files.items.add(file);
    receiver().files = files.files;
    receiver().dispatchEvent(new Event("change", { bubbles: true }));
    scrollTo({ top: 0, behavior: "smooth" });
  };
  const offer = (file) => {
    document.querySelector(".offer")?.remove();
    const box = document.createElement("div");
    box.className = "offer";
    box.setAttribute("role", "status");
    box.append("This image contains its settings.");
    const add = (label, deed) => {
      const button = document.createElement("button");
      button.textContent = label;
      button.addEventListener("click", () => { box.remove(); deed(); });
      box.append(button);
    };
    add("Restore settings", () => hand(file));
    add("Use as input", () => {});
    document.body.append(box);
    setTimeout(() => box.remove(), 15000);
  };
  let own = false;
  document.addEventListener("dragstart", () => { own = true; }, true);
  document.addEventListener("dragend", () => { own = false; }, true);
  const carries = (event) => !own && receiver() && event.dataTransfer?.types?.includes("Files");
  const input = (event) => {
    const block = event.target.closest?.(".block");
    return Boolean(block && (block.matches(".a-picture") || block.querySelector("input[type=file]")));
  };
  document.addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    document.body.classList.toggle("dropping", !input(event));
    if (!input(event)) event.preventDefault();
  }, true);
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
  document.addEventListener("drop", async (event) => {
    document.body.classList.remove("dropping");
    const file = carries(event) && event.dataTransfer.files[0];
    if (!file) return;
    if (!input(event)) {
      event.preventDefault();
      event.stopPropagation();
      return hand(file);
    }
    if ((await file.slice(0, 65536).text()).includes("versatile_diffusion")) offer(file);
  }, true);
})();
