"""Escape sequences of file names, keys of data sets, model folders and records of pictures are not sent to the terminal."""
from lib import *
EV='\x1b]0;owned\x07\x1b[31mX'; d=folder('d',{f'{EV}.png':None,'b.png':None}); C=['--model',tiny(),'--device','cpu','--steps','1']; faults=[]
def check(name,r):
    if '\x1b' in r[1]+r[2]: faults.append(name)
check('file names on stdout (image-to-text FOLDER)',cli('image-to-text',d,*C)); check('a file name in an error',cli('image-to-text',d/'no\x1b[31m.png',*C))
e=folder('e',{'metadata.jsonl':''.join(json.dumps({'file_name':f'{EV}{k}.png','text':'a'})+'\n' for k in range(30)).encode()}); check('keys of a data set',cli('data','encode',e,'--model',tiny(),'--out',TMP/'x','--device','cpu'))
m=TMP/'m'; shutil.copytree(tiny(),m); j=json.loads((m/'model_index.json').read_text()); j['styles']={EV:'x'}; (m/'model_index.json').write_text(json.dumps(j)); check('styles of a model folder (describe)',cli('describe','--model',m))
from versatile_diffusion.records.png import read_record,save_png
cli('text-to-image','a cat','--out',TMP/'o',*C); f=next((TMP/'o').glob('*.png')); rec=read_record(Image.open(f)); rec.pop('schema'); save_png(picture(),TMP/'r.png',{**rec,'library':EV}); check('the record of a picture (replay)',cli('replay',TMP/'r.png','--device','cpu'))
end(*faults)
