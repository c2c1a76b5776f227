"""Public packages of the emoji set: versions, licences and styles.

Packages are pinned by version and by the registry's checksum, so that a build either gets exactly these bytes or fails.
"""

from __future__ import annotations

from dataclasses import dataclass

from versatile_diffusion.printable import shown


@dataclass(frozen=True)
class Package:
    """One npm package, pinned: `integrity` is the `sha512-<base64>` of its tarball."""

    name: str
    version: str
    licence: str
    authors: str
    integrity: str

    @property
    def spec(self) -> str:
        """`name@version` for npm."""
        return f"{self.name}@{self.version}"

    @property
    def filename(self) -> str:
        """File name written by `npm pack`."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True)
class Style:
    """A drawing style.

    `form` is the package's format and names a reader in `drawings.FORMS`; `source` is the file, folder or mapping for
    the reader. Styles with the same `drawing` share outlines, so that one in training reveals much about the others.
    `phrases`
    are nouns: "a {phrase} of a dog".
    """

    id: str
    package: str
    form: str
    source: str
    drawing: str
    phrases: tuple[str, str, str]
    monochrome: bool = False


PACKAGES: tuple[Package, ...] = (
    Package(
        "@iconify-json/noto",
        "1.2.9",
        "Apache-2.0",
        "Google Inc (Noto Emoji); packaged by Iconify",
        "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    ),
    Package(
        "@iconify-json/noto-v1",
        "1.2.5",
        "Apache-2.0",
        "Google Inc (Noto Emoji, version 1); packaged by Iconify",
        "sha512-/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
    ),
    Package(
        "@iconify-json/twemoji",
        "1.2.5",
        "CC-BY-4.0",
        "Twitter, Inc and other contributors (Twemoji); packaged by Iconify",
        "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
    ),
    Package(
        "openmoji",
        "17.0.0",
        "CC-BY-SA-4.0",
        "OpenMoji, HfG Schwaebisch Gmuend and contributors",
        "sha512-EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrPc5N9CzsyPnRTk0Vp4UaI9w==",
    ),
    Package(
        "@iconify-json/emojione",
        "1.2.3",
        "CC-BY-4.0",
        "Emoji One (version 2, kept as EmojiTwo); packaged by Iconify",
        "sha512-T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
    ),
    Package(
        "@iconify-json/emojione-v1",
        "1.2.3",
        "CC-BY-SA-4.0",
        "Emoji One (version 1); packaged by Iconify",
        "sha512-UjI2VQEXVtGlPBvQuxEizro7QCgBcJDOYwKUupquvvZ8UV4xOlvm45IU82JYWegiAWLerY79gFLMZ26U6Ms+ww==",
    ),
    Package(
        "@iconify-json/emojione-monotone",
        "1.2.1",
        "CC-BY-4.0",
        "Emoji One (monotone, kept as EmojiTwo); packaged by Iconify",
        "sha512-cZSNcPsuiAD6HCzCh/2dYKGh3pNI0jJlxBxQWfC33cQsPtqYZqulGBvlkThXYNvDl8VxgVHT9u+izyX/yeEIkA==",
    ),
    Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "MIT",
        "Microsoft Corporation (Fluent Emoji); packaged by Iconify",
        "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    ),
    Package(
        "@iconify-json/fluent-emoji-high-contrast",
        "1.2.6",
        "MIT",
        "Microsoft Corporation (Fluent Emoji); packaged by Iconify",
        "sha512-esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
    ),
    Package(
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "MIT",
        "Microsoft Corporation (Fluent Emoji); packaged by LobeHub",
        "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    ),
    Package(
        "@iconify-json/fxemoji",
        "1.2.2",
        "Apache-2.0",
        "Mozilla (FxEmojis); packaged by Iconify",
        "sha512-UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
    ),
    Package(
        "@iconify-json/streamline-emojis",
        "1.2.4",
        "CC-BY-4.0",
        "Streamline (Streamline Emojis); packaged by Iconify",
        "sha512-iNr9T9XuZVTyQPJO8ZlLxBzPkpi7qMl+z1l0C31vpEMqhPMelth3n7CeWQYtixdetDPdI81yeG4ROqjWpYJE6A==",
    ),
    Package(
        "@fontsource/noto-emoji",
        "5.3.2",
        "OFL-1.1",
        "Google Inc (Noto Emoji font); packaged by Fontsource",
        "sha512-N9CSzXJB04AVWYvFbuBgL2Dq964Zo91th/uOu/QLSuWBYuL9FWXGcEo6ZNwc/IJ7vmpm8KHaIKD7jF8pYm4taw==",
    ),
    Package(
        "emojibase-data",
        "17.0.0",
        "MIT",
        "Miles Johnson (Emojibase); names and tags of Unicode CLDR",
        "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    ),
    Package(
        "emojilib",
        "4.0.3",
        "MIT",
        "Mu-An Chiou (emojilib)",
        "sha512-KbWiYre9aRSaPbHrHZIz9zmoM+21LAsK1VFJtnTh1VCtWE/rNMDviGhQTmselFl95dhqtGlY22iH0leG5BuW0g==",
    ),
    Package(
        "unicode-emoji-json",
        "0.9.0",
        "MIT",
        "Mu-An Chiou (unicode-emoji-json)",
        "sha512-HdrQW/7SdbXUsTd8uTATv7LvQJkCSgbAgRCDCtOhQ6xn3EAx+xZHQtRniOXWJK3ywIqPegkNhP4U4EbuFsiQng==",
    ),
)

STYLES: tuple[Style, ...] = (
    Style(
        "noto",
        "@iconify-json/noto",
        "iconify",
        "chars",
        "noto",
        ("noto emoji", "soft shaded emoji", "smooth cartoon emoji"),
    ),
    Style(
        "noto-v1",
        "@iconify-json/noto-v1",
        "iconify",
        "names",
        "noto-v1",
        ("old noto emoji", "blob emoji", "round android icon"),
    ),
    Style(
        "twemoji",
        "@iconify-json/twemoji",
        "iconify",
        "chars",
        "twemoji",
        ("twemoji", "twitter style emoji", "plain flat emoji"),
    ),
    Style(
        "openmoji",
        "openmoji",
        "openmoji",
        "color/svg",
        "openmoji",
        ("openmoji drawing", "outlined colour icon", "colour drawing with black lines"),
    ),
    Style(
        "openmoji-black",
        "openmoji",
        "openmoji",
        "black/svg",
        "openmoji",
        ("black line drawing", "thin outline icon", "black openmoji"),
        True,
    ),
    Style(
        "emojione",
        "@iconify-json/emojione",
        "iconify",
        "names",
        "emojione",
        ("emojione emoji", "bright flat emoji", "simple colour emoji"),
    ),
    Style(
        "emojione-v1",
        "@iconify-json/emojione-v1",
        "iconify",
        "names",
        "emojione-v1",
        ("old emojione emoji", "classic glossy emoji", "early web emoji"),
    ),
    Style(
        "emojione-monotone",
        "@iconify-json/emojione-monotone",
        "iconify",
        "names",
        "emojione",
        ("solid black icon", "monotone emojione icon", "black silhouette emoji"),
        True,
    ),
    Style(
        "fluent-flat",
        "@iconify-json/fluent-emoji-flat",
        "iconify",
        "chars",
        "fluent",
        ("flat fluent emoji", "flat vector emoji", "clean flat icon"),
    ),
    Style(
        "fluent-high-contrast",
        "@iconify-json/fluent-emoji-high-contrast",
        "iconify",
        "chars",
        "fluent",
        ("high contrast emoji", "bold black icon", "fluent high contrast icon"),
        True,
    ),
    Style(
        "fluent-3d", "@lobehub/fluent-emoji-3d", "webp", "assets", "fluent", ("3d emoji", "3d render", "glossy 3d icon")
    ),
    Style(
        "fxemoji",
        "@iconify-json/fxemoji",
        "iconify",
        "names",
        "fxemoji",
        ("fxemoji icon", "firefox emoji", "muted flat emoji"),
    ),
    Style(
        "streamline",
        "@iconify-json/streamline-emojis",
        "iconify",
        "names",
        "streamline",
        ("streamline emoji", "cartoon sticker", "bold outlined sticker"),
    ),
    Style(
        "noto-mono",
        "@fontsource/noto-emoji",
        "font",
        "files/noto-emoji-emoji-400-normal.woff2",
        "noto-mono",
        ("monochrome noto emoji", "line font glyph", "rounded line icon"),
        True,
    ),
)

NAMES = "emojibase-data"
KEYWORDS = "emojilib"
ALIASES = "unicode-emoji-json"
TAGS = "openmoji"

_BY_NAME = {package.name: package for package in PACKAGES}
_BY_STYLE = {style.id: style for style in STYLES}


def package_named(name: str) -> Package:
    """Return the pinned package of an npm name."""
    return _BY_NAME[name]


def choose_styles(ids: list[str] | tuple[str, ...] | None) -> tuple[Style, ...]:
    """Return the styles of these ids in table order; all for None."""
    if ids is None:
        return STYLES
    unknown = sorted(set(ids) - set(_BY_STYLE))
    if unknown or not ids:
        raise ValueError(f"styles {shown(list(ids))}: unknown {unknown}; choose from {', '.join(_BY_STYLE)}")
    return tuple(style for style in STYLES if style.id in ids)
