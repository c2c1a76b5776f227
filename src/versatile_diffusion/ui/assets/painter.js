// The painter: a picture under a canvas; what is painted is a mask. Its value is {picture, mask}, both data URLs.
const canvas = element.querySelector("canvas");
const brush = element.querySelector("input[type=range]");
const context = canvas.getContext("2d");
const colour = [255, 64, 129];  // of what is painted; the mask is its opacity
let shown = null;
let known = null;  // the mask as it was last drawn or told

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
    canvas.parentElement.style.backgroundImage = `url(${value.picture})`;
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

let last = null;
const place = (event) => {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
};
const stroke = (event) => {
  const [x, y] = place(event);
  context.globalCompositeOperation = element.querySelector("[data-erase]").classList.contains("on") ? "destination-out" : "source-over";
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
  last = null;
  stroke(event);
});
canvas.addEventListener("pointermove", (event) => { if (last && event.buttons) stroke(event); });
const lift = () => { if (last) { last = null; publish(); } };
canvas.addEventListener("pointerup", lift);
canvas.addEventListener("pointercancel", lift);

element.querySelector("[data-erase]").addEventListener("click", (event) => event.target.classList.toggle("on"));
element.querySelector("[data-clear]").addEventListener("click", () => {
  context.clearRect(0, 0, canvas.width, canvas.height);
  publish();
});
element.querySelector("[data-invert]").addEventListener("click", () => {
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let k = 0; k < pixels.data.length; k += 4) pixels.data.set([...colour, 255 - pixels.data[k + 3]], k);
  context.putImageData(pixels, 0, 0);
  publish();
});
watch("value", show);
show();
