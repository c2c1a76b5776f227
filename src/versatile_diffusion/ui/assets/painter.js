// The painter: an image under a canvas; what is painted is a mask. Its value is {picture, mask}, both data URLs.
// Strokes can be undone; the board can be enlarged, and then moved in its frame.
const canvas = element.querySelector("canvas");
const brush = element.querySelector("input[type=range]");
const context = canvas.getContext("2d");
const colour = [255, 64, 129];  // of what is painted; the mask is its opacity
let shown = null;
let known = null;  // the mask as it was last drawn or told
const MOST = 30;  // strokes that can be undone
const past = [], future = [];
const sheet = element.querySelector(".sheet"), board = element.querySelector(".board");
const tool = (name) => element.querySelector(`[data-${name}]`);
const on = (name) => tool(name).classList.contains("on");
const copy = () => context.getImageData(0, 0, canvas.width, canvas.height);
const remember = () => {
  past.push(copy());
  if (past.length > MOST) past.shift();
  future.length = 0;
};
const step = (from, to) => {
  if (!from.length) return;
  to.push(copy());
  context.putImageData(from.pop(), 0, 0);
  publish();
};

const show = () => {
  const value = props.value || {};
  element.querySelector(".painter").classList.toggle("empty", !value.picture);
  if (!value.picture) { shown = null; context.clearRect(0, 0, canvas.width, canvas.height); return; }
  if (value.picture === shown) {
    if (!value.mask && used()) publish();  // an answer that is older than the strokes
    else if (value.mask && value.mask !== known) draw(value.mask);
    return;
  }
  shown = value.picture;
  const picture = new Image();
  picture.onload = () => {
    const enlarge = Math.max(1, 320 / Math.max(picture.width, picture.height));
    canvas.width = Math.round(picture.width * enlarge);
    canvas.height = Math.round(picture.height * enlarge);
    past.length = future.length = 0;
    zoom(1);
    board.style.backgroundImage = `url(${value.picture})`;
    if (value.mask) draw(value.mask);
  };
  picture.src = value.picture;
};

const draw = (url) => {
  const mask = new Image();
  mask.onload = () => {
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(mask, 0, 0, canvas.width, canvas.height);
    lighten();
  };
  mask.src = known = url;
};

const lighten = () => {  // a mask from elsewhere is white on black: what is dark becomes clear
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let k = 0; k < pixels.data.length; k += 4) pixels.data.set([...colour, Math.min(pixels.data[k + 3], pixels.data[k])], k);
  context.putImageData(pixels, 0, 0);
};

const used = () => context.getImageData(0, 0, canvas.width, canvas.height).data.some((level, k) => k % 4 === 3 && level > 0);

const publish = () => {
  known = used() ? canvas.toDataURL("image/png") : null;
  props.value = { picture: shown, mask: known };
};

let last = null, held = null;  // the stroke's last place; where the board is held
let scale = 1;
const zoom = (to) => {
  scale = Math.min(Math.max(to, 1), 8);
  board.style.width = `${100 * scale}%`;
  element.querySelector("output").textContent = `${Math.round(100 * scale)} %`;
};
const place = (event) => {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
};
const stroke = (event) => {
  const [x, y] = place(event);
  context.globalCompositeOperation = on("erase") ? "destination-out" : "source-over";
  context.strokeStyle = `rgb(${colour})`;
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = (Number(brush.value) / 100) * Math.max(canvas.width, canvas.height);
  context.beginPath();
  context.moveTo(...(last || [x, y]));
  context.lineTo(x + 0.01, y);
  context.stroke();
  last = [x, y];
};
canvas.addEventListener("pointerdown", (event) => {
  if (!shown) return;
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  if (on("pan")) { held = [event.clientX + sheet.scrollLeft, event.clientY + sheet.scrollTop]; return; }
  last = null;
  remember();
  stroke(event);
});
canvas.addEventListener("pointermove", (event) => {
  if (held && event.buttons) sheet.scrollTo(held[0] - event.clientX, held[1] - event.clientY);
  else if (last && event.buttons) stroke(event);
});
const lift = () => { held = null; if (last) { last = null; publish(); } };
canvas.addEventListener("pointerup", lift);
canvas.addEventListener("pointercancel", lift);

for (const name of ["erase", "pan"]) {
  tool(name).addEventListener("click", () => {
    const now = tool(name).classList.toggle("on");
    tool(name).setAttribute("aria-pressed", String(now));
    canvas.style.cursor = on("pan") ? "grab" : "crosshair";
  });
}
tool("undo").addEventListener("click", () => step(past, future));
tool("redo").addEventListener("click", () => step(future, past));
tool("in").addEventListener("click", () => zoom(scale * 1.5));
tool("out").addEventListener("click", () => zoom(scale / 1.5));
tool("clear").addEventListener("click", () => {
  remember();
  context.clearRect(0, 0, canvas.width, canvas.height);
  publish();
});
tool("invert").addEventListener("click", () => {
  remember();
  const pixels = copy();
  for (let k = 0; k < pixels.data.length; k += 4) pixels.data.set([...colour, 255 - pixels.data[k + 3]], k);
  context.putImageData(pixels, 0, 0);
  publish();
});
watch("value", show);
show();
