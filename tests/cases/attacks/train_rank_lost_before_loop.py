"""A process that dies while the runs are being joined or built: the other one says so in a line, as later on; not a traceback."""
from lib import *
import socket
data(); tiny()
with socket.socket() as s: s.bind(('127.0.0.1',0)); port=s.getsockname()[1]
env={'WORLD_SIZE':'2','LOCAL_WORLD_SIZE':'2','MASTER_ADDR':'127.0.0.1','MASTER_PORT':str(port)}
def dies():
    import versatile_diffusion.recipes.run as R
    real=R.named
    def named(*a):
        build,*_=[real(*a)]
        return lambda *x: os.kill(os.getpid(),9)
    R.named=named
other=train('r',wait=False,before=dies,env={**env,'RANK':'0','LOCAL_RANK':'0'}); r=train('r',env={**env,'RANK':'1','LOCAL_RANK':'1'}); os.waitpid(other,0)
end(r[0]==99 and f'exit by a traceback: {r[2].strip().splitlines()[-1][:150]}', r[0]=='hung' and 'hangs')
