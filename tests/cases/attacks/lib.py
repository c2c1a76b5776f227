"""Shared by the cases. Run a case from the project's root with:  OMP_NUM_THREADS=1 python cases/attacks/NAME.py
Each ends with 0 when the product behaves right and 1 when it is faulty."""
import io, json, os, resource, shutil, signal, struct, subprocess, sys, tempfile, time, traceback
from pathlib import Path
os.environ.setdefault('OMP_NUM_THREADS','1'); os.environ.setdefault('HF_HUB_OFFLINE','1'); ROOT=os.getcwd(); sys.path.insert(0,os.path.join(ROOT,'tests'))
import numpy as np, torch; torch.set_num_threads(1)
from PIL import Image
TMP=Path(tempfile.mkdtemp(prefix='case-')); os.chdir(TMP)
def picture(): return Image.fromarray(np.random.default_rng(0).integers(0,256,(16,16,3),dtype=np.uint8))
def png():
    b=io.BytesIO(); picture().save(b,'PNG'); return b.getvalue()
def folder(name,files):
    (TMP/name).mkdir()
    for f,data in files.items():
        with open(os.path.join(os.fsencode(TMP/name),f if isinstance(f,bytes) else f.encode()),'wb') as o: o.write(png() if data is None else data)
    return TMP/name
_tiny=None
def tiny():
    """The folder of a tiny model of ours."""
    global _tiny
    if _tiny is None:
        from tiny import build_tiny_pipeline
        build_tiny_pipeline().save_pretrained(TMP/'tiny'); _tiny=TMP/'tiny'
    return _tiny
def data(n=24):
    return folder('pics',{**{f'p{k:02d}.png':None for k in range(n)},**{f'p{k:02d}.txt':f'a {["red","green","blue"][k%3]} cat'.encode() for k in range(n)}})
def cli(*args,before=None,limit=120,wait=True,env=None):
    """`versatile ARGS` in a child: (code or -signal, stdout, stderr, GB); code 99 is a traceback."""
    from versatile_diffusion.cli import main
    o,e=tempfile.TemporaryFile(),tempfile.TemporaryFile(); sys.stdout.flush(); pid=os.fork()
    if pid==0:
        try:
            os.dup2(o.fileno(),1); os.dup2(e.fileno(),2)
            sys.stdout=io.TextIOWrapper(os.fdopen(1,'wb',closefd=False),encoding='utf-8',write_through=True); sys.stderr=io.TextIOWrapper(os.fdopen(2,'wb',closefd=False),encoding='utf-8',errors='backslashreplace',write_through=True)
            os.environ.update(env or {})
            if before: before()
            try: c=main([os.fsdecode(a) if isinstance(a,bytes) else str(a) for a in args]) or 0
            except SystemExit as x: c=x.code if isinstance(x.code,int) else 98
            except BaseException: traceback.print_exc(); c=99
            sys.stdout.flush(); sys.stderr.flush(); os._exit(c)
        finally: os._exit(97)
    if not wait: return pid
    t=time.time(); hung=False
    while True:
        q,st,ru=os.wait4(pid,os.WNOHANG)
        if q: break
        if time.time()-t>limit: os.kill(pid,9); hung=True
        time.sleep(.01)
    o.seek(0); e.seek(0); return ('hung' if hung else os.waitstatus_to_exitcode(st)),o.read().decode('utf-8','replace'),e.read().decode('utf-8','replace'),ru.ru_maxrss/2**20
def call(fn,limit=20,cap=6<<30):
    """`fn()` in a child: ('ok'|'refused'|'traceback'|'hang'|'dead', what, seconds, GB)."""
    from versatile_diffusion.cli.io.mistakes import _message
    r,w=os.pipe(); pid=os.fork()
    if pid==0:
        try:
            resource.setrlimit(resource.RLIMIT_AS,(cap,cap))
            try: m=f'ok\0{fn()!r}'[:500]
            except BaseException as e:
                told=_message(e) if isinstance(e,Exception) else None; m=f'refused\0{told}' if told else f'traceback\0{type(e).__name__}: {str(e)[:150]}'
            os.write(w,m.encode('utf-8','backslashreplace')[:4000])
        finally: os._exit(0)
    os.close(w); t=time.time(); hung=False
    while True:
        q,st,ru=os.wait4(pid,os.WNOHANG)
        if q: break
        if time.time()-t>limit: os.kill(pid,9); hung=True
        time.sleep(.005)
    k,_,info=os.read(r,9999).decode('utf-8','replace').partition('\0'); return ('hang' if hung else k or 'dead'),info,round(time.time()-t,1),round(ru.ru_maxrss/2**20,2)
