import sys; sys.path.insert(0,"/work/tmp/lab")
from common import *
lab = Lab(sys.argv[1])
z=np.load(lab.out/"lab_lifts.npz"); theta=z["theta"]
out, answers, v = lab.look(theta, [HARMLESS, SOUNDS_HARMFUL, IN_ATTACK], "s1")
