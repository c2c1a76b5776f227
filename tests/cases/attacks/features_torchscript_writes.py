"""`versatile evaluate --features FILE` runs a TorchScript file, which may write any file (torch.save is an operator there); neither docs nor help say that it must be trusted."""
from lib import *
from versatile_diffusion.evaluation.networks import _features
mark=TMP/'written'
src=f'''
import torch
class M(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "{mark}")
        return x.flatten(1)[:, :8]
'''
(TMP/'m.py').write_text(src); sys.path.insert(0,str(TMP)); import m; torch.jit.script(m.M()).save(str(TMP/'f.pt')); embed,_=_features(str(TMP/'f.pt'),torch.device('cpu')); embed([picture()]*2)
said=any('trust' in Path(d).read_text().lower() for d in (Path(ROOT)/'docs'/'guides'/'evaluation.md',)); end(mark.exists() and not said and f'it wrote {mark.name}')
