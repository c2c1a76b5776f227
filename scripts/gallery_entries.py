"""The entries of the gallery: each control and application once. `make_gallery.py` runs them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from gallery_page import Entry, Samples, Shown, entry

from versatile_diffusion import Condition
from versatile_diffusion.applications.disentangle import levels, restyle, strip
from versatile_diffusion.applications.joint import joint
from versatile_diffusion.applications.round_trip import edit
from versatile_diffusion.applications.variation import METHODS, in_colours_of
from versatile_diffusion.evaluation.text_statistics import statistics
from versatile_diffusion.modalities.image import check_image
from versatile_diffusion.sampling.focus import Focus
from versatile_diffusion.sampling.rules import MIXINGS

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline as Pipe

ENTRIES: list[Entry] = []
show = partial(entry, ENTRIES)


@show(
    "Two prompts and two images, mixed in four ways",
    'versatile blend --text "a yellow face@0.25" --text "a hat@0.25" --image tiger-face.png@0.25 \\\n'
    "    --image smiling-face.png@0.25 --mixing layer --show-plan --seed 0",
)
def mixing(pipe: Pipe, sample: Samples) -> Shown:
    """The attention, layer and model levels of the paper (section 3.3), and token concatenation as in the 2023 app,
    with the same four seeds each."""
    given = [sample["tiger-face"], sample["smiling-face"]]
    conditions = [Condition("text", text) for text in ("a yellow face", "a hat")]
    conditions += [Condition("image", image) for image in given]
    made = {how: pipe.generate("image", conditions, mixing=how, num_outputs=4, seed=0) for how in MIXINGS}
    plan = made["layer"].layer_plan[0]
    return Shown(
        [image for output in made.values() for image in (*map(check_image, given), *output.images)],
        ["given", "given", *(f"seed {seed}" for seed in range(4))],
        list(made),
        [
            *(f"{how}: {output.cost}" for how, output in made.items()),
            f"layer: the context of each block at the first step is {' '.join(map(str, plan))}",
        ],
    )


@show("Interpolating between conditions", 'versatile blend --text "a red heart@0.25" --image cactus.png@0.75 --seed 0')
def weights(pipe: Pipe, sample: Samples) -> Shown:
    """Weights are relative: from an image to a prompt, and from one image to another. A condition of weight 0 has no
    effect at all."""
    cactus, shares = Condition("image", sample["cactus"]), [0, 0.25, 0.5, 0.75, 1]
    ends = [Condition("text", "a red heart"), Condition("image", sample["ice-cream"])]
    images = []
    for end, share in product(ends, shares):
        both = [replace(cactus, weight=1 - share), replace(end, weight=share)]
        images += pipe.generate("image", both, seed=0).images
    return Shown(images, [f"weight {share:g}" for share in shares], ["red heart", "ice cream"])


@show(
    "A guidance scale per condition",
    'versatile blend --image cactus.png@0.5,scale=1 --text "blue@0.5,scale=9" --seed 0',
)
def scales(pipe: Pipe, sample: Samples) -> Shown:
    """Rows vary the guidance scale of the image, columns that of the prompt."""
    choices, images = [1, 3, 9], []
    for image_scale, text_scale in product(choices, choices):
        image = Condition("image", sample["cactus"], guidance_scale=image_scale)
        text = Condition("text", "blue", guidance_scale=text_scale)
        images += pipe.generate("image", [image, text], seed=0).images
    return Shown(images, [f"text {scale}" for scale in choices], [f"image {scale}" for scale in choices])


@show("Negative prompts", 'versatile blend --text "a face@1,negative=yellow" --seed 0')
def negatives(pipe: Pipe, sample: Samples) -> Shown:
    """A negative prompt replaces the empty prompt in guidance. Each row has one seed."""
    none = pipe.generate("image", [Condition("text", "a face")], num_outputs=3, seed=0)
    colour = pipe.generate("image", [Condition("text", "a face", negative="yellow")], num_outputs=3, seed=0)
    smile = pipe.generate("image", [Condition("text", "a face", negative="a smile")], num_outputs=3, seed=0)
    columns = zip(none.images, colour.images, smile.images, strict=True)
    return Shown(
        [image for row in columns for image in row],
        ["a face", "not yellow", "not a smile"],
        ["seed 0", "seed 1", "seed 2"],
    )


@show(
    "Start and end of a condition",
    'versatile blend --text "a red heart@1,end=0.5" --image cactus.png@1,start=0.5 --seed 0',
)
def times(pipe: Pipe, sample: Samples) -> Shown:
    """Early steps set the layout, late ones refine. The prompt acts up to the fraction shown, the image after it."""
    shares, images = [0.1, 0.25, 0.5, 0.75, 0.9], []
    for share in shares:
        text = Condition("text", "a red heart", end=share)
        image = Condition("image", sample["cactus"], start=share)
        images += pipe.generate("image", [text, image], num_inference_steps=20, seed=0).images
    return Shown(images, [f"up to {share}" for share in shares])


@show("Guidance interval and rescale", 'versatile text-to-image "a red apple" --guidance-rescale 0.7')
def intervals(pipe: Pipe, sample: Samples) -> Shown:
    """Steps outside the interval cost one pass instead of two. Rescaling reduces the contrast of a high scale."""
    ways = {
        "scale 12": {},
        "0.1 to 0.8": {"guidance_interval": (0.1, 0.8)},
        "0 to 0.5": {"guidance_interval": (0, 0.5)},
        "rescale 0.7": {"guidance_rescale": 0.7},
    }
    made = {name: pipe.text_to_image("a red apple", guidance_scale=12, seed=0, **way) for name, way in ways.items()}
    costs = [f"{name}: {output.cost}" for name, output in made.items()]
    return Shown([output.images[0] for output in made.values()], list(made), text=costs)


@show("Regions", 'versatile blend --text "a red heart@1,region=left" --image cactus.png@1,region=right')
def regions(pipe: Pipe, sample: Samples) -> Shown:
    """Each condition acts on one half of the canvas: with a hard edge, with a soft edge, and top against bottom."""
    soft = np.tile(np.linspace(1, 0, 64), (64, 1))
    halves = {
        "left | right": ((0, 0, 0.5, 1), (0.5, 0, 1, 1)),
        "soft edge": (soft, 1 - soft),
        "top | bottom": ((0, 0, 1, 0.5), (0, 0.5, 1, 1)),
    }
    images = []
    for first, second in halves.values():
        text = Condition("text", "a red heart", region=first)
        image = Condition("image", sample["cactus"], region=second)
        images += pipe.generate("image", [text, image], num_outputs=4, seed=0).images
    return Shown(images, [f"seed {seed}" for seed in range(4)], list(halves))


@show("Masks", "versatile image-variation automobile.png --mask upper-half.png")
def masks(pipe: Pipe, sample: Samples) -> Shown:
    """The mask selects what the encoder sees: the whole image, a half, or a soft spot in the middle."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    parts = {"all": None, "upper half": y < 0, "left half": x < 0, "soft spot": np.exp(-4 * (x**2 + y**2))}
    images = []
    for mask in parts.values():
        images += pipe.image_variation(sample["automobile"], mask=mask, num_outputs=3, seed=0).images
    given = [check_image(sample["automobile"])] * len(parts)
    rows = [image for k, one in enumerate(given) for image in (one, *images[3 * k : 3 * k + 3])]
    return Shown(rows, ["given", *(f"seed {seed}" for seed in range(3))], list(parts))


