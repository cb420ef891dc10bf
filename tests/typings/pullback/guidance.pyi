from guidance import *