def train(out,*extra,before=None,wait=True,steps=60,cm='0.002',where=None,model=None,env=None):
    return cli('train','--from',model or tiny(),'--data',where or TMP/'pics','--out',out,'--steps',steps,'--batch','4','--device','cpu','--checkpoint-minutes',cm,'--eval-minutes','50','--sample-minutes','50','--timeout','0.5',*extra,before=before,wait=wait,env=env)
def checkpoints(out): return sorted((TMP/out).glob('checkpoints/*.pt'))
def begun(out,n=2,steps=60):
    """A run stopped with SIGTERM after n checkpoints."""
    data() if not (TMP/'pics').exists() else None; tiny()
    pid=train(out,wait=False,steps=steps)
    while len(checkpoints(out))<n: time.sleep(.002)
    time.sleep(.4); os.kill(pid,signal.SIGTERM); os.waitpid(pid,0); return TMP/out
def flip(f): b=bytearray(f.read_bytes()); b[len(b)//2]^=1; f.write_bytes(b)
def end(*faults):
    shutil.rmtree(TMP,ignore_errors=True); faults=[f for f in faults if f]
    print('\n'.join(f'FAULT {f}' for f in faults) or 'right'); sys.exit(bool(faults))
class Studio:
    """A studio of a tiny (or another) model in a process of its own, 127.0.0.1 only."""
    def __init__(s,port=7890,auth=(),model=None):
        s.port=port; m=str(model or tiny()); s.pid=os.fork()
        if s.pid==0:
            try:
                from versatile_diffusion.cli import main
                dn=os.open('/dev/null',os.O_RDWR); os.dup2(dn,1); os.dup2(dn,2)
                main(['ui','--model',m,'--port',str(port),'--device','cpu',*[x for a in auth for x in('--auth',a)]])
            finally: os._exit(0)
        os.environ['UIPORT']=str(port); sys.path.insert(0,str(Path(__file__).resolve().parent)); import ui_lib; s.u=ui_lib; ui_lib.PORT=port; ui_lib.B=f'http://127.0.0.1:{port}'
        for _ in range(600):
            try: ui_lib.req('/theme.css',timeout=1); break
            except Exception: time.sleep(.1)
    def rss(s): return s.u.rss(s.pid)
    def folder(s):
        """Of this studio's uploads and results, and of no other's: an upload tells it."""
        body=b'--X\r\nContent-Disposition: form-data; name="files"; filename="w.png"\r\nContent-Type: image/png\r\n\r\n'+png()+b'\r\n--X--\r\n'
        return Path(tempfile.gettempdir())/json.loads(s.u.req('/gradio_api/upload',body,{'Content-Type':'multipart/form-data; boundary=X'})[1])[0].split('/')[2]
    def close(s,sig=signal.SIGTERM):
        os.kill(s.pid,sig); t=time.time()
        while not os.waitpid(s.pid,os.WNOHANG)[0]:
            if time.time()-t>25: os.kill(s.pid,9)
            time.sleep(.05)
    def t2i(s,session,steps=1,text='a cat',wait=True):
        if not hasattr(s,'m'): s.m=s.u.Map(); s.d=s.m.go('text-to-image'); s.lab=[l[1] for l in s.m.labels(s.d)]
        v=s.m.defaults(s.d); v[0]=text; v[s.lab.index('Batch size')]=1; v[s.lab.index('Steps')]=steps; v[-1]=time.time()*1000
        st,b,_=s.u.join(s.d,v,session)
        return (st,json.dumps(s.u.listen(session,60)) if st==200 else b.decode()) if wait else (st,b)