@show("Inpainting", 'versatile text-to-image "a red heart" --start whale.png --repaint right --seed 0')
def inpainting(pipe: Pipe, sample: Samples) -> Shown:
    """One region of the image is regenerated; the rest is bit-identical."""
    start, right = check_image(sample["whale"]), (0.5, 0, 1, 1)
    made = pipe.text_to_image("a red heart", start=start, repaint=right, num_outputs=4, seed=0, guidance_scale=7)
    half = start.width // 2
    kept = [np.array_equal(np.asarray(image)[:, :half], np.asarray(start)[:, :half]) for image in made.images]
    answer = f"The left half is bit-identical in {sum(kept)} of {len(kept)} images."
    return Shown([start, *made.images], ["start", *(f"seed {seed}" for seed in range(4))], text=[answer])


@show("Fidelity", 'versatile text-to-image "a face" --start tiger-face.png --fidelity 0.5 --seed 0')
def fidelity(pipe: Pipe, sample: Samples) -> Shown:
    """Start from an image instead of noise. Fidelity (1 - denoising strength) sets how much of it is kept."""
    shares, images = [0.1, 0.3, 0.5, 0.7, 0.9], []
    for share in shares:
        images += pipe.text_to_image("a blue face", start=sample["tiger-face"], fidelity=share, seed=0).images
    return Shown([check_image(sample["tiger-face"]), *images], ["start", *map(str, shares)])


