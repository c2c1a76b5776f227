"""A file named .png that holds EPS: refused by its kind. Pillow opens any of its formats and starts Ghostscript (here: a stand-in named gs that leaves a mark) on what was uploaded."""
from lib import *
from versatile_diffusion.modalities.image import check_image
from versatile_diffusion.ui.page.uploads import read_picture
mark=TMP/'started'; b=TMP/'bin'; b.mkdir(); (b/'gs').write_text(f'#!/bin/sh\necho "$@" >> {mark}\nexit 0\n'); (b/'gs').chmod(0o755); os.environ['PATH']=f'{b}:{os.environ["PATH"]}'
f=TMP/'cat.png'; f.write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n'); call(lambda: check_image(str(f))); one=mark.exists() and mark.read_text().split('\n')[:2]; mark.unlink(missing_ok=True); call(lambda: read_picture(str(f))); end(one and f'check_image started gs {one}',mark.exists() and "the studio's read_picture started gs")
