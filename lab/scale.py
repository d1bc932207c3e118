import sys; sys.path.insert(0,"/work/tmp/lab")
from common import *
lab = Lab(sys.argv[1])
theta=np.load(lab.out/"lab_lifts.npz")["theta"]
for s in (.9, .8):
    lab.look(1+s*(theta-1), None, f"s{s}")