@show("Other sizes", "versatile image-variation cactus.png --width 96 --height 64 --seed 0")
def sizes(pipe: Pipe, sample: Samples) -> Shown:
    """Sizes in pixels that the model was not trained at."""
    shapes = [(64, 64), (96, 64), (64, 96), (96, 96)]
    images = []
    for width, height in shapes:
        images += pipe.image_variation(sample["cactus"], width=width, height=height, seed=0).images
    return Shown(images, [f"{width} x {height}" for width, height in shapes])


@show("Colour matching", "versatile image-variation automobile.png --match-colours histogram --seed 0")
def colours(pipe: Pipe, sample: Samples) -> Shown:
    """The variation takes on the colours of its input, as in the 2022 and 2023 apps."""
    names, images = ["automobile", "ice-cream", "whale"], []
    for name in names:
        given = check_image(sample[name])
        made = pipe.image_variation(given, seed=0).images[0]
        images += [given, made, *(in_colours_of(made, given, method) for method in METHODS)]
    return Shown(images, ["given", "as it came", *METHODS], names)


@show("Styles", 'versatile text-to-image "a cat face" --style noto --seed 0')
def styles(pipe: Pipe, sample: Samples) -> Shown:
    """A style name adds the style's phrase to the prompt."""
    known = list(pipe.config.styles)[:7]
    images = [pipe.text_to_image("a cat face", style=style, seed=0).images[0] for style in known]
    return Shown(images, known)


@show("Semantics and style of an image", "versatile disentangle tiger-face.png --seed 0")
def disentanglement(pipe: Pipe, sample: Samples) -> Shown:
    """The five levels of the paper's figure 9, all from the same noise: -2 and -1 keep the content, 1 and 2 the
    style."""
    names = ["tiger-face", "cactus", "automobile"]
    strips = {name: strip(pipe, sample[name], seed=0) for name in names}
    images = [
        image for name in names for image in (check_image(sample[name]), *(s.output.images[0] for s in strips[name]))
    ]
    return Shown(images, ["given", *(f"level {focus.level}" for focus in levels())], names)


@show("Other conventions, and no global token", "versatile disentangle tiger-face.png --convention pca")
def conventions(pipe: Pipe, sample: Samples) -> Shown:
    """Plain PCA; the 2023 scale from 0 (content) to 1 (style); the paper's levels without the global token; and with
    the null context (the grey image of 2022) decomposed as well."""
    grey = {"null": "2022"}
    rows = {"pca": levels("pca"), "2023": levels("2023"), "no global": levels("paper", drop_global=True)}
    strips = {name: strip(pipe, sample["tiger-face"], focuses, seed=0) for name, focuses in rows.items()}
    strips["null, too"] = strip(pipe, sample["tiger-face"], levels("paper", on_null=True), seed=0, **grey)
    columns = ["semantics", "", "neutral", "", "style"]
    return Shown([step.output.images[0] for steps in strips.values() for step in steps], columns, list(strips))


@show("Style of one image, semantics of another", "versatile disentangle tiger-face.png --style-of cactus.png")
def recombination(pipe: Pipe, sample: Samples) -> Shown:
    """The strongest components of the image on the left replace those of the image on top."""
    looks, contents = ["smiling-face", "cactus", "automobile"], ["tiger-face", "whale", "ice-cream"]
    images = [check_image(sample[name]) for name in contents]
    for look, content in product(looks, contents):
        images += restyle(pipe, style=sample[look], content=sample[content], seed=0).images
    return Shown(images, contents, ["semantics of", *looks])


@show("Style of an image with a prompt", 'versatile blend --text "a house@0.5" --image cactus.png@0.5,focus=paper:2')
def style_and_text(pipe: Pipe, sample: Samples) -> Shown:
    """The prompt sets the content, the image the look: conditioning on the whole image, and on its style only."""
    names, images = ["cactus", "tiger-face", "automobile"], []
    for name, focus in product(names, [None, Focus(2, "paper", drop_global=True)]):
        both = [Condition("text", "a house"), Condition("image", sample[name], focus=focus)]
        images += pipe.generate("image", both, num_outputs=2, seed=0).images
    return Shown(images, ["all, seed 0", "all, seed 1", "style, seed 0", "style, seed 1"], names)


