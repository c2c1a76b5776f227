"""Records of the built-in modalities."""

from __future__ import annotations

from versatile_diffusion.modalities.modality import Late, LateValues, Modality

_HOME = "versatile_diffusion.modalities"
_IMAGE, _TEXT, _AUDIO = f"{_HOME}.image", f"{_HOME}.text", f"{_HOME}.audio"

IMAGE = Modality(
    name="image",
    data_stream=Late(f"{_IMAGE}:image_data_stream"),
    context_stream=Late(f"{_IMAGE}:image_context_stream"),
    check=Late(f"{_IMAGE}:check_image"),
    blanks=LateValues(black=Late(f"{_IMAGE}:black"), grey=Late(f"{_IMAGE}:grey")),
    check_mask=Late(f"{_IMAGE}:check_mask"),
    paste=Late(f"{_IMAGE}:paste"),
    grid=True,
    context_options=frozenset({"mask", "focus"}),
    data_options=frozenset({"height", "width", "start", "fidelity", "repaint"}),
    pair_options=frozenset({"match_colours"}),
    size=("height", "width"),
    square=Late(f"{_IMAGE}:square"),
    crops=Late(f"{_IMAGE}.crops:crops"),
    example="apple.png",
    several="photos/",
    form="painted",
    suffixes=tuple(
        ".png .apng .jpg .jpeg .jpe .jfif .jif .webp .gif .bmp .dib .tif .tiff .avif .avifs .ppm .pgm .pbm .pnm .pfm "  # noqa: SIM905
        ".tga .ico .icns .jp2 .j2k .jpx .heic .heif .jxl .svg .psd .eps .xcf .exr .hdr .pcx .dds .cur "
        ".raw .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf".split()
    ),  # `check` reports unreadable formats, so that none is skipped silently
    from_stream=Late(f"{_IMAGE}:read_stream"),
    write=Late(f"{_IMAGE}:write_png"),
    embeds=True,
    media="image/png",
    draw=Late(f"{_IMAGE}:as_it_is"),
    forms={"np": Late(f"{_IMAGE}:as_array"), "pt": Late(f"{_IMAGE}:as_tensor")},
    parts={
        "AutoKLCodec": f"{_HOME}.image.autokl:AutoKLCodec",
        "LiteVAE": f"{_HOME}.image.lite_vae:LiteVAE",
        "CLIPImageContext": f"{_HOME}.encoders.clip:CLIPImageContext",
        "DualImageEncoder": f"{_HOME}.encoders.dual:DualImageEncoder",
    },
    measures=("recognised", "agreement", "set_distances", "restored"),
)

TEXT = Modality(
    name="text",
    data_stream=Late(f"{_TEXT}:text_data_stream"),
    context_stream=Late(f"{_TEXT}:text_context_stream"),
    check=Late(f"{_TEXT}:check_text"),
    blanks={"empty": ""},
    null="empty",
    context_options=frozenset({"style", "negative_prompt"}),
    data_options=frozenset({"temperature", "top_k", "top_p", "max_length"}),
    decoding=("temperature", "top_k", "top_p", "max_length"),
    guides="Prompt, or a .txt file with one per line",
    metavar="TEXT",
    example='"a red apple"',
    several="- < prompts.txt",
    form="typed",
    suffixes=(".txt",),
    read=Late(f"{_TEXT}:lines_of"),
    from_stream=Late(f"{_TEXT}:read_stream"),
    write=Late(f"{_TEXT}:write_line"),
    together=True,
    plain=True,
    said=Late(f"{_TEXT}:normalise_text"),
    words=Late(f"{_TEXT}:one_line"),
    parts={
        "Optimus": f"{_HOME}.text.optimus:Optimus",
        "CLIPTextContext": f"{_HOME}.encoders.clip:CLIPTextContext",
        "CLIPHiddenTextContext": f"{_HOME}.encoders.clip_hidden:CLIPHiddenTextContext",
        "DualTextEncoder": f"{_HOME}.encoders.dual:DualTextEncoder",
    },
    measures=("recognised", "agreement", "named", "against_references", "variety"),
)

AUDIO = Modality(
    name="audio",
    data_stream=Late(f"{_AUDIO}:audio_data_stream"),
    context_stream=Late(f"{_AUDIO}:audio_context_stream"),
    check=Late(f"{_AUDIO}:check_audio"),
    blanks=LateValues(silence=Late(f"{_AUDIO}:silence")),
    null="silence",
    noun="recording",
    guides="Recording to condition on",
    form="recorded",
    example="hello.wav",
    several="recordings/",
    suffixes=(".wav", ".flac", ".ogg", ".mp3"),
    from_stream=Late(f"{_AUDIO}:read_stream"),
    write=Late(f"{_AUDIO}:write_wav"),
    media="audio/wav",
    model="emoji-speech",
    numbers=Late(f"{_AUDIO}:numbers"),
    draw=Late(f"{_AUDIO}:draw"),
    words=Late(f"{_AUDIO}:words"),
    forms={"np": Late(f"{_AUDIO}:as_array"), "pt": Late(f"{_AUDIO}:as_tensor")},
    parts={
        "AudioVAE": f"{_AUDIO}.vae:AudioVAE",
        "DualAudioEncoder": f"{_AUDIO}.encoder:DualAudioEncoder",
    },
    measures=("recognised", "agreement"),
)
