import sys, pathlib; HERE = pathlib.Path(__file__).resolve().parent; sys.path.insert(0, str(HERE.parent)); from lib import *
# several writers, one --out, who look for the next number at the same moment: all results must be there
import threading, shutil
from versatile_diffusion.cli.io import results
out = HERE / "out"; shutil.rmtree(out, ignore_errors=True); p = pipe(); real = results.next_number
def run(make, write, n=3):
    made = [make(k) for k in range(n)]; bar = threading.Barrier(n); errors, been = [], threading.local()
    def number(*a):
        found = real(*a)
        if not hasattr(been, "once"):
            been.once = True; bar.wait(20)  # all have looked before anybody writes
        return found
    results.next_number = number
    def w(o): errors.append(attempt(lambda: write(results.Place(out, "x"), o, "emoji"))[1])
    ts = [threading.Thread(target=w, args=(o,)) for o in made]; [t.start() for t in ts]; [t.join() for t in ts]; results.next_number = real
    return [e for e in errors if e]
e = run(lambda k: p.text_to_image("a", num_inference_steps=1, seed=k), results.write); n = len(list(out.glob("x-*.png"))); check("3 pictures of 3 writers", not e and n == 3, (n, e[:1]))
e = run(lambda k: p.text_variation("a cat", num_inference_steps=1, seed=k), results.write); n = len(list(out.glob("x-*.txt"))); check("3 texts of 3 writers", not e and n == 3, (n, e[:1]))
end()