@show("Editing through the caption", 'versatile edit automobile.png --remove "red" --add "blue" --seed 0')
def editing(pipe: Pipe, sample: Samples) -> Shown:
    """Image to text to image: one word is removed from the caption's latent and another added; the edited caption and a
    reduced image condition the result. The last column uses a caption written by hand."""
    wishes = {"automobile": ("red", "blue"), "smiling-face": ("yellow", "green"), "ice-cream": ("white", "pink")}
    images, stages = [], []
    for name, (less, more) in wishes.items():
        words = edit(pipe, sample[name], remove=less, add=more, seed=0)
        own = edit(pipe, sample[name], caption=f"a {more} {name}", image_weight=0.5, seed=0)
        stages.append(f"{name}, - {less}, + {more}: before “{words.before.texts[0]}”, after “{words.after[0]}”")
        images += [check_image(sample[name]), words.picture.images[0], own.picture.images[0]]
    return Shown(images, ["given", "remove, add", "own caption"], list(wishes), stages)


@show("Ranked captions", "versatile image-to-text tiger-face.png --count 8 --rank --seed 0")
def captions(pipe: Pipe, sample: Samples) -> Shown:
    """Eight captions per image, duplicates merged, best match first. D is distinct-1, S the self-similarity."""
    found = {name: pipe.image_to_text(value, num_outputs=8, rank=True, seed=0) for name, value in sample.items()}
    best = {name: [f"“{row.value}” {row.score:.2f} x{row.count}" for row in o.ranking[:3]] for name, o in found.items()}
    varied = {name: statistics(output.texts) for name, output in found.items()}
    return Shown(
        [check_image(value) for value in sample.values()],
        list(sample),
        text=[
            f"{name}: {'; '.join(rows)} (D {varied[name]['distinct-1']:.2f}, S {varied[name]['self-similarity']:.2f})"
            for name, rows in best.items()
        ],
    )


@show(
    "Captions from a prompt and an image",
    'versatile blend --text "blue@0.5" --image automobile.png@0.5 --to text --seed 0',
)
def texts(pipe: Pipe, sample: Samples) -> Shown:
    """Paraphrases of a prompt, sampled and greedy (at most five tokens plus both end tokens); and captions conditioned
    on an image and a prompt."""
    given = "a yellow smiling face"
    sampled = pipe.text_variation(given, num_outputs=4, temperature=0.7, seed=0)
    likeliest = pipe.text_variation(given, num_outputs=4, temperature=0.0, max_length=7, seed=0)
    both = [Condition("text", "blue"), Condition("image", sample["automobile"])]
    short = {"num_inference_steps": 25, "guidance_scale": 3, "num_outputs": 4, "seed": 0}
    mixed = {how: pipe.generate("text", both, mixing=how, **short) for how in ("attention", "layer", "model")}
    lines = [f"{given}, temperature 0.7: {'; '.join(f'“{text}”' for text in sampled.texts)}"]
    lines += [f"{given}, the likeliest: {'; '.join(f'“{text}”' for text in likeliest.texts)}"]
    lines += [f"automobile and blue, {how}: {'; '.join(f'“{t}”' for t in o.texts)}" for how, o in mixed.items()]
    return Shown([check_image(sample["automobile"])], ["automobile"], text=lines)


@show("Best of several candidates", 'versatile text-to-image "a red apple" --candidates 8 --count 4 --rank --seed 0')
def candidates(pipe: Pipe, sample: Samples) -> Shown:
    """Eight candidates per item; the one that matches the prompt best, by the model's own encoders, is kept. The first
    row shows the first candidate."""
    choices = {"as it came": 1, "best of 8": 8}
    same = {"num_outputs": 4, "rank": True, "seed": 0}
    made = {name: pipe.text_to_image("a red apple", candidates=n, **same) for name, n in choices.items()}
    scores = {name: [row.score for row in output.ranking] for name, output in made.items()}
    return Shown(
        [image for output in made.values() for image in output.images],
        [f"seed {seed}" for seed in range(4)],
        list(made),
        [f"{name}: mean agreement {sum(found) / len(found):.2f}" for name, found in scores.items()],
    )


