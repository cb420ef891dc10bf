from adjoint import *
