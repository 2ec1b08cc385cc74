"""MNIST (LeCun et al. 1998) with LeNet-5, as in mmclassification.

    visloom train mnist --data DIR                    LeNet-5, 5 epochs

DIR holds train-images-idx3-ubyte and its like, gzipped or not. The original published no number for it.
"""

from __future__ import annotations

from visloom.data.mnist import Mnist
from visloom.data.transforms import Resize
from visloom.run import Call, Eval, Optim, Run
from visloom.schedule import Multistep
from visloom.stream import Ordered, Shuffled
from visloom.tasks.classify import Classify, Custom, Normalise
from visloom.units import Epochs, Monitor


def mnist() -> Run:
    """LeNet-5 at 32x32: SGD 0.01, batch 128, at one rate: the original drops it after its last epoch."""
    resize = Resize(size=(32, 32))
    return Run(
        name="mnist",
        task=Classify(
            net=Custom(Call("visloom.nets.lenet:LeNet5")),
            channels=1,
            normalise=Normalise((33.46,), (78.87,)),
            topk=(1, 5),
        ),
        train=Shuffled(source=Mnist(), batch=128, transform=(resize,), tail="keep"),
        evals={
            "test": Eval(
                stream=Ordered(source=Mnist(train=False), batch=250, transform=(resize,)),
                monitor=Monitor("max", "accuracy"),
            )
        },
        length=Epochs(5),
        optim=Optim(name="SGD", lr=0.01, weight_decay=1e-4, options={"momentum": 0.9}),
        schedule=Multistep((Epochs(15),), gamma=0.1),
    )
