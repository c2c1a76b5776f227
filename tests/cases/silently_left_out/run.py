import sys, pathlib; HERE = pathlib.Path(__file__).resolve().parent; sys.path.insert(0, str(HERE.parent)); from lib import *; IN = HERE / "input"; IN.mkdir(exist_ok=True)
# files of a folder that are neither read nor counted
from PIL import Image
import os, shutil, unicodedata, tarfile
from versatile_diffusion.data.sources import open_source, Report
from versatile_diffusion.cli.io.inputs import files_in
shutil.rmtree(IN); IN.mkdir()
def folder(n): d = IN / n; d.mkdir(); Image.new("RGB", (16, 16), "red").save(d / "ok.png"); (d / "ok.txt").write_text("ok"); return d
def seen(d): r = Report(); n = len([*open_source(d).read(report=r)]); return n, r.bad.total()
for e, f in ((".jfif", "JPEG"), (".avif", "AVIF"), (".jpe", "JPEG"), (".ppm", "PPM")):
    d = folder(e[1:]); Image.new("RGB", (16, 16), "red").save(d / f"x{e}", f); (d / "x.txt").write_text("x")
    check(f"train: {e} read or counted", sum(seen(d)) == 2, seen(d)); check(f"commands: {e} in a folder", len(list(files_in(d, "image"))) == 2, len(list(files_in(d, "image"))))
far = folder("far"); d = folder("linked"); os.symlink(far, d / "sub")
check("train: symlinked subfolder", sum(seen(d)) == 2, seen(d)); check("commands: symlinked subfolder", len(list(files_in(d, "image"))) == 2, len(list(files_in(d, "image"))))
d = folder("upper"); Image.new("RGB", (16, 16), "red").save(d / "A.PNG"); (d / "A.TXT").write_text("a"); check("caption in A.TXT", seen(d)[0] == 2, seen(d))
d = folder("nfd"); (d / unicodedata.normalize("NFD", "\u00e9.png")).write_bytes((d / "ok.png").read_bytes()); (d / unicodedata.normalize("NFC", "\u00e9.txt")).write_text("a"); check("NFD picture, NFC caption", seen(d)[0] == 2, seen(d))
d = folder("tar"); Image.new("RGB", (16, 16), "red").save(d / "b.png"); (d / "b.txt").write_text("b")
with tarfile.open(d / "backup.tar.gz", "w:gz") as t: t.add(d / "ok.png", "ok.png"); t.add(d / "ok.txt", "ok.txt")
check("a stray archive does not hide the pictures (or it is told)", sum(seen(d)) >= 2, seen(d))
end()