@show("An image and its caption, generated together", 'versatile joint --text "a red heart" --count 4 --seed 0')
def together(pipe: Pipe, sample: Samples) -> Shown:
    """From noise alone, from a prompt, and from an image. Image and caption condition each other."""
    whale, heart = Condition("image", sample["whale"]), Condition("text", "a red heart")
    given = {"noise": [], "red heart": [heart], "whale": [whale], "both": [heart, whale]}
    same = {"captioning": {"temperature": 0.0}, "num_outputs": 4, "seed": 0}
    made = {name: joint(pipe, conditions, **same) for name, conditions in given.items()}
    return Shown(
        [image for both in made.values() for image in both.picture.images],
        [f"seed {seed}" for seed in range(4)],
        list(made),
        [f"{name}: {'; '.join(f'“{text}”' for text in both.caption.texts)}" for name, both in made.items()],
    )


@show("A sweep", 'versatile sweep text-to-image "a red apple" --over guidance_scale=1:13:3 --over seed=0:5')
def sweep(pipe: Pipe, sample: Samples) -> Shown:
    """One task over two settings. The command writes this sheet, which can be replayed."""
    choices = [1, 4, 7, 10]
    made = [pipe.text_to_image("a red apple", guidance_scale=scale, num_outputs=5, seed=0) for scale in choices]
    images = [image for output in made for image in output.images]
    return Shown(images, [f"seed {seed}" for seed in range(5)], [f"guidance_scale {scale}" for scale in choices])


@show(
    "Replay",
    'versatile dual-guided "a red heart" cactus.png --count 3 --seed 5\nversatile replay out/dual-guided-0003.png',
)
def replay(pipe: Pipe, sample: Samples) -> Shown:
    """An output stores all of its settings; its replay is bit-identical. An item of a batch generated alone, from its
    own seed, differs by rounding only."""
    batch = pipe.dual_guided("a red heart", sample["cactus"], num_outputs=3, seed=5)
    again, alone = pipe.replay(batch[2].settings), pipe.dual_guided("a red heart", sample["cactus"], seed=7)
    same = np.array_equal(np.asarray(batch.images[2]), np.asarray(again.images[0]))
    apart = float((batch.latents[2] - alone.latents[0]).abs().max())
    lines = [f"replayed: {'the same' if same else 'NOT the same'}", f"alone: latents differ by at most {apart:.1e}"]
    return Shown([batch.images[2], again.images[0], alone.images[0]], ["of a batch", "replayed", "alone"], text=lines)


@show("Rejected requests", 'versatile blend --text "a cat@0" --seed 0')
def refusals(pipe: Pipe, sample: Samples) -> Shown:
    """Invalid requests are rejected before sampling, with one line each."""
    face, none = sample["tiger-face"], np.zeros((64, 64))
    mistakes = {
        "a mask of another shape": lambda: [Condition("image", face, mask=np.ones((10, 64)))],
        "a mask that keeps nothing": lambda: [Condition("image", face, mask=none)],
        "a region with nothing in it": lambda: [Condition("text", "a cat", region=none)],
        "a negative weight": lambda: [Condition("text", "a cat", weight=-1)],
        "no weight at all": lambda: [Condition("text", "a cat", weight=0), Condition("image", face, weight=0)],
        "an end before the start": lambda: [Condition("text", "a cat", start=0.8, end=0.2)],
        "a context that is none": lambda: [Condition("sound", "a bell")],
        "no tokens": lambda: [Condition("text", tokens=torch.zeros(0, 192))],
    }
    said = {}
    for name, conditions in mistakes.items():
        try:
            pipe.generate("image", conditions())
        except ValueError as error:
            said[name] = str(error)
    return Shown([], [], text=[f"{name}: {said[name]}" for name in mistakes])


@show("Held-out images", held_out=True)
def held_out(pipe: Pipe, sample: Samples) -> Shown:
    """Held-out images without a same-outline sibling in the training set: variations at three disentanglement levels,
    and the greedy caption."""
    focuses = [Focus(level) for level in (-2, 0, 2)]
    strips = {name: strip(pipe, value, focuses, seed=0) for name, value in sample.items()}
    said = {name: pipe.image_to_text(value, temperature=0.0, seed=0).texts[0] for name, value in sample.items()}
    images = [
        image
        for name, steps in strips.items()
        for image in (check_image(sample[name]), *(s.output.images[0] for s in steps))
    ]
    return Shown(
        images,
        ["given", "level -2", "level 0", "level 2"],
        list(strips),
        [f"{name}: “{t}”" for name, t in said.items()],
    )
