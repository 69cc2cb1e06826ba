import numpy as np, time, onnx, pytest
from onnx_distill.config import *
from onnx_distill import evaluate, runtime, train as T
from onnx_distill.data import ArrayImages
@pytest.mark.parametrize("lr",[1e3,1e10,1e30])
@pytest.mark.parametrize("opt",["adamw","sgd"])
@pytest.mark.parametrize("fl",[0,1])
def test_a(tiny_student, tiny_float, lr, opt, fl):
    rng=np.random.default_rng(0)
    x=rng.normal(size=(64,4,4)).astype(np.float32)
    im=ArrayImages(x, rng.integers(0,3,64))
    log=[]
    s=tiny_float if fl else tiny_student()
    try:
        r=T.train(s,tiny_float,im,lambda m:0.0 if not log else float(len(log)),DistillConfig(),TrainConfig(epochs=3,batch_size=8,learning_rate=lr,optimizer=opt,warmup=0,schedule='constant'),on_step=lambda p:log.append(p.loss))
        import onnx.numpy_helper as nh
        print({t.name:np.isfinite(nh.to_array(t)).all() for t in r.best.student.graph.initializer if t.data_type==1})
    except Exception as e: print(repr(e))
    print(lr,opt,log)
