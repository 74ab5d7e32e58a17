"""The IVON inside wrappers, as the libraries build them, without the libraries."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ivon import IVON
from ivon.wrappers import find_ivon, sampled_params


def make(**options):
    return IVON([nn.Parameter(torch.zeros(3))], lr=0.1, ess=10.0, **options)


def wrap(**attributes):
    return SimpleNamespace(**attributes)


class Wrapper:
    """With the methods of an optimizer, as schedule_free's ScheduleFreeWrapper, but not of its class."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def step(self):
        pass

    def zero_grad(self):
        pass


class Slots:
    __slots__ = ("_inner", "other")

    def __init__(self, inner):
        self._inner = inner


def sgd():
    return torch.optim.SGD([nn.Parameter(torch.ones(1))])


IVON_WITHIN = {
    "itself": lambda ivon: ivon,
    "accelerate": lambda ivon: wrap(optimizer=ivon),
    "Lightning, before 2.0": lambda ivon: wrap(_optimizer=ivon),
    "ZeRO": lambda ivon: wrap(optim=ivon),
    "a scheduler": lambda ivon: torch.optim.lr_scheduler.ConstantLR(ivon),
    "three deep": lambda ivon: wrap(optim=wrap(optimizer=wrap(_optimizer=ivon))),
    "no optimizer yet in one place": lambda ivon: wrap(optimizer=None, optim=ivon),
    "schedule_free": lambda ivon: Wrapper(base=ivon),
    "another name, of a wrapper of its own": lambda ivon: Wrapper(inner=Wrapper(_opt=ivon), name="x", lr=0.1),
    "slots": lambda ivon: Slots(ivon),
    "several optimizers in a list": lambda ivon: Wrapper(optimizers=[sgd(), ivon]),
    "several optimizers by name": lambda ivon: Wrapper(optimizers={"head": ivon, "body": sgd()}),
    "beside a configuration": lambda ivon: Wrapper(optimizer="ivon", kind=IVON, made=ivon),
    "beside its scheduler": lambda ivon: Wrapper(
        base=ivon, scheduler=torch.optim.lr_scheduler.ConstantLR(ivon)
    ),
    "a dict of one": lambda ivon: {"main": ivon},
    "a list of one": lambda ivon: [wrap(optimizer=ivon)],
    "a tuple with others": lambda ivon: (torch.optim.SGD([nn.Parameter(torch.ones(1))]), ivon),
    "a list that repeats it": lambda ivon: [ivon, wrap(optimizer=ivon)],
}


@pytest.mark.parametrize("place", IVON_WITHIN)
def test_ivon_is_found(place):
    ivon = make()
    assert find_ivon(IVON_WITHIN[place](ivon)) is ivon


def test_a_wrapper_that_says_it_is_an_ivon_is_not_taken_for_the_one_inside():
    """LightningOptimizer makes itself a subclass of what it wraps, and keeps no state in step with it."""

    class Wrapper:
        def __init__(self, optimizer):
            self.optimizer = optimizer
            self.__class__ = type("WrappedIVON", (Wrapper, IVON), {})

    ivon = make()
    wrapper = Wrapper(ivon)
    assert isinstance(wrapper, IVON)
    assert find_ivon(wrapper) is ivon


def test_without_an_ivon_the_error_says_what_there_is():
    sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))])
    with pytest.raises(TypeError, match=r"wrap one, got SimpleNamespace > SGD$"):
        find_ivon(wrap(optimizer=sgd))
    with pytest.raises(TypeError, match=r"got list > SGD, list > NoneType$"):
        find_ivon([sgd, None])
    with pytest.raises(TypeError, match=r"got list$"):
        find_ivon([])


def test_wrappers_of_each_other_end():
    one, two = wrap(), wrap()
    one.optimizer, two.optimizer = two, one
    with pytest.raises(TypeError, match="SimpleNamespace > SimpleNamespace"):
        find_ivon(one)


def test_of_several_none_is_chosen():
    with pytest.raises(ValueError, match="got 2"):
        find_ivon([make(), make()])


def test_a_wrapper_that_splits_the_parameters_is_refused():
    """As ZeroRedundancyOptimizer does: with draws of its own part only, each rank would see another model."""
    ivon = make()
    both = [*ivon.param_groups[0]["params"], nn.Parameter(torch.zeros(2))]
    with pytest.raises(ValueError, match=r"split its parameters.*SimpleNamespace"):
        find_ivon(wrap(optim=ivon, param_groups=[{"params": both}]))


def test_a_wrapper_of_several_optimizers_has_the_parameters_of_all():
    ivon, other = make(), sgd()
    both = ivon.param_groups + other.param_groups
    assert find_ivon(Wrapper(optimizers=[ivon, other], param_groups=both)) is ivon
    with pytest.raises(ValueError, match="split its parameters"):
        find_ivon(Wrapper(optimizers=[ivon], param_groups=both))


def test_an_ivon_that_knows_another_optimizer_is_no_wrapper_of_it():
    ivon = make()
    ivon.after = sgd()
    assert find_ivon(Wrapper(base=ivon)) is ivon


def test_averaging_around_draws_as_schedule_free_does():
    """Its step moves the parameters to the point z, and back, between the draw and the step inside."""

    class ScheduleFree(Wrapper):
        @torch.no_grad()
        def step(self):
            for p in self.base.param_groups[0]["params"]:
                state = self.base.state[p]
                z = state.setdefault("z", p.clone())
                p.copy_(z)
                self.base.step()
                z.copy_(p)
                p.mul_(0.5)  # some other point

        def zero_grad(self):
            self.base.zero_grad()

    ivon, plain = make(), make()
    wrapper = ScheduleFree(base=ivon)
    for optimizer, step in ((plain, plain.step), (wrapper, wrapper.step)):
        inner = find_ivon(optimizer)
        inner.seed(1)
        for k in range(4):
            with sampled_params(optimizer, train=True):
                inner.param_groups[0]["params"][0].grad = torch.tensor([1.0, -2.0, k])
            step()
    (p,), (q,) = (o.param_groups[0]["params"] for o in (ivon, plain))
    torch.testing.assert_close(ivon.state[p]["z"], q.detach())
    other = make()
    other.load_state_dict(ivon.state_dict())
    (r,) = other.param_groups[0]["params"]
    assert torch.equal(other.state[r]["z"], ivon.state[p]["z"])


@pytest.mark.parametrize("train", [False, True])
def test_sampled_params_is_the_method_of_the_ivon_inside(train):
    draws = []
    for draw in (lambda ivon, **o: ivon.sampled_params(**o), lambda ivon, **o: sampled_params([ivon], **o)):
        ivon = make()
        param = ivon.param_groups[0]["params"][0]
        with draw(ivon, train=train, generator=torch.Generator().manual_seed(2)):
            draws.append(param.detach().clone())
            param.grad = torch.ones(3)
        if train:
            ivon.step()
        draws.append(param.detach().clone())
    assert torch.equal(torch.stack(draws[:2]), torch.stack(draws[2:]))
    assert draws[0].any()
