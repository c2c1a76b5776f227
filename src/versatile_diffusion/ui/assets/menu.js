// All tabs in one menu, for phones. It follows the tabs, whatever selects them.
const select = element.querySelector("select");
const parts = window.gradio_config.components.filter((one) => one.type === "tabitem");
for (const { props: part } of parts) select.add(new Option(part.label, part.id));
select.addEventListener("change", () => { props.value = select.value; });
const follow = () => {
  const open = document.querySelector("#tabs .tabitem[style*='block'], #tabs [role=tabpanel]:not([style*='none'])");
  const name = open?.id?.replace(/^tab-/, "");
  if (name && name !== select.value) {
    select.value = name;
    props.value = null;
  }
};
let planned = false;
const plan = () => {  // once per burst of changes, and only where the menu is seen
  if (planned || !element.offsetParent) return;
  planned = true;
  setTimeout(() => { planned = false; follow(); }, 100);
};
new MutationObserver(plan).observe(document.querySelector("#tabs"), { subtree: true, attributes: true, attributeFilter: ["style"] });
