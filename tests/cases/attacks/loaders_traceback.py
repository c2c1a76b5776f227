"""Damaged or hostile files end in one line at the command line, never in a traceback. One example of each place that the fuzzing found."""
from lib import *
from versatile_diffusion.interop.read.tensors import open_tensors
from versatile_diffusion.cli.io.model import load
from versatile_diffusion.records.embeddings import load_embeddings
from versatile_diffusion.data.encoded import EncodedSet
from safetensors.torch import save_file
DEEP='['*60000+']'*60000; faults=[]
def st(h,body): t=h if isinstance(h,bytes) else json.dumps(h).encode(); return len(t).to_bytes(8,'little')+t+body
def read(f): t=open_tensors(str(f)); return [t[n].shape for n in t]
def check(name,fn):
    r=call(fn)
    if r[0] not in('ok','refused'): faults.append(f'{name}: {r[0]} {r[1][:110]}')
for name,h,b in (('shape of floats',{'a':{'dtype':'F32','shape':[2.0,3.0],'data_offsets':[0,24]}},b'\0'*24),('negative shape',{'a':{'dtype':'F32','shape':[-2,-3],'data_offsets':[0,24]}},b'\0'*24),('huge and zero',{'a':{'dtype':'F32','shape':[2**70,0],'data_offsets':[0,0]}},b''),('deep header',b'{"a":'+DEEP.encode()+b'}',b'')):
    f=TMP/'a.safetensors'; f.write_bytes(st(h,b)); check(f'safetensors, {name}',lambda: read(f))
loop=[]; loop.append(loop)
for name,o in (('a list that holds itself',{'a':loop,'w':torch.ones(1)}),('a sparse tensor',{'a':torch.eye(3).to_sparse()})):
    g=TMP/'a.pth'; torch.save(o,g); check(f'pickle, {name}',lambda: read(g))
torch.save({'a':torch.ones(50)},g,_use_new_zipfile_serialization=False); whole=g.read_bytes()
for n in range(len(whole)-60,len(whole)-195,-9): g.write_bytes(whole[:n]); check(f'old pickle cut to {n}',lambda: read(g))
torch.save({'a':torch.ones(50)},g); b=bytearray(g.read_bytes()); k=b.rfind(b'PK\x05\x06'); b[k+4:k+6]=b'\1\0'; g.write_bytes(b); check('zip of several disks',lambda: read(g))
s=TMP/'sh'; s.mkdir(); i=s/'model.safetensors.index.json'; i.write_text('{"weight_map":{"a":"model.safetensors.index.json"}}'); check('index that names itself',lambda: read(i)); i.write_text('{"weight_map":'+DEEP+'}'); check('deep index',lambda: read(i))
T=tiny()
def model(name,file,change):
    m=TMP/'m'; shutil.rmtree(m,ignore_errors=True); shutil.copytree(T,m); f=m/file; f.write_bytes(change(f.read_bytes())); check(f'model folder, {name}',lambda: load(str(m)) and None)
for name,file,ch in (('tokenizer.json cut short','bank/encoder-text/tokenizer.json',lambda b:b[:3000]),('bank.json without parts','bank/bank.json',lambda b:b'{}'),('bank.json a list','bank/bank.json',lambda b:b'[]'),('config.json: width is a text','bank/encoder-text/config.json',lambda b:b.replace(b'"width": ',b'"width": "x", "was": ')),('unet config deep','unet/config.json',lambda b:DEEP.encode()),('unet config: streams a number','unet/config.json',lambda b:json.dumps({**json.loads(b),'data_streams':5}).encode()),('model_index defaults a number','model_index.json',lambda b:json.dumps({**json.loads(b),'defaults':5}).encode()),('scheduler: negative steps','scheduler/scheduler_config.json',lambda b:json.dumps({**json.loads(b),'num_train_timesteps':'x'}).encode())): model(name,file,ch)
import tiny_official
o=TMP/'off'; o.mkdir(); tiny_official.write_official(o); (o/'vd-config.json').write_text(json.dumps(tiny_official.CONFIG))
for file in ('gpt2-merges.txt','gpt2-vocab.json','clip-vit-large-patch14/vocab.json','clip-vit-large-patch14/config.json','vd-config.json'):
    was=(o/file).read_bytes(); (o/file).write_bytes(was[:len(was)//2]); check(f'official files, {file} cut short',lambda: load(str(o)) and None); (o/file).write_bytes(was)
rec={'schema':1,'kind':'context','modality':'text','shape':[2,3,192],'names':['a','b'],'encoder':None,'normalisation':'encoder','preprocessing':None,'libraries':{}}
for name,k in (('names 5',{'names':5}),('libraries a list',{'libraries':[1]}),('library version a number',{'libraries':{'torch':3}}),('encoder a list',{'encoder':['x']}),('kind an object',{'kind':{}})):
    f=TMP/'e.safetensors'; save_file({'context':torch.zeros(2,3,192)},f,metadata={'versatile_diffusion':json.dumps({**rec,**k})}); check(f'embeddings, {name}',lambda: load_embeddings(f) and None)
f=TMP/'e.safetensors'; save_file({'context':torch.tensor(1.)},f,metadata={'versatile_diffusion':json.dumps({**rec,'shape':[],'names':[]})}); check('embeddings, a scalar',lambda: load_embeddings(f) and None)
d=TMP/'enc'; d.mkdir()
for name,t in (('a number','5'),('no "finished"','{}'),('deep',DEEP)): (d/'encoded.json').write_text(t); check(f'encoded.json, {name}',lambda: EncodedSet.open(d) and None)
end(*faults)
