"""`versatile replay FILE` loads the model that the file names, a hub id too: a picture from elsewhere makes this machine fetch (and load) what its author chose. It should ask for --model for what is not here."""
from lib import *
from versatile_diffusion.records.png import save_png
import versatile_diffusion.pipeline.models as M
rec={'from_pretrained':'attacker/model','model':{'name':'x','fingerprint':'0'},'threads':1,'conditions':[],'seeds':[0]}; save_png(picture(),TMP/'a.png',rec)
asked=TMP/'asked'
def before(): M.snapshot_download=lambda name,**k: (asked.write_text(name),sys.exit(3))
r=cli('replay',TMP/'a.png','--device','cpu',before=before); end(asked.exists() and f'asked the hub for {asked.read_text()!r}')
